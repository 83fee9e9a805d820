"""What replay starts from: the newest usable snapshot and everything committed after it.

Nothing here writes, and nothing here knows what the frames mean. The rule it owns (7): a damaged
snapshot falls back to the next older one, and the log must reach as far as the newest snapshot and
the newest archive show that it went; otherwise the job is CheckpointDamaged.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator

from ..errors import CheckpointDamaged, StorageError
from . import snapshots
from .frames import COMMIT, NO_PREDECESSOR, OPEN, SEAL, CheckpointFile
from .layout import ARCHIVE, EPOCHS, SNAPSHOTS, epoch_name, parse_epoch
from .owner import OwnerInfo
from .place import Place
from .put import LOOK_AGAIN_S
from .reader import LogReader, LogRef, Walk, document_of, records_in

__all__ = ["JobLog", "LogRef", "read_job"]

_log = logging.getLogger(__name__)
_LOOKS = 8


class JobLog:
    """An immutable reading of a job: a snapshot, if there is one, and everything committed after it."""

    def __init__(self, reader: LogReader, snapshot: snapshots.Snapshot | None, walk: Walk, seconds: float) -> None:
        self._reader = reader
        self._walk = walk
        self.job_id = reader.place.job_id
        #: The folded state to start from; None: start from nothing.
        self.snapshot = snapshot.state if snapshot is not None else None
        self.released_blobs: tuple[tuple[int, str], ...] = snapshot.released if snapshot is not None else ()
        last = walk.last
        #: Where the log ends: epoch and number of its last commit file. (0, 0): nothing was ever written.
        self.epoch, self.commit = (last.header.epoch, last.header.number) if last is not None else (0, 0)
        self.is_sealed = last is not None and last.header.kind == SEAL
        #: "roll", "handover", "takeover" or "ended"; None while the newest epoch is open.
        self.seal_reason = str(document_of(last).get("reason", "")) if last is not None and self.is_sealed else None
        opened = next((file for file in reversed(walk.files) if file.header.kind == OPEN), None)
        #: Who opened the newest epoch; None when nobody ever did.
        self.owner = OwnerInfo.from_document(document_of(opened)) if opened is not None else None
        #: Why this version must not own the job; None when it may.
        self.unknown_format: str | None = None
        for file in walk.files:
            if file.header.kind not in (OPEN, COMMIT, SEAL):
                self.unknown_format = (
                    f"commit file {file.header.number} of epoch {file.header.epoch} is of unknown kind"
                )
        self.digest = last.digest if last is not None else NO_PREDECESSOR
        #: What replay has to read, and how long reading it took.
        self.file_count = len(walk.files)
        self.size_bytes = walk.size_bytes + len(self.snapshot or b"")
        self.read_s = seconds

    def frames(self) -> Iterator[tuple[LogRef, bytes]]:
        """Everything after the snapshot, in order."""
        return _frames(iter(self._walk.files))

    def history(self) -> Iterator[tuple[LogRef, bytes]]:
        """Everything since the job began, in order, read from the archives as it is asked for."""
        first = self._walk.files[0].header.epoch if self._walk.files else 1
        for epoch in range(1, first):
            yield from _frames(self._reader.epoch_files(epoch))
        yield from self.frames()

    def backwards(self, bytes_max: int | None = None) -> Iterator[list[tuple[LogRef, bytes]]]:
        """The same, epoch by epoch, the newest first; no more than ``bytes_max``, nor anything before that."""
        first = self._walk.files[0].header.epoch if self._walk.files else 1
        left = sys.maxsize if bytes_max is None else bytes_max
        for epoch in range(self.epoch, 0, -1):
            files = (
                (file for file in self._walk.files if file.header.epoch == epoch)
                if epoch >= first
                else self._reader.epoch_files(epoch)
            )
            newest: deque[tuple[LogRef, bytes]] = deque()
            held, is_cut = 0, False
            for ref, data in _frames(iter(files)):
                newest.append((ref, data))
                held += len(data)
                while held > left:
                    held -= len(newest.popleft()[1])
                    is_cut = True
            left -= held
            yield list(newest)
            if is_cut:
                return

    def read(self, ref: LogRef) -> bytes:
        """The bytes of one frame."""
        return self._reader.frame(ref)

    def first(self) -> bytes:
        """The bytes of the first record of the job."""
        return self._reader.first()

    def continued(self) -> Walk:
        """What was written since this reading."""
        if self.epoch == 0:
            return self._reader.walk(1)
        if self.is_sealed:
            return self._reader.walk(self.epoch + 1, 1, self.digest)
        return self._reader.walk(self.epoch, self.commit + 1, self.digest)

    def after(self) -> JobLog:
        """A reading of what was written since this one, alone; with this one's end if that is nothing."""
        files = self.continued().files
        if files:
            return JobLog(self._reader, None, Walk(files), 0.0)
        nothing = JobLog(self._reader, None, Walk([]), 0.0)
        nothing.epoch, nothing.commit, nothing.digest = self.epoch, self.commit, self.digest
        nothing.is_sealed, nothing.seal_reason = self.is_sealed, self.seal_reason
        return nothing

    def extended(self, files: list[CheckpointFile]) -> JobLog:
        """This reading and what came after it."""
        if not files:
            return self
        longer = JobLog(self._reader, None, Walk(self._walk.files + files), self.read_s)
        longer.snapshot, longer.released_blobs = self.snapshot, self.released_blobs
        longer.size_bytes += len(self.snapshot or b"")
        return longer


def read_job(place: Place, clock: Callable[[], float]) -> JobLog:
    """The newest usable snapshot and everything after it (rule 7).

    Raises:
        CheckpointDamaged: the log cannot be read as far as a snapshot or an archive shows that it went.
    """
    for wait_s in LOOK_AGAIN_S[:_LOOKS]:
        log = _read_once(place, clock)
        # A snapshot of an epoch, and an archive of the one before, are put only after its OPEN.
        reached = max(_newest(place, SNAPSHOTS), _newest(place, ARCHIVE) + 1)
        if log.epoch >= reached or reached == 1:
            return log
        place.look_again(wait_s, EPOCHS, epoch_name(log.epoch + 1))
    raise CheckpointDamaged(
        f"{place.where(EPOCHS)} is incomplete: the job reached epoch {reached}, its commit files only reach epoch "
        f"{log.epoch}. Copy the whole directory; nothing was changed"
    )


def _newest(place: Place, folder: str) -> int:
    return max((epoch for epoch in map(parse_epoch, place.names(folder)) if epoch is not None), default=0)


def _read_once(place: Place, clock: Callable[[], float]) -> JobLog:
    reader = LogReader(place)
    started = clock()
    for epoch in snapshots.listed(place):
        try:
            snapshot = snapshots.read(place, epoch)
        except FileNotFoundError:
            continue  # collected meanwhile: there are newer ones
        except StorageError as error:
            _log.warning("snapshot not usable, trying an older one", extra={"job": place.job_id, "error": str(error)})
            continue
        walk = reader.walk(epoch)
        if walk.files and walk.files[0].digest == snapshot.open_digest:
            return JobLog(reader, snapshot, walk, clock() - started)
        _log.warning("snapshot of another history, trying an older one", extra={"job": place.job_id, "epoch": epoch})
    return JobLog(reader, None, reader.walk(1, 1, NO_PREDECESSOR), clock() - started)


def _frames(files: Iterator[CheckpointFile]) -> Iterator[tuple[LogRef, bytes]]:
    for file in files:
        for index in records_in(file):
            yield LogRef(file.header.epoch, file.header.number, index), file.frames[index]
