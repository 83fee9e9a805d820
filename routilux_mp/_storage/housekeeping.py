"""After a roll: put the snapshot, archive ended epochs, delete what is not needed any more (rule 5).

It runs beside the commits, in another thread, and touches ended epochs only. The rules it owns:
COMMIT files of an epoch go only when the next OPEN stands, two newer snapshots are durable and
usable, and a complete archive is durable; OPEN and SEAL stay for the life of the job; the newest
two snapshots stay; a blob goes only when it was released and both kept snapshots are newer than that,
or when nobody can ever name it (`leftovers`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count

from ..errors import CheckpointDamaged, OutcomeUnknown, StorageError
from . import archive, frames, leftovers, snapshots
from .files import let_go
from .frames import SEAL, CheckpointFile
from .layout import (
    ARCHIVE,
    BLOBS,
    COMMIT_FILE_BYTES_MAX,
    EPOCHS,
    SNAPSHOTS,
    TMP,
    check_blob_name,
    commit_name,
    epoch_name,
    parse_commit,
    parse_epoch,
)
from .place import Place
from .put import outcome_unknown
from .reader import LogReader, LogRef, is_end_of

_log = logging.getLogger(__name__)


class Housekeeper:
    """Keeps one job's directory small, as far as the rules allow."""

    def __init__(self, place: Place, owner: bytes, nonce: Callable[[], bytes]) -> None:
        self._place = place
        self._owner = owner
        self._nonce = nonce
        self._lock = threading.Lock()
        self._running = threading.Lock()
        self._epoch = 0
        self._pending: tuple[int, bytes] | None = None
        self._released: list[tuple[int, str]] = []
        # What was checked once is not checked again: all of it is immutable.
        self._usable: set[int] = set()
        self._collected: set[int] = set()
        self._distrusts_disk = False

    def epoch_began(self, epoch: int, open_digest: bytes, snapshot: bytes | None = None) -> None:
        """Our OPEN of `epoch` stands; `snapshot` is the state at its start."""
        with self._lock:
            self._epoch = epoch
            if snapshot is not None:
                raw = snapshots.encode(
                    epoch, snapshot, self._released, owner=self._owner, nonce=self._nonce(), open_digest=open_digest
                )
                self._pending = (epoch, raw)

    def release(self, blobs: Iterable[tuple[int, str]]) -> None:
        """Blobs that no state from now on names, each with the epoch in which that became true."""
        with self._lock:
            self._released.extend(blobs)

    def run(self) -> None:
        """One round. Trouble is logged and met again in the next round."""
        with self._running:
            if self._distrusts_disk:
                return
            try:
                self._put_snapshot()
                self._archive()
                self._collect()
            except OutcomeUnknown as error:
                # After a failed fsync a later one may report success for what is lost: delete nothing any more.
                self._distrusts_disk = True
                _log.error("housekeeping given up", extra={"job": self._place.job_id, "error": str(error)})
            except (StorageError, OSError) as error:
                _log.warning("housekeeping put off", extra={"job": self._place.job_id, "error": str(error)})

    def sweep(
        self, sweep: leftovers.Sweep, named: Callable[[LogRef, bytes], None], is_over: Callable[[], bool]
    ) -> None:
        """Delete blobs that nobody will ever name. Trouble is logged; the next owner meets them again."""
        with self._running:
            if self._distrusts_disk:
                return
            with self._lock:
                released = {name for _, name in self._released}
            try:
                for name in leftovers.find(self._place, sweep, released, named, is_over):
                    folder, _, file = name.partition("/")
                    self._unlink(file, BLOBS, folder)
            except (StorageError, OSError) as error:
                _log.warning("leftover blobs kept", extra={"job": self._place.job_id, "error": str(error)})

    def _put_snapshot(self) -> None:
        with self._lock:
            pending = self._pending
        if pending is None:
            return
        epoch, raw = pending
        self._put(SNAPSHOTS, epoch_name(epoch), raw)
        with self._lock:
            if self._pending is pending:
                self._pending = None

    def _archive(self) -> None:
        """Archive every ended epoch that seems to have no archive."""
        place = self._place
        done = set(place.names(ARCHIVE))
        for epoch in self._ended_epochs():
            if epoch_name(epoch) not in done:
                try:
                    with place.dir(EPOCHS, epoch_name(epoch)) as at:
                        self._archive_epoch(at, epoch)
                except (FileNotFoundError, CheckpointDamaged) as error:
                    # The rest can still be archived; reading this epoch reports it to who needs it.
                    _log.warning("epoch not archived", extra={"job": place.job_id, "epoch": epoch, "error": str(error)})

    def _archive_epoch(self, at: int, epoch: int) -> None:
        """Archive the ended epoch in the directory `at`: in two passes, since it may not fit into memory."""
        sizes: list[int] = []
        last: CheckpointFile | None = None
        for raw, file in self._files_of(at, epoch):
            sizes.append(len(raw))
            last = file
        following = LogReader(self._place).file(epoch + 1, 1)
        if last is None or following is None or not is_end_of(last, following):
            where = self._place.where(EPOCHS, epoch_name(epoch))
            raise CheckpointDamaged(f"{where} does not end as the next epoch's OPEN says")
        owner, nonce, digest = self._owner, self._nonce(), last.digest
        header, index = archive.pack(epoch, sizes, owner=owner, nonce=nonce, seal_digest=digest)
        self._put(ARCHIVE, epoch_name(epoch), header, chain(self._again(at, epoch, digest), (index,)))

    def _again(self, at: int, epoch: int, seal_digest: bytes) -> Iterator[bytes]:
        """The same bytes once more: the SEAL that they lead to says that they are."""
        digest = b""
        for raw, file in self._files_of(at, epoch):
            yield raw
            digest = file.digest
        if digest != seal_digest:
            where = self._place.where(EPOCHS, epoch_name(epoch))
            raise CheckpointDamaged(f"{where} has changed while it was archived")

    def _files_of(self, at: int, epoch: int) -> Iterator[tuple[bytes, CheckpointFile]]:
        """The commit files of an ended epoch up to its SEAL, one by one, verbatim and verified."""
        place = self._place
        where = place.where(EPOCHS, epoch_name(epoch))
        last: CheckpointFile | None = None
        for name in map(commit_name, count(1)):
            try:
                raw = place.read(at, name, COMMIT_FILE_BYTES_MAX, EPOCHS, epoch_name(epoch))
            except FileNotFoundError:
                raise CheckpointDamaged(f"{where}/{name} is missing, or not seen yet") from None
            file = frames.decode(raw, f"{where}/{name}")
            if last is not None and file.header.predecessor != last.digest:
                raise CheckpointDamaged(f"{where}/{name} is damaged: it does not follow the file before it")
            yield raw, file
            if file.header.kind == SEAL:
                return
            last = file

    def _collect(self) -> None:
        place = self._place
        kept = self._kept_snapshots()
        if len(kept) < 2:
            return
        # Somebody's put may stand that died before its fsync: what we rely on must be durable.
        for folder in (SNAPSHOTS, ARCHIVE):
            with place.dir(folder) as at, outcome_unknown(place.where(folder)):
                place.fs.fsync(at)
        for epoch in self._ended_epochs():
            if epoch < kept[1] and epoch not in self._collected and self._is_archived(epoch):
                self._delete_commits(epoch)
                self._collected.add(epoch)
        for epoch in snapshots.listed(place):
            if epoch < kept[1]:
                self._unlink(epoch_name(epoch), SNAPSHOTS)
        self._delete_blobs(kept[1])

    def _kept_snapshots(self) -> list[int]:
        """The newest two snapshots that can really be used."""
        kept: list[int] = []
        for epoch in snapshots.listed(self._place):
            if epoch in self._usable or self._is_usable(epoch):
                self._usable.add(epoch)
                kept.append(epoch)
                if len(kept) == 2:
                    break
        return kept

    def _is_usable(self, epoch: int) -> bool:
        try:
            opened = LogReader(self._place).file(epoch, 1)
            return opened is not None and snapshots.read(self._place, epoch).open_digest == opened.digest
        except (FileNotFoundError, CheckpointDamaged):
            return False

    def _is_archived(self, epoch: int) -> bool:
        """Whether the next OPEN stands and the archive holds the whole epoch that it names."""
        reader = LogReader(self._place)
        try:
            following = reader.file(epoch + 1, 1)
            last = None
            for file in reader.archive(epoch).files():
                last = file
            return following is not None and is_end_of(last, following)
        except (FileNotFoundError, CheckpointDamaged):
            return False

    def _delete_commits(self, epoch: int) -> None:
        """Everything between the OPEN and the SEAL."""
        last = len(LogReader(self._place).archive(epoch))
        for name in self._place.names(EPOCHS, epoch_name(epoch)):
            number = parse_commit(name)
            if number is not None and 1 < number < last:
                self._unlink(name, EPOCHS, epoch_name(epoch))

    def _delete_blobs(self, older_snapshot: int) -> None:
        with self._lock:
            due = [item for item in self._released if item[0] < older_snapshot]
        for _, name in due:
            folder, _, file = check_blob_name(name).partition("/")
            if (parse_epoch(folder) or self._epoch) < self._epoch:
                self._unlink(file, BLOBS, folder)
        with self._lock:
            self._released = [item for item in self._released if item[0] >= older_snapshot]

    def _ended_epochs(self) -> list[int]:
        names = self._place.names(EPOCHS)
        return sorted(e for e in map(parse_epoch, names) if e is not None and e < self._epoch)

    def _unlink(self, name: str, *folders: str) -> None:
        try:
            with self._place.dir(*folders) as at:
                self._place.fs.unlink(name, at)
        except FileNotFoundError:
            pass  # somebody collected before us

    def _put(self, folder: str, name: str, begin: bytes, rest: Iterable[bytes] = ()) -> None:
        """Put into `folder` of the job; another's file of that name is as good."""
        place = self._place
        where = place.where(folder, name)
        tmp = place.root.handle(TMP)
        with place.dir() as job:
            at = place.root.putter.make_dirs(job, (folder,), where=where)
        try:
            place.root.putter.put(tmp, at, name, (begin,), where=where, rest=rest)
        finally:
            let_go(place.fs, at)
