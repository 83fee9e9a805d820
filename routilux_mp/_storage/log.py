"""A tenure: the right to commit in one epoch of one job, and rolling it (rules 2 and 4).

Not here: how an epoch is taken over (`takeover`), what is cleared away afterwards (`housekeeping`).
The rule it owns: one put at a time, each at the place after the owner's own last; whatever makes an
outcome unknown, or shows another owner, ends the tenure for good.

`commit`, `roll` and `seal` belong to one thread; `housekeep` and `read` may run in another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, NamedTuple

from ..errors import Fenced, LeaseError, OutcomeUnknown, StorageBlocked, StorageError, UsageError
from . import blobs, frames, views
from .files import let_go
from .frames import COMMIT, OPEN, SEAL, Frame
from .handles import Handles
from .housekeeping import Housekeeper
from .layout import BLOBS, COMMIT_FILE_BYTES_MAX, EPOCHS, TMP, commit_name, epoch_name
from .leftovers import Sweep
from .owner import OwnerInfo
from .place import Place
from .put import blocked
from .reader import LogReader, LogRef
from .replay_cost import ReplayCost

SealReason = Literal["roll", "handover", "takeover", "ended"]


class Writer:
    """What all tenures of a store share: who writes, and what it measured."""

    def __init__(
        self, owner: bytes, info: OwnerInfo, random: Callable[[int], bytes], clock: Callable[[], float]
    ) -> None:
        self.owner = owner
        self.info = info
        self._document = info.to_document()
        self.clock = clock
        self.cost = ReplayCost()
        self.handles = Handles()
        self._random = random
        #: Frees the space that was kept for this moment; False when there is none left.
        self.release_ballast: Callable[[], bool] = lambda: False

    def nonce(self) -> bytes:
        return self._random(frames.TOKEN_BYTES)

    def open_file(self, epoch: int, files: int, digest: bytes, data: Sequence[Frame] = ()) -> tuple[bytes, bytes]:
        """OPEN of `epoch`, which follows the SEAL with `digest`, file number `files` of its epoch; `data`: records."""
        document = self._document | {"predecessor": {"files": files, "sha256": digest.hex()}}
        return self.file(OPEN, epoch, 1, digest, [frames.encode_document(document), *data])

    def seal_file(self, epoch: int, number: int, digest: bytes, reason: SealReason) -> tuple[bytes, bytes]:
        document = {"reason": reason, "host": self.info.host, "pid": self.info.pid, "token": self.info.token}
        return self.file(SEAL, epoch, number, digest, [frames.encode_document(document)])

    def file(
        self, kind: int, epoch: int, number: int, predecessor: bytes, data: Sequence[Frame]
    ) -> tuple[bytes, bytes]:
        return frames.encode(
            kind, epoch, number, owner=self.owner, nonce=self.nonce(), predecessor=predecessor, frames=data
        )


class Tenure:
    """The right to commit in one epoch of one job."""

    def __init__(
        self, place: Place, writer: Writer, *, epoch: int, digest: bytes, made: tuple[int, int] = (0, 0),
        at: int | None = None,
    ) -> None:  # fmt: skip
        """OPEN of `epoch`, with `digest`, is ours; `made`: files and bytes that replay has to read already.

        `at`: the epoch's directory, if it is open; ours from now on.
        """
        self.job_id = place.job_id
        self.epoch = epoch
        #: The last file of this epoch that is ours and stands; the OPEN is 1.
        self.number = 1
        self._place = place
        self._writer = writer
        # SHA-256 of the file that the next one follows.
        self._digest = digest
        self._ended: StorageError | LeaseError | None = None
        # Set between SEAL and OPEN of a roll: the snapshot that goes with the epoch to open.
        self._rolling: bytes | None = None
        self._replay_files, self._replay_bytes = made
        self._rolled_at = writer.clock()
        #: Directories of blobs whose names are durable.
        self._secured: set[str] = set()
        self._reader = LogReader(place)
        self._reading = threading.Lock()
        self._keeper = Housekeeper(place, writer.owner, writer.nonce)
        self._keeper.epoch_began(epoch, digest)
        self._views = views.Views(place, epoch)
        self._showing = threading.Lock()
        self._handle = writer.handles.slot(
            lambda: place.open_plainly(EPOCHS, epoch_name(self.epoch)), partial(let_go, place.fs), at
        )

    def next_position(self) -> tuple[int, int]:
        """(epoch, number) of the file that the next `commit` puts."""
        return (self.epoch + 1, 2) if self._rolling is not None else (self.epoch, self.number + 1)

    def commit(self, data: Sequence[Frame]) -> None:
        """Put one commit file; it is durable on return.

        Raises:
            StorageBlocked: nothing changed; the same frames may be tried again.
            OutcomeUnknown: it may stand or not; this tenure has ended.
            Fenced: another owner has the job; this tenure has ended.
        """
        self._require()
        if self._rolling is not None:
            self._open_next()
        raw, digest = self._writer.file(COMMIT, self.epoch, self.number + 1, self._digest, data)
        check_size(raw)
        self._put(raw, digest)

    def should_roll(self, snapshot_bytes_estimate: int, blob_bytes: int = 0) -> bool:
        """Whether rule 4 asks for a roll now, given what a snapshot would weigh; and the blobs that may go after it."""
        return self._writer.cost.asks_for_roll(
            files=self._replay_files,
            log_bytes=self._replay_bytes,
            snapshot_bytes=snapshot_bytes_estimate,
            blob_bytes=blob_bytes,
            since_roll_s=self._writer.clock() - self._rolled_at,
        )

    def roll(self, snapshot: bytes) -> None:
        """End this epoch and open the next, whose state at the start is `snapshot`.

        The snapshot itself is put by the next `housekeep`: a job can be replayed without it. After
        StorageBlocked call it (or `commit`) again; with the SEAL put already, it goes on from there.
        """
        self._require()
        if self._rolling is None:
            self._put(*self._writer.seal_file(self.epoch, self.number + 1, self._digest, "roll"))
            self._rolling = snapshot
        self._open_next()

    def seal(self, reason: Literal["handover", "ended"]) -> None:
        """End the tenure in good order. Space kept for this moment is used when the disk is full."""
        self._require()
        if self._rolling is not None:
            self._open_next()
        raw, digest = self._writer.seal_file(self.epoch, self.number + 1, self._digest, reason)
        try:
            self._put(raw, digest)
        except StorageBlocked:
            if not self._writer.release_ballast():
                raise
            self._put(raw, digest)
        self._ended = Fenced(f"job '{self.job_id}' was sealed by this process ({reason}); resume it to go on")
        self._handle.close()

    def housekeep(self) -> None:
        """Put the pending snapshot, archive ended epochs, delete what rule 5 allows. Trouble is only logged."""
        self._keeper.run()

    def release_blobs(self, names: Iterable[str]) -> None:
        """No later state names these blobs: they are deleted once no kept snapshot does either."""
        self._keeper.release((self.epoch, name) for name in names)

    def inherit(self, released: Iterable[tuple[int, str]]) -> None:
        """Blobs that earlier owners released and did not live to delete."""
        self._keeper.release(released)

    def sweep_blobs(
        self, sweep: Sweep, named: Callable[[LogRef, bytes], None], is_over: Callable[[], bool] = lambda: False
    ) -> None:
        """Delete blobs of earlier epochs that nobody will ever name; `named`: called with frames that name others."""
        self._keeper.sweep(sweep, named, is_over)

    def show(self, make: Callable[[], tuple[bytes | None, bytes]]) -> None:
        """Write the views that `make` returns. One at a time: what is made later shows what is later."""
        with self._showing:
            at = (self.epoch, self.number)
            self.write_views(*make(), at)

    def write_views(self, flow_doc: bytes | None, state_doc: bytes, position: tuple[int, int] | None = None) -> None:
        """Write `flow.json`, if it is owed (else None), and `job_state.json`, which show the job at `position`."""
        at = position or (self.epoch, self.number)
        if flow_doc is not None:
            self._views.write_flow(flow_doc, at)
        self._views.write_state(state_doc, at)

    def write_flow_view(self, flow_doc: bytes) -> None:
        """`flow.json` of a job that has just begun; also while its first commit is on its way."""
        self._views.write_flow(flow_doc, (self.epoch, 1))

    def read(self, ref: LogRef) -> bytes:
        """The bytes of a frame that was committed in this or an earlier epoch."""
        with self._reading:
            return self._reader.frame(ref)

    def secure_blobs(self, folders: Iterable[str]) -> None:
        """Before a commit that names blobs in these directories ("e0000007"): make their names durable.

        Raises: as `commit`. A failed fsync of a directory is not tried again: this tenure has ended.
        """
        self._require()
        for folder in set(folders) - self._secured:
            with self._ends_tenure():
                blobs.make_dir(self._place, folder)
            self._secured.add(folder)

    def blob_dir(self) -> str:
        """Where workers put blobs in this epoch; made, durably, when it is asked for."""
        folder = epoch_name(self.epoch)
        self.secure_blobs([folder])
        return self._place.where(BLOBS, folder)

    def put_blob(self, name: str, chunks: Iterable[bytes]) -> blobs.BlobRef:
        """A blob put by the supervisor itself."""
        return blobs.put_blob_file(self.blob_dir(), name, chunks, self._place.fs)

    def blob_path(self, name: str) -> str:
        """The path of the blob that a `BlobRef` names."""
        return blobs.path_of(self._place.path, name)

    def close(self) -> None:
        """Let go of the directory. The epoch stays open: that is a crash in good order."""
        self._handle.close()
        self._ended = self._ended or Fenced(f"the tenure of job '{self.job_id}' was closed in this process")

    def _open_epoch(self) -> int:
        return self._place.open_plainly(EPOCHS, epoch_name(self.epoch))

    def _require(self) -> None:
        if self._ended is not None:
            raise type(self._ended)(str(self._ended)) from self._ended

    def _put(self, raw: bytes, digest: bytes) -> None:
        """Put the next file of this epoch."""
        number = self.number + 1
        name = commit_name(number)
        where = f"{self._place.path}/{EPOCHS}/{epoch_name(self.epoch)}/{name}"
        with self._ends_tenure():
            with blocked(where):
                tmp = self._place.root.handle(TMP)
                at = self._handle.acquire()
            try:
                if not self._place.root.putter.put(tmp, at, name, (raw,), where=where):
                    raise self._fenced(at, number)
            finally:
                self._handle.release()
        self.number, self._digest = number, digest
        self._replay_files += 1
        self._replay_bytes += len(raw)

    def _open_next(self) -> None:
        """The second half of a roll."""
        snapshot, epoch = self._rolling, self.epoch + 1
        assert snapshot is not None
        with self._ends_tenure():
            digest = put_open(self._place, self._writer, epoch, self.number, self._digest)
            if digest is None:
                raise Fenced(f"job '{self.job_id}': another owner opened epoch {epoch} while this one rolled")
        self._handle.close()
        self.epoch, self.number, self._digest, self._rolling = epoch, 1, digest, None
        self._rolled_at = self._writer.clock()
        self._replay_files, self._replay_bytes = 1, len(snapshot)
        self._keeper.epoch_began(epoch, digest, snapshot)

    def _fenced(self, at: int, number: int) -> Fenced:
        """Somebody else's file stands in our place; say whose, if it can be read."""
        who = "another owner"
        try:
            raw = self._place.fs.read(commit_name(number), at, COMMIT_FILE_BYTES_MAX)
            document = frames.decode_document(frames.decode(raw, self.job_id).frames[0], self.job_id)
            reason = document.get("reason")
            # Whoever sealed it may have lost the race for the next epoch: its OPEN names the owner.
            opened = self._reader.file(self.epoch + 1, 1)
            if opened is not None:
                document = frames.decode_document(opened.frames[0], self.job_id)
            who = f"pid {document.get('pid')} on '{document.get('host')}' ({reason})"
        except (OSError, StorageError, IndexError):
            pass  # only the message suffers
        return Fenced(
            f"job '{self.job_id}' was taken over by {who}; nothing more of it can be committed or is run here"
        )

    def _ends_tenure(self) -> _EndsTenure:
        return _EndsTenure(self)

    def _end(self, error: StorageError | LeaseError) -> None:
        self._ended = error
        self._handle.close()


class _EndsTenure:
    """Around a put: an unknown outcome or another owner ends the tenure."""

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (OutcomeUnknown, Fenced)):
            self._tenure._end(error)


class NewDirs(NamedTuple):
    """The open directories of a job that begins, made and not durable yet."""

    #: From the epoch's parent up to the root.
    above: tuple[int, ...]
    #: Of the epoch.
    at: int


def check_size(raw: bytes) -> None:
    """Nothing larger is ever read."""
    if len(raw) > COMMIT_FILE_BYTES_MAX:
        raise UsageError(
            f"a commit of {len(raw)} bytes is more than {COMMIT_FILE_BYTES_MAX}; put large data into blobs"
        )


def put_open(
    place: Place, writer: Writer, epoch: int, files: int, seal_digest: bytes, new: NewDirs | None = None,
    data: Sequence[Frame] = (),
) -> bytes | None:  # fmt: skip
    """Put OPEN of `epoch`: its digest when ours stands, None when another's does.

    The directories are made, unless they are `new`, and open. `data`: the epoch's first records.
    """
    raw, digest = writer.open_file(epoch, files, seal_digest, data)
    check_size(raw)
    where = place.where(EPOCHS, epoch_name(epoch), commit_name(1))
    with blocked(where):
        tmp = place.root.handle(TMP)
    if new is not None:
        stands = place.root.putter.put(tmp, new.at, commit_name(1), (raw,), where=where, above=new.above)
        return digest if stands else None
    with blocked(where):
        job = place.open_plainly()
    try:
        at = place.root.putter.make_dirs(job, (EPOCHS, epoch_name(epoch)), where=where)
    finally:
        let_go(place.fs, job)
    try:
        stands = place.root.putter.put(tmp, at, commit_name(1), (raw,), where=where)
    finally:
        let_go(place.fs, at)
    return digest if stands else None
