"""A damaged log cut back to its longest whole beginning, after a copy of everything was kept.

Not here: whether anybody still writes there (the caller has made sure that nobody does), and what the records
mean. The rule it owns: nothing is removed before a copy of it stands under another name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import NamedTuple

from ..errors import CheckpointDamaged, StorageError
from . import snapshots, takeover
from .files import let_go
from .frames import SEAL, CheckpointFile
from .layout import ARCHIVE, EPOCHS, FORMAT_FILE, SNAPSHOTS, TMP, commit_name, epoch_name, parse_commit, parse_epoch
from .owner import OwnerInfo
from .place import Place
from .reader import LogReader, document_of, is_end_of

#: Below the root, beside the jobs: a name that no job can have.
COPIES = ".damaged"


class Reach(NamedTuple):
    """How far a log is whole: its last good commit file. (0, 0): not at all."""

    epoch: int
    number: int


def reach_of(place: Place) -> Reach:
    """The end of the longest beginning that can be read, from whichever snapshot it starts."""
    reader = LogReader(place)
    found = _walk(reader, 1, None)
    for epoch in snapshots.listed(place):
        try:
            snapshot = snapshots.read(place, epoch)
        except (FileNotFoundError, CheckpointDamaged):
            continue
        found = max(found, _walk(reader, epoch, snapshot.open_digest))
    return found


def owners_of(place: Place) -> list[OwnerInfo]:
    """Who opened the newest epochs, as far as that can be read."""
    found, reader = [], LogReader(place)
    for epoch in sorted(filter(None, map(parse_epoch, place.names(EPOCHS))), reverse=True)[:2]:
        with contextlib.suppress(CheckpointDamaged):
            opened = reader.file(epoch, 1)
            if opened is not None:
                found.append(OwnerInfo.from_document(document_of(opened)))
    return found


def beyond(place: Place, reach: Reach) -> list[tuple[str, ...]]:
    """Files of the log that lie after ``reach``, the newest first."""
    found: list[tuple[str, ...]] = []
    for epoch in sorted(filter(None, map(parse_epoch, place.names(EPOCHS))), reverse=True):
        first = reach.number + 1 if epoch == reach.epoch else 1
        if epoch >= reach.epoch:
            numbers = filter(None, map(parse_commit, place.names(EPOCHS, epoch_name(epoch))))
            found += [(EPOCHS, epoch_name(epoch), commit_name(n)) for n in sorted(numbers, reverse=True) if n >= first]
    for folder, last in ((SNAPSHOTS, reach.epoch), (ARCHIVE, reach.epoch - 1)):
        epochs = filter(None, map(parse_epoch, place.names(folder)))
        found += [(folder, epoch_name(epoch)) for epoch in sorted(epochs, reverse=True) if epoch > last]
    return found


def copy(place: Place, stamp: str) -> str:
    """Keep the job's directory as it is, below ``.damaged``; returns where.

    Files of a log never change, so a second name of each is a copy for as long as nobody writes into it.

    Raises:
        StorageError: it could not be copied; nothing was changed.
    """
    target = f"{place.root.path}/{COPIES}/{place.job_id}-{stamp}"
    try:
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        shutil.copytree(place.path, target, symlinks=True, copy_function=_link_or_copy)
    except (OSError, shutil.Error) as error:
        raise StorageError(f"{place.path} could not be copied to {target}: {error}; nothing was changed") from error
    return target


def cut(place: Place, reach: Reach) -> None:
    """Remove what lies after ``reach``, and write format.json anew if that is damaged. Can be done again."""
    try:
        takeover.refuse_unknown(place, takeover.read_format(place))
    except CheckpointDamaged:
        with place.dir() as at, contextlib.suppress(FileNotFoundError):
            place.fs.unlink(FORMAT_FILE, at)
        takeover.put_format(place)
    _unpack(place, reach)
    for *folders, name in beyond(place, reach):
        with place.dir(*folders) as at, contextlib.suppress(FileNotFoundError):
            place.fs.unlink(name, at)
    for folder in (EPOCHS, SNAPSHOTS, ARCHIVE):
        with contextlib.suppress(FileNotFoundError), place.dir(folder) as at:
            place.fs.fsync(at)


def _unpack(place: Place, reach: Reach) -> None:
    """The files of the last epoch that is kept, back from its archive, which goes: the epoch is not ended any more."""
    reader = LogReader(place)
    missing = [number for number in range(1, reach.number + 1) if not _is_whole(reader, reach.epoch, number)]
    if not missing:
        return
    archive = reader.archive(reach.epoch)
    folder = (EPOCHS, epoch_name(reach.epoch))
    tmp = place.root.handle(TMP)
    with place.dir() as job:
        at = place.root.putter.make_dirs(job, folder, where=place.path)
    try:
        for number in missing:
            name = commit_name(number)
            with contextlib.suppress(FileNotFoundError):
                place.fs.unlink(name, at)  # damaged, or a late SEAL in a dead epoch
            place.root.putter.put(tmp, at, name, (archive.raw(number),), where=place.where(*folder, name))
    finally:
        let_go(place.fs, at)


def _is_whole(reader: LogReader, epoch: int, number: int) -> bool:
    """Whether the directory has the file that belongs there."""
    try:
        file = reader.file(epoch, number)
    except CheckpointDamaged:
        return False
    if file is None:
        return False
    try:
        return file.digest == reader.archive(epoch).file(number).digest
    except (FileNotFoundError, CheckpointDamaged):
        return True  # there is no other


def _walk(reader: LogReader, epoch: int, open_digest: bytes | None) -> Reach:
    """How far one gets from the start of ``epoch``; ``open_digest``: what its OPEN must be."""
    reach = Reach(0, 0)
    last: CheckpointFile | None = None
    while True:
        ends = _from_archive(reader, epoch) or _from_directory(reader, epoch)
        if ends is None or open_digest not in (None, ends[0].digest):
            return reach
        if last is not None and not is_end_of(last, ends[0]):
            return reach
        last, open_digest = ends[1], None
        reach = Reach(epoch, last.header.number)
        if last.header.kind != SEAL:
            return reach
        epoch += 1


def _from_archive(reader: LogReader, epoch: int) -> tuple[CheckpointFile, CheckpointFile] | None:
    """OPEN and SEAL of an archived epoch; None when the archive is not whole."""
    first = last = None
    try:
        for last in reader.archive(epoch).files():
            first = first or last
    except (FileNotFoundError, CheckpointDamaged):
        return None
    return None if first is None or last is None else (first, last)


def _from_directory(reader: LogReader, epoch: int) -> tuple[CheckpointFile, CheckpointFile] | None:
    """OPEN and last whole file of an epoch; None when not even the OPEN is."""
    first = last = None
    while last is None or last.header.kind != SEAL:
        try:
            file = reader.file(epoch, 1 if last is None else last.header.number + 1)
        except CheckpointDamaged:
            break
        if file is None or (last is not None and file.header.predecessor != last.digest):
            break
        first, last = first or file, file
    return None if first is None or last is None else (first, last)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target
