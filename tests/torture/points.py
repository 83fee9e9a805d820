"""Fault points: every operation of the store on the operating system, named after what it is done for.

A point is called ``phase.operation``: ``commit.link``, ``seal-takeover.fsync``, ``collect.unlink``. The phase is
that of the innermost function of the store on the stack that has one (``_PHASES``), and for a put what is
being put. So the package needs no hooks: in the processes of a torture (and only there) the seam to the operating
system (``RealFiles``) is wrapped. ``lock.acquire`` and ``lock.release`` are the two points beside that seam.
"""

from __future__ import annotations

import errno
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from mmap import mmap
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

import filelock

from routilux_mp._storage import blobs, glance, log, replay, store, takeover, views
from routilux_mp._storage.control import Control
from routilux_mp._storage.files import RealFiles
from routilux_mp._storage.handles import Slot
from routilux_mp._storage.housekeeping import Housekeeper
from routilux_mp._storage.lease import Heartbeat, Heartbeats
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.place import Root
from routilux_mp._storage.put import Putter
from routilux_mp._storage.reader import LogReader
from routilux_mp._supervisor import serving
from tests.torture.notes import Notes

KINDS: Final = ("KILL", "STOP", "EIO", "ENOSPC")
OPERATIONS: Final = (
    "open_root", "open_dir", "make_dir", "names", "entries", "create", "create_unnamed", "write", "fsync", "overwrite",
    "close", "link", "link_unnamed", "replace", "unlink", "read", "read_range", "map",
)  # fmt: skip
#: Those that give a handle to who asked: an error behind them would leak it.
_OPENING: Final = frozenset({"open_root", "open_dir", "create", "create_unnamed"})

_FUNCTIONS: Final[Sequence[tuple[Callable[..., Any], str]]] = (
    (Root.handle, "root"),
    (store.Store.close, "leave"),
    (Putter.probe, "probe"),
    (store.Store._keep_ballast, "ballast"),
    (store.Store._release_ballast, "ballast"),
    (store.Store._sweep, "tmp-sweep"),
    (store.Store.job_ids, "list"),
    (store.Store.read, "replay"),
    (store.Store.has_only_views, "replay"),
    (replay.read_job, "replay"),
    (replay.JobLog.continued, "replay"),
    (serving.owed_flow, "adopt"),
    (LogReader.frame, "frame"),
    (LogReader.first, "frame"),
    (LogReader.epoch_files, "history"),
    (replay.JobLog.history, "history"),
    (glance.glance, "glance"),
    (takeover.create, "create"),
    (takeover._make_dirs_early, "create"),
    (takeover.put_format, "format"),
    (takeover._put_format, "format"),
    (Root.lend_format, "format"),
    (takeover.read_format, "format"),
    (takeover._sealed, "take-over"),
    (log.put_open, "open"),
    (Tenure._open_epoch, "tenure"),
    (Tenure._put, "tenure"),
    (Tenure._fenced, "fenced"),
    (Slot.drop, "tenure"),
    (Housekeeper._put_snapshot, "snapshot"),
    (Housekeeper._archive, "archive"),
    (Housekeeper._collect, "collect"),
    (Housekeeper._delete_commits, "collect-commits"),
    (Housekeeper._delete_blobs, "collect-blobs"),
    (Housekeeper.sweep, "leftovers"),
    (blobs.begin_blob_file, "blob"),
    (blobs._make_durable, "blob"),
    (Tenure.secure_blobs, "blob-dir"),
    (blobs.map_blob, "blob-map"),
    (views.Views._write, "views"),
    (Control.put, "control"),
    (Control.put_answer, "answer"),
    (Control.unanswered, "control-look"),
    (Control.read, "control-look"),
    (Control.sweep, "control-sweep"),
    (Control.stands, "control-look"),
    (Control.answer, "answer-look"),
    (Heartbeat.beat, "heartbeat"),
    (Heartbeat.remove, "heartbeat"),
    (Heartbeats.look, "heartbeat-look"),
    (Heartbeats.sweep, "heartbeat-sweep"),
    (Heartbeats.remove, "heartbeat-sweep"),
)
_PHASES: Final[dict[CodeType, str]] = {inspect.unwrap(function).__code__: phase for function, phase in _FUNCTIONS}
#: Functions that put what their argument ``data`` holds; a mutant may bring another one.
_putting: set[CodeType] = {Putter.put.__code__}
_BEGINS: Final = b"RMP1"
#: What is put, by the fifth byte of the file.
_KINDS_PUT: Final = {1: "open", 2: "commit", 3: "seal", 4: "snapshot", 5: "archive"}
_REASONS: Final = ("roll", "handover", "takeover", "ended")

#: phase -> the operations that it comes to. A torture that meets another one, or that never meets one of these,
#: has failed: this table is what "every fault point" means.
_PUT_OPS: Final = "create_unnamed link_unnamed create link unlink write fsync close"
TABLE: Final[dict[str, str]] = {
    "root": "open_root open_dir make_dir",
    "probe": f"{_PUT_OPS} read",
    "ballast": "create write close unlink",
    "tmp-sweep": "entries unlink",
    "create": "make_dir open_dir close",
    "format": f"{_PUT_OPS} open_dir read",
    "open": f"{_PUT_OPS} open_dir make_dir",
    "tenure": "open_dir close",
    "commit": _PUT_OPS,
    "fenced": "open_dir read close",
    "seal-roll": _PUT_OPS,
    "seal-handover": _PUT_OPS,
    "seal-takeover": _PUT_OPS,
    "seal-ended": _PUT_OPS,
    "take-over": "open_dir read close",
    "replay": "names open_dir read close",
    "adopt": "names open_dir read close",
    "frame": "open_dir read read_range close",
    "history": "open_dir read read_range close",
    "glance": "names open_dir read read_range close",
    "list": "names",
    "snapshot": f"{_PUT_OPS} open_dir make_dir",
    "archive": f"{_PUT_OPS} open_dir make_dir names read",
    "collect": "names open_dir read read_range fsync unlink close",
    "collect-commits": "names open_dir read_range unlink close",
    "collect-blobs": "open_dir unlink close",
    "leftovers": "names open_dir unlink close",
    "blob": "open_root open_dir make_dir create write fsync close",
    "blob-dir": "open_dir make_dir fsync close",
    "blob-map": "open_root map close",
    "views": f"{_PUT_OPS} open_dir read_range replace",
    "lock": "acquire release",
    "control": f"{_PUT_OPS} open_dir make_dir",
    "control-look": "names open_dir read close",
    "control-sweep": "names open_dir unlink close",
    "answer": f"{_PUT_OPS} open_dir make_dir",
    "answer-look": "open_dir read close",
    "heartbeat": "overwrite create write close unlink",
    "heartbeat-look": "names open_dir read close",
    "heartbeat-sweep": "entries unlink",
    "leave": "close",
}
_PUTS: Final = ("format", "open", "commit", "seal-roll", "seal-handover", "seal-takeover", "seal-ended", "snapshot",
                "archive", "control", "answer")  # fmt: skip
POINTS: Final = tuple(f"{phase}.{operation}" for phase, operations in TABLE.items() for operation in operations.split())
#: These take a race between two processes, or an error before: nobody aims at them, and they may be missed.
RARE: Final = (
    *(f"{phase}.{operation}" for phase in _PUTS for operation in ("read_range", "names")),
    "blob.unlink", "views.names", "blob-map.open_dir", "blob-map.read_range",
    "replay.read_range", "create.read", "create.read_range",
)  # fmt: skip
_ALL: Final = POINTS + RARE
_NUMBERS: Final = {point: number for number, point in enumerate(_ALL)}


class Fault(NamedTuple):
    """What is to happen at the ``nth`` hit of a point, by whichever process."""

    point: str
    kind: str
    nth: int
    #: The operation has taken effect.
    is_after: bool = False
    #: Errors: so many hits of this process in a row meet it.
    lasts: int = 1


class Fuse(NamedTuple):
    """One fault of this run, and how often it has struck in this process."""

    fault: Fault
    claim: str


class Points:
    """Counts hits for all processes of a torture, and strikes in those that were armed."""

    def __init__(self, notes: Notes) -> None:
        counts = mmap(-1, 16 * len(_ALL))  # shared with whoever is forked
        self._total = memoryview(counts).cast("Q")[: len(_ALL)]
        self._run = memoryview(counts).cast("Q")[len(_ALL) : 2 * len(_ALL)]
        self._notes = notes
        self._fuses: dict[str, list[Fuse]] = {}
        self._left: dict[Fuse, int] = {}

    def begin_run(self) -> None:
        """Nothing was hit yet, as far as the next run goes."""
        self._run[:] = memoryview(bytes(8 * len(_ALL))).cast("Q")

    def hits(self) -> dict[str, int]:
        """How often each point was hit, in all runs."""
        return dict(zip(_ALL, self._total))

    def arm(self, faults: Sequence[Fault], folder: str) -> None:
        """Let these strike, each once among all processes that were armed with the same ``folder``."""
        for number, fault in enumerate(faults):
            fuse = Fuse(fault, f"{folder}/fault-{number}")
            self._fuses.setdefault(fault.point, []).append(fuse)

    def install(self, *, is_named: bool) -> None:
        """From now on every operation of this process, and of those it forks, comes by here.

        ``is_named``: files without names cannot be made, as on NFS; so private files have names.
        """
        _putting.add(Putter.put.__code__)
        if is_named:
            setattr(RealFiles, "create_unnamed", _not_supported)  # noqa: B010
        for operation in OPERATIONS:
            setattr(RealFiles, operation, self._wrapped(operation, getattr(RealFiles, operation)))
        for operation in ("acquire", "release"):
            self._wrap_lock(operation)

    def _wrapped(self, operation: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        is_opening = operation in _OPENING

        def run(files: RealFiles, *args: Any, **kwargs: Any) -> Any:
            fault = self.hit(f"{phase_of(sys._getframe(1))}.{operation}")
            if fault is None:
                return plain(files, *args, **kwargs)
            if not fault.is_after or (is_opening and fault.kind.startswith("E")):
                strike(fault)
                return plain(files, *args, **kwargs)
            try:
                result = plain(files, *args, **kwargs)
            except OSError:
                if not fault.kind.startswith("E"):
                    strike(fault)
                raise
            strike(fault)
            return result

        return run

    def _wrap_lock(self, operation: str) -> None:
        plain = getattr(filelock.FileLock, operation)

        def run(lock: Any, *args: Any, **kwargs: Any) -> Any:
            fault = self.hit(f"lock.{operation}")
            if fault is not None and not fault.is_after:
                strike(fault)
            result = plain(lock, *args, **kwargs)
            if fault is not None and fault.is_after and not fault.kind.startswith("E"):
                strike(fault)
            return result

        setattr(filelock.FileLock, operation, run)

    def hit(self, point: str) -> Fault | None:
        """Count it; what is to happen here now, if anything."""
        number = _NUMBERS.get(point)
        if number is None:
            self._notes.event("unknown", point=point)
            return None
        self._total[number] += 1
        self._run[number] += 1
        for fuse in self._fuses.get(point, ()):
            if self._is_due(fuse, self._run[number]):
                return fuse.fault
        return None

    def _is_due(self, fuse: Fuse, count: int) -> bool:
        left = self._left.get(fuse)
        if left is not None:
            self._left[fuse] = left - 1
            return left > 0
        if count < fuse.fault.nth:
            return False
        try:
            os.close(os.open(fuse.claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            self._left[fuse] = 0  # another process was first
            return False
        self._left[fuse] = fuse.fault.lasts - 1 if fuse.fault.kind.startswith("E") else 0
        self._notes.event("fault", point=fuse.fault.point, kind=fuse.fault.kind, at=time.monotonic_ns())
        return True


def _not_supported(*_: object) -> int:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def strike(fault: Fault) -> None:
    """What the fault does to the process that is here."""
    match fault.kind:
        case "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case "STOP":
            os.kill(os.getpid(), signal.SIGSTOP)
        case _:
            code = getattr(errno, fault.kind)
            raise OSError(code, f"{os.strerror(code)} (torture)")


def phase_of(frame: FrameType | None) -> str:
    """What the operation is done for, from who asked for it."""
    while frame is not None:
        code = frame.f_code
        phase = _PHASES.get(code) if code not in _putting else _put(frame)
        if phase is not None:
            return phase
        frame = frame.f_back
    return "other"


def _put(frame: FrameType) -> str | None:
    head = bytes(frame.f_locals["data"][0])
    if not head.startswith(_BEGINS):
        return None  # a request, an answer, format.json: who puts it says so
    phase = _KINDS_PUT[head[4]]
    if phase == "seal":
        phase += "-" + next(reason for reason in _REASONS if f'"reason":"{reason}"'.encode() in head)
    return phase
