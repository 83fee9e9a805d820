"""The real store, several processes on several hosts, one seed: who runs when, what fails, who crashes.

Not here: the file system they share (`support/hosts`), nor any rule of the protocol. A process is
the real `Store` in a thread of its own; at every file-system call another one may go on instead,
the process may sleep for long, or be killed. What is checked comes from the server's side alone: what
got a name, in which order, and what owners were told.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from routilux_mp._storage import frames, views
from routilux_mp._storage.frames import COMMIT, OPEN, SEAL
from routilux_mp._storage.layout import EPOCHS, STATE_VIEW, commit_name, epoch_name
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.replay import JobLog
from routilux_mp._storage.store import Store
from routilux_mp.errors import CheckpointDamaged, LeaseError, RoutiluxError, StorageBlocked, StorageError, UsageError
from routilux_mp.settings import Settings
from tests.support.faulty import Crashed
from tests.support.hosts import Caches, HostFiles
from tests.support.memory import MemoryFiles
from tests.support.stores import BASE, JOB, ROOT, committed, make_store
from tests.support.turns import Actor, Stage

_COMMIT_FILE = re.compile(r"c\d{8}")
#: Virtual seconds that one file-system call takes.
_CALL_S = 0.02
_CALLS_MAX = 3_000


class Placed(NamedTuple):
    """The first file that stood at a place."""

    kind: int
    digest: bytes
    tasks: tuple[int, ...]


class Broken(AssertionError):
    """An invariant does not hold."""


class World:
    """Everything that one seed decides, and what the server saw."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(f"store-{seed}")
        draw = self.random.choice
        self.processes = draw([2, 3, 3, 4])
        self.tasks = draw([4, 12, 24])
        self.fault_share = draw([0.0, 0.0, 0.003, 0.015])
        self.crash_share = draw([0.0, 0.002, 0.006])
        self.sleep_share = draw([0.0, 0.003, 0.01])
        self.sleep_calls_max = draw([200, 1_000, 3_000])
        self.sleep_before_put_share = draw([0.0, 0.05, 0.2])
        #: How long standbys leave an owner alone. Only owners that are left alone come to collecting.
        self.patience = draw([0.0, 0.4, 0.8])
        self.switch_share = draw([0.03, 0.1, 0.4])
        self.roll_share = draw([0.1, 0.3, 0.6])
        if draw([True, False, False]):
            # Left alone, owners get as far as collecting; then whoever slept before a SEAL wakes up.
            self.fault_share = self.crash_share = self.sleep_share = 0.0
            self.tasks, self.roll_share, self.patience, self.sleep_before_put_share = 24, 0.3, 0.6, 0.1
        self.races_to_create = draw([True, False])
        #: What stands with the OPEN of a new job.
        self.first_batch = [b"0"] if seed % 2 else []
        self.now = 0.0
        self.calls = 0
        self.is_over = False
        self.disk = MemoryFiles()
        self.stage = Stage()
        self.stage.heir = self._heir
        self.acknowledged: list[int] = []
        self.late_seals = self.stale_answers = self.faults = self.crashes = self.collected = 0
        self.broken: Broken | None = None
        #: Who opened each epoch.
        self.owners: dict[int, bytes] = {}
        #: The first file that stood at each place.
        self.first: dict[tuple[int, int], Placed] = {}
        #: The newest view of which an owner was told that it is shown, and how often they were told.
        self.sure_of = (0, 0)
        self.views = 0
        self._begun_with: dict[int, list[int]] = {}
        self._asleep_until: dict[Actor, int] = {}

    # -- the machine under the processes ----------------------------------------------------------------

    def turn(self, process: Incarnation) -> None:
        """A file-system call begins."""
        self.now += _CALL_S
        self.calls += 1
        if self.calls > _CALLS_MAX or self.broken is not None:
            self.is_over = True
        if not self.is_over and process.is_alive:
            if self.crash_share and self.random.random() < self.crash_share:
                process.is_alive = False
                self.crashes += 1
            elif self.random.random() < self.sleep_share:
                self.doze()
            elif self.random.random() < self.switch_share:
                self.stage.switch(self._next())
        if self.is_over or not process.is_alive:
            raise Crashed

    def before_link(self, process: Incarnation, name: str) -> None:
        """Everything is decided, and nothing done yet: the worst moment to be paused."""
        if process.is_alive and not self.is_over and (name == STATE_VIEW or _COMMIT_FILE.fullmatch(name)):
            if self.random.random() < self.sleep_before_put_share:
                self.doze(until_all_sleep=self.random.random() < 0.5)

    def doze(self, *, until_all_sleep: bool = False) -> None:
        """The current thread sleeps: a paused host, a hung mount."""
        assert self.stage.current is not None
        calls = _CALLS_MAX if until_all_sleep else self.random.randrange(20, self.sleep_calls_max)
        self._asleep_until[self.stage.current] = self.calls + calls
        self.stage.switch(self._next())
        if self.is_over:
            raise Crashed

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def _next(self) -> Actor | None:
        waiting = [actor for actor in self.stage.actors if not actor.is_done]
        awake = [actor for actor in waiting if self._asleep_until.get(actor, 0) <= self.calls]
        return self.random.choice(awake or waiting) if waiting else None

    def _heir(self) -> Actor | None:
        return None if self.is_over else self._next()

    # -- the server's side ------------------------------------------------------------------------------

    def placed(self, name: str, raw: bytes) -> None:
        """A file got its name: whatever the protocol says must hold at this very moment."""
        if name == STATE_VIEW:
            position = views.unwrap(raw, name)[0]
            assert position is not None
            self.demand(position >= self.sure_of, f"a view of {position} replaces one of {self.sure_of}")
        if _COMMIT_FILE.fullmatch(name) is None:
            return
        file = frames.decode(raw, name)
        kind, epoch, number, owner = file.header.kind, file.header.epoch, file.header.number, file.header.owner
        place = (epoch, number)
        if kind == OPEN:
            self.demand(epoch not in self.owners, f"epoch {epoch} has two owners")
            self.owners[epoch] = owner
            self._begun_with[epoch] = self.history()
        elif kind == COMMIT:
            self.demand(self.owners.get(epoch) == owner, f"a COMMIT in epoch {epoch} of somebody who does not own it")
            self.demand(place not in self.first, f"a second COMMIT at {place}")
        elif place in self.first:
            self.demand(epoch + 1 in self.owners, f"a SEAL in place of a file of live epoch {epoch}")
            self.late_seals += 1
            return
        records = {OPEN: file.frames[1:], COMMIT: file.frames}.get(kind, ())
        tasks = tuple(int(data) for data in records)
        self.first.setdefault(place, Placed(kind, file.digest, tasks))

    def demand(self, holds: bool, what: str) -> None:
        if not holds and self.broken is None:
            self.broken = Broken(what)

    def shows(self, position: tuple[int, int]) -> None:
        """An owner was told that its view is shown, or a later one."""
        self.views += 1
        self.sure_of = max(self.sure_of, position)

    def history(self) -> list[int]:
        """Everything that was ever committed, as the server saw it."""
        found: list[int] = []
        epoch, number = 1, 1
        while (here := self.first.get((epoch, number))) is not None:
            found += here.tasks
            epoch, number = (epoch + 1, 1) if here.kind == SEAL else (epoch, number + 1)
        return found

    def met(self) -> dict[str, int]:
        """How often this run came across what the rules are about."""
        return {
            "owners": len(self.owners),
            "acknowledged tasks": len(self.acknowledged),
            "views": self.views,
            "COMMITs collected": self.collected,
            "SEALs of sleepers where a COMMIT was collected": self.late_seals,
            "stale answers": self.stale_answers,
            "faults": self.faults,
            "crashes": self.crashes,
        }

    def took_over(self, log: JobLog, epoch: int) -> None:
        read, truth = tasks_of(log), self._begun_with[epoch]
        self.demand(read == truth, f"the owner of epoch {epoch} begins with {read}, it was {truth}")


class Incarnation:
    """One process from its start to its end: a store, its tenure, its housekeeping thread."""

    def __init__(self, world: World, caches: Caches) -> None:
        self.world = world
        self.is_alive = True
        self._housekeeping: Actor | None = None
        self._store = Store(
            ROOT,
            Settings(),
            fs=HostFiles(world.disk, world, self, caches),
            clock=lambda: world.now,
            random=world.random.randbytes,
            sleep=world.sleep,
        )

    def live(self) -> bool:
        """Stand by, own, commit, until the job has ended (True) or this process is in trouble (False)."""
        try:
            owned = self._acquire()
        except CheckpointDamaged:
            raise
        except (StorageError, LeaseError, UsageError):
            return False  # UsageError: another one created it first, or its directory is not seen yet
        if owned is None:
            return True
        tenure, done = owned
        try:
            return self._work(tenure, done)
        except CheckpointDamaged:
            raise
        except (StorageError, LeaseError):
            return False

    def _acquire(self) -> tuple[Tenure, list[int]] | None:
        world, store = self.world, self._store
        while world.random.random() < world.patience:
            world.doze()
        if JOB not in store.jobs():
            tenure = store.create(JOB, b'{"flow": 1}', world.first_batch)
            done = list(map(int, world.first_batch))
            world.acknowledged += done
            return tenure, done
        log = store.read(JOB)
        if log.seal_reason == "ended":
            return None
        if world.random.random() < 0.3:
            world.doze()
        log, tenure = store.take_over(JOB, log=log if world.random.random() < 0.7 else None)
        world.took_over(log, tenure.epoch)
        return tenure, tasks_of(log)

    def _work(self, tenure: Tenure, done: list[int]) -> bool:
        world = self.world
        for _ in range(200):
            todo = [task for task in range(world.tasks) if task not in done]
            if world.random.random() < world.roll_share:
                self._patiently(partial(tenure.roll, encode_state(done)))
                self._keep_house(tenure)
            elif todo and world.random.random() < 0.05:
                tenure.seal("handover")
                return False
            elif todo:
                batch = todo[: world.random.randint(1, 3)]
                self._patiently(partial(tenure.commit, [b"%d" % task for task in batch]))
                world.acknowledged += batch
                done += batch
                if world.random.random() < 0.4:
                    at = (tenure.epoch, tenure.number)
                    tenure.write_views(None, b'{"done": %d}' % len(done), at)
                    world.shows(at)
            else:
                tenure.seal("ended")
                return True
        return False

    def _patiently(self, attempt: Callable[[], None]) -> None:
        """What is blocked is tried again, as the supervisor does."""
        for _ in range(3):
            try:
                attempt()
            except StorageBlocked:
                self.world.sleep(0.1)
            else:
                return
        attempt()

    def _keep_house(self, tenure: Tenure) -> None:
        """In a thread of its own, one at a time."""
        if self._housekeeping is None or self._housekeeping.is_done:
            self._housekeeping = self.world.stage.enter("housekeeping", tenure.housekeep)


def tasks_of(log: JobLog) -> list[int]:
    state = [int(task) for task in (log.snapshot or b"").split(b",") if task]
    return state + [int(data) for _, data in log.frames()]


def encode_state(done: list[int]) -> bytes:
    return b",".join(b"%d" % task for task in done)


def simulate(seed: int) -> World:
    """One run; raises `Broken`, or whatever error the store let out, with the seed in its notes."""
    world = World(seed)
    try:
        _run(world)
    except (AssertionError, RoutiluxError, OSError, ValueError, KeyError) as error:
        error.add_note(f"seed {seed}: scripts/simulate store --from {seed} --seeds 1")
        raise
    return world


def _run(world: World) -> None:
    def process() -> None:
        caches = Caches()
        while not world.is_over:
            incarnation = Incarnation(world, caches)
            try:
                if incarnation.live():
                    return
            except Crashed:
                pass  # started again, on the same host
            incarnation.is_alive = False

    if not world.races_to_create:
        make_store(world.disk, seed=0).create(JOB, b'{"flow": 1}', world.first_batch).close()
        _adopt(world)
    for number in range(world.processes):
        world.stage.enter(f"process {number}", process)
    try:
        world.stage.switch(world._next())
    finally:
        world.is_over = True
        world.stage.close()
    if world.broken is not None:
        raise world.broken
    world.collected = _collected(world)
    check_end(world)


def _collected(world: World) -> int:
    """How many COMMITs were deleted."""
    there = world.disk.files("root")
    commits = [place for place, file in world.first.items() if file.kind == COMMIT]
    return sum(f"{BASE}/{EPOCHS}/{epoch_name(epoch)}/{commit_name(number)}" not in there for epoch, number in commits)


def _adopt(world: World) -> None:
    """The files that were made before the simulation began."""
    for path, raw in world.disk.files("root").items():
        world.placed(path.rpartition("/")[2], raw)


def check_end(world: World) -> None:
    """A process that saw nothing of all this reads the truth, and can go on to the end."""
    history = world.history()
    if not world.owners:
        return
    with make_store(world.disk, seed=998) as store:
        read = [int(data) for data in committed(store.read(JOB))]
        world.demand(read == history, f"a fresh process reads {read}, it was {history}")
        lost = [task for task in world.acknowledged if history.count(task) != 1]
        world.demand(not lost, f"acknowledged, but not there once: {lost}")
        world.demand(len(set(history)) == len(history), f"committed twice: {history}")
        log, tenure = store.take_over(JOB)
        tenure.commit([b"%d" % task for task in range(world.tasks) if task not in history])
        tenure.roll(encode_state(sorted(range(world.tasks))))
        tenure.housekeep()
        tenure.close()
        read = [int(data) for data in committed(store.read(JOB))]
        world.demand(sorted(read) == list(range(world.tasks)), f"a successor ended with {read}")
        world.demand(read[: len(history)] == history, f"the history {history} became {read}")
    if world.broken is not None:
        raise world.broken
