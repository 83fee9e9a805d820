"""Beginning a job and taking one over (rules 1, 3 and 8).

Not here: whether one should (is the owner dead? that is liveness, the supervisor's). The rule it
owns: a successor first makes the epoch before it immovable with a SEAL at its first free place, has
walked over everything below that SEAL, and only then races for the next OPEN; whoever's OPEN stands
owns the epoch, everybody else is Fenced.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from typing import Literal

from ..errors import CheckpointDamaged, CheckpointFormat, Fenced, StorageError, UsageError
from .files import let_go
from .frames import NO_PREDECESSOR, SEAL, CheckpointFile, Frame
from .layout import EPOCHS, FORMAT, FORMAT_FILE, SMALL_FILE_BYTES_MAX, TMP, commit_name, epoch_name
from .log import NewDirs, Tenure, Writer, put_open
from .place import Place
from .put import blocked, outcome_unknown
from .reader import LogReader
from .replay import JobLog

_log = logging.getLogger(__name__)

_FORMAT_DOCUMENT = {"format": FORMAT, "min_reader": FORMAT, "features": []}
_FORMAT_BYTES = json.dumps(_FORMAT_DOCUMENT).encode("ascii")


def create(place: Place, writer: Writer, flow_doc: bytes | None, data: Sequence[Frame] = ()) -> Tenure:
    """A new job: format.json, the OPEN of epoch 1, flow.json (unless its writer sees to that), in that order.

    What a creator that died before its OPEN left behind is a job that never began, and is taken. `data`: the job's
    first records, which stand with the OPEN or not at all (the first of them at `FIRST_RECORD`).

    Raises:
        UsageError: a job of this id exists.
    """
    with blocked(place.path):
        root = place.root.handle()
        place.root.handle(TMP)
        is_new = place.fs.make_dir(place.job_id, root)
    if not is_new and LogReader(place).file(1, 1) is not None:
        raise _exists(place)
    job, epochs, at = _make_dirs_early(place)
    is_ours = False
    try:
        if not place.root.lend_format(job):
            _put_format(place, job)
        digest = put_open(place, writer, 1, 0, NO_PREDECESSOR, NewDirs((job, epochs, root), at), data)
        if digest is None:
            raise _exists(place)
        is_ours = True
    finally:
        for handle in (epochs, job) if is_ours else (at, epochs, job):
            let_go(place.fs, handle)
    tenure = Tenure(place, writer, epoch=1, digest=digest, made=(1, sum(map(len, data))), at=at)
    if flow_doc is not None:
        try:
            tenure.write_flow_view(flow_doc)
        except StorageError:
            tenure.close()
            raise
    return tenure


def _make_dirs_early(place: Place) -> tuple[int, int, int]:
    """The open directories of a job that begins: its own, `epochs`, and that of the first epoch.

    All are made before the first fsync, which brings them to the disk as well; `put_open` makes sure of each, and
    a journaling file system has little left to do for it.
    """
    made: list[int] = []
    with blocked(place.where(EPOCHS)):
        try:
            made.append(place.open_plainly())
            for name in (EPOCHS, epoch_name(1)):
                place.fs.make_dir(name, made[-1])
                made.append(place.fs.open_dir(name, made[-1]))
        except OSError:
            for handle in made:
                let_go(place.fs, handle)
            raise
    job, epochs, at = made
    return job, epochs, at


def take_over(
    place: Place, writer: Writer, log: JobLog, reason: Literal["takeover", "handover"]
) -> tuple[JobLog, Tenure]:
    """Own the job from where `log` ends, or from where its owner got to meanwhile.

    Raises:
        Fenced: another owner opened an epoch since `log` was read, or wins the race now.
        CheckpointFormat: a newer version wrote here.
    """
    refuse_unknown(place, log.unknown_format)
    if log.epoch == 0:
        put_format(place)
    else:
        walk = log.continued()
        if any(file.header.epoch > log.epoch for file in walk.files):
            raise _lost(place, log.epoch + 1)
        log = log.extended(walk.files)
        refuse_unknown(place, log.unknown_format)
        log = _sealed(place, writer, log, reason)
    epoch = log.epoch + 1
    digest = put_open(place, writer, epoch, log.commit, log.digest)
    if digest is None:
        raise _lost(place, epoch)
    tenure = Tenure(place, writer, epoch=epoch, digest=digest, made=(log.file_count + 1, log.size_bytes))
    tenure.inherit(log.released_blobs)
    return log, tenure


def _sealed(place: Place, writer: Writer, log: JobLog, reason: Literal["takeover", "handover"]) -> JobLog:
    """The log with a SEAL at its end: ours, or anybody's."""
    reader = LogReader(place)
    more: list[CheckpointFile] = []
    is_sealed, number, digest = log.is_sealed, log.commit, log.digest
    if is_sealed:
        return log
    folder = (EPOCHS, epoch_name(log.epoch))
    with blocked(place.where(*folder)):
        tmp = place.root.handle(TMP)
        at = place.open_plainly(*folder)
    try:
        while not is_sealed:
            number += 1
            name = commit_name(number)
            raw, _ = writer.seal_file(log.epoch, number, digest, reason)
            place.root.putter.put(tmp, at, name, (raw,), where=place.where(*folder, name))
            # Ours or another's: read what stands there. It is what everybody else will read.
            with outcome_unknown(place.where(*folder, name)):
                file = place.root.putter.read_standing(at, partial(reader.standing, log.epoch, number, digest))
            more.append(file)
            is_sealed, digest = file.header.kind == SEAL, file.digest
    finally:
        let_go(place.fs, at)
    return log.extended(more)


def put_format(place: Place) -> None:
    """format.json of a job whose directory is there already.

    Its name is durable when `put_open`, which must follow, has made sure of the job's directory.
    """
    with blocked(place.where(FORMAT_FILE)):
        job = place.open_plainly()
    try:
        _put_format(place, job)
        # After the file: on a journaling file system its fsync has done this as well.
        with outcome_unknown(place.path):
            place.fs.fsync(place.root.handle())
    finally:
        let_go(place.fs, job)


def _put_format(place: Place, job: int) -> None:
    """Once per job, the same bytes from whoever comes first; the directory `job` is not synced."""
    where = place.where(FORMAT_FILE)
    with blocked(where):
        tmp = place.root.handle(TMP)
    if place.root.putter.put(tmp, job, FORMAT_FILE, (_FORMAT_BYTES,), where=where, is_synced=False):
        place.root.borrow_format(place.job_id)
    else:
        refuse_unknown(place, read_format(place))


def read_format(place: Place) -> str | None:
    """Why this version must not own the job; None when it may.

    Raises:
        CheckpointDamaged: format.json is missing or is not what any version writes.
    """
    where = place.where(FORMAT_FILE)
    try:
        with place.dir() as job:
            raw = place.read(job, FORMAT_FILE, SMALL_FILE_BYTES_MAX)
    except FileNotFoundError:
        raise CheckpointDamaged(f"{where} is missing, so the directory is incomplete; nothing was changed") from None
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise CheckpointDamaged(f"{where} is damaged: it is not JSON") from None
    match document:
        case {"format": int(form), "min_reader": int(oldest), "features": list(features)} if 1 <= oldest <= form:
            # Its spelling is fixed, so that a changed byte shows.
            if json.dumps(document).encode("ascii") != raw:
                raise CheckpointDamaged(f"{where} is damaged: it is not spelled as it was written")
        case _:
            raise CheckpointDamaged(f"{where} is damaged: format, min_reader or features are missing or impossible")
    if oldest > FORMAT or form > FORMAT or features:
        return f"it was written in format {form} (features: {features}); this version writes format {FORMAT}"
    if document != _FORMAT_DOCUMENT:
        return "format.json has keys that this version does not know"
    return None


def refuse_unknown(place: Place, reason: str | None) -> None:
    """Refuse to own what this version does not fully understand (rule 8)."""
    if reason is not None:
        raise CheckpointFormat(
            f"{place.path} must not be changed by this version: {reason}. It can be read; "
            f"use a newer routilux_mp to go on with it"
        )


def _exists(place: Place) -> UsageError:
    return UsageError(f"job '{place.job_id}' exists already in {place.root.path}: resume it, or choose another id")


def _lost(place: Place, epoch: int) -> Fenced:
    return Fenced(f"job '{place.job_id}': another owner opened epoch {epoch} first")
