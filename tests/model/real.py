"""The real store driven one step of the model at a time.

A process of the model is a `Store` whose threads stand still before every change that the model
knows: the link of a commit file, a snapshot or an archive, and each deletion. One step of the model
is what happens until the next such place.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import Any

from routilux_mp._storage import frames
from routilux_mp._storage.layout import commit_name, epoch_name, parse_commit, parse_epoch
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.replay import JobLog
from routilux_mp.errors import Fenced, OutcomeUnknown
from tests.model.state import SEAL, Disk, Log, Tasks, opened_after
from tests.support.faulty import OPERATIONS, Crashed
from tests.support.memory import MemoryFiles, Node
from tests.support.stores import BASE, JOB, make_store
from tests.support.turns import Actor, Stage

#: Stands with the OPEN of epoch 1, which in the model is where everything begins.
FIRST = b"-1"
BLOB = "input-1"
BLOB_NAME = f"e0000001/{BLOB}"
_WATCHED = re.compile(rf"c\d{{8}}|e\d{{7}}|{BLOB}")


class ParkingFiles:
    """A process's view of the disk; its threads stop before every change that the model knows."""

    def __init__(self, disk: MemoryFiles, stage: Stage) -> None:
        self.has_paths = False
        self._disk = disk
        self._stage = stage
        #: Set by the director before it lets a thread go on: what becomes of the change. "" / "lost" / "fails".
        self.fate = ""
        #: What a thread is about to delete, and in which directory; None: it is about to link something.
        self.stands_at: dict[Actor, tuple[str, Node] | None] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in OPERATIONS:
            raise AttributeError(name)
        operation = getattr(self._disk, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            actor = self._stage.current
            if actor is None:
                return operation(*args, **kwargs)
            if actor.is_killed:
                raise Crashed(name)
            if not self._is_watched(name, args):
                return operation(*args, **kwargs)
            self.stands_at[actor] = (args[0], self._disk.handles[args[1]]) if name == "unlink" else None
            self._stage.switch(None)
            fate, self.fate = self.fate, ""
            if fate != "fails":
                operation(*args, **kwargs)
            if fate:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return None

        return run

    def _is_watched(self, name: str, args: tuple[Any, ...]) -> bool:
        if name == "unlink":
            return _WATCHED.fullmatch(args[0]) is not None and args[0] in self._disk.names(args[1])
        return name in ("link", "link_unnamed") and _WATCHED.fullmatch(args[-2]) is not None


class RealProcess:
    """One process of the model, made of the real store."""

    def __init__(self, disk: MemoryFiles, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._disk = disk
        self._files = ParkingFiles(disk, stage)
        self._store = make_store(self._files, seed)
        self.tenure: Tenure | None = None
        self.done: Tasks = ()
        self.acting: Actor | None = None
        self.keeping: Actor | None = None
        self._keeper: Tenure | None = None

    def create(self) -> None:
        """Begin the job, with the blob that task 0 uses up."""
        self._own(self._store.create(JOB, b"{}", [FIRST]))
        assert self.tenure is not None
        self.tenure.put_blob(BLOB, [b"content"])

    @property
    def role(self) -> str:
        """As in the model, as far as it shows: idle, own, or on the way (seal, open, rolled)."""
        if self.acting is not None:
            return "rolled" if self.tenure is not None else "seal or open"
        return "own" if self.tenure is not None else "idle"

    @property
    def position(self) -> tuple[int, int] | None:
        return (self.tenure.epoch, self.tenure.number) if self.tenure is not None else None

    # -- steps -----------------------------------------------------------------------------------

    def start_take_over(self) -> None:
        """Read what is there, and get as far as the first put."""

        def body() -> None:
            log = self._store.read(JOB)
            log, tenure = self._store.take_over(JOB, log=log)
            self.done = tasks_of(log)
            self._own(tenure)
            if 0 in self.done:
                tenure.inherit([(released_in(log), BLOB_NAME)])

        self._act("take over", body)

    def commit(self, task: int, fate: str) -> bool:
        """Whether it stands, as the owner was told."""

        def body() -> None:
            assert self.tenure is not None
            self.tenure.commit([b"%d" % task])
            self.done += (task,)
            if task == 0:
                self.tenure.release_blobs([BLOB_NAME])

        before = len(self.done)
        self._act("commit", body)
        self.go_on(fate)
        return len(self.done) > before

    def start_roll(self) -> None:
        def body() -> None:
            assert self.tenure is not None
            self.tenure.roll(b",".join(b"%d" % task for task in self.done))
            self._keeper = self.tenure

        self._act("roll", body)

    def go_on(self, fate: str = "") -> None:
        """Let the process make the change before which it stands."""
        assert self.acting is not None
        self._files.fate = fate
        self._stage.switch(self.acting)
        if self.acting.is_done:
            failure, self.acting.failure = self.acting.failure, None
            self.acting = None
            if isinstance(failure, (Fenced, OutcomeUnknown)):
                self.tenure, self.done = None, ()
            elif failure is not None:
                raise failure

    def keep_house(self) -> None:
        """The next change of the housekeeping thread, which is started when it does not run yet."""
        if self.keeping is None:
            self.start_keeper()
        if self.keeping is not None:
            self._files.fate = ""
            self._let_keeper_go_on(self.keeping)

    def start_keeper(self) -> None:
        """Let the housekeeping thread look around, up to its first change."""
        assert self._keeper is not None
        assert self.keeping is None
        self.keeping = self._stage.enter("keeper", self._keeper.housekeep)
        self._let_keeper_go_on(self.keeping)

    def is_about_to_delete(self, kind: str, epoch: int, number: int) -> bool:
        """Whether that is what its housekeeping thread stands before."""
        name, folder = {
            "file": (commit_name(number), f"epochs/{epoch_name(epoch)}"),
            "snapshot": (epoch_name(epoch), "snapshots"),
            "blob": (BLOB, "blobs/e0000001"),
        }[kind]
        stands_at = self._files.stands_at[self.keeping] if self.keeping is not None else None
        return stands_at is not None and stands_at[0] == name and stands_at[1] is self._disk.node(f"{BASE}/{folder}")

    def has_collected(self, epoch: int) -> bool:
        """Whether its housekeeping has been through that epoch and will not come again."""
        return self._keeper is not None and epoch in self._keeper._keeper._collected

    def crash(self) -> None:
        """Nothing of it is left."""
        for actor in (self.acting, self.keeping):
            if actor is not None:
                self._stage.kill(actor)

    def _let_keeper_go_on(self, keeper: Actor) -> None:
        self._stage.switch(keeper)
        if keeper.is_done:
            self.keeping = None

    def _own(self, tenure: Tenure) -> None:
        self.tenure = self._keeper = tenure

    def _act(self, name: str, body: Callable[[], None]) -> None:
        self.acting = self._stage.enter(name, body)
        self._stage.switch(self.acting)
        assert not self.acting.is_done, f"{name} ended before its first put: {self.acting.failure!r}"


def tasks_of(log: JobLog) -> Tasks:
    state = log.snapshot or b""
    return tuple(int(task) for task in state.split(b",") if task) + tuple(
        int(data) for _, data in log.frames() if data != FIRST
    )


def released_in(log: JobLog) -> int:
    """The epoch whose commit used the blob up."""
    return next(ref.epoch for ref, data in log.history() if data == b"0")


def real_disk(files: MemoryFiles, epochs: int) -> Disk:
    """The real files as the model sees them (without its ghosts)."""
    found = files.files(BASE)
    rows: dict[int, dict[int, int]] = {}
    snapshots: dict[int, Tasks] = {}
    archives: dict[int, int] = {}
    for path, raw in found.items():
        folder, _, name = path.removeprefix(f"{BASE}/").rpartition("/")
        if folder.startswith("epochs/"):
            epoch, number = parse_epoch(folder.removeprefix("epochs/")), parse_commit(name)
            assert epoch is not None
            assert number is not None
            rows.setdefault(epoch, {})[number] = _record(frames.decode(raw, path))
        elif folder == "snapshots":
            state = frames.decode(raw, path).frames[0]
            snapshots[parse_epoch(name) or 0] = tuple(int(task) for task in state.split(b",") if task)
        elif folder == "archive":
            archives[parse_epoch(name) or 0] = frames.unpack_header(raw, path).frame_count
    log: Log = tuple(
        tuple(rows.get(e, {}).get(n) for n in range(1, max(rows.get(e, {0: 0})) + 1)) for e in range(1, epochs + 1)
    )
    return Disk(
        log,
        log,
        tuple(snapshots.get(e) for e in range(1, epochs + 1)),
        tuple((None,) * archives[e] if e in archives else None for e in range(1, epochs + 1)),
        f"{BASE}/blobs/{BLOB_NAME}" in found,
        frozenset(),
    )


def _record(file: frames.CheckpointFile) -> int:
    kind = file.header.kind
    if kind == frames.OPEN:
        document = frames.decode_document(file.frames[0], "OPEN")
        return opened_after(document["predecessor"]["files"])
    return SEAL if kind == frames.SEAL else int(file.frames[0])
