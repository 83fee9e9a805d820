"""A disk that does not answer: what is given out meanwhile would be run again by a successor, so nothing is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import GoOn, Work
from routilux_mp._core.job import Job
from routilux_mp._core.stimuli import Completion, Emit, Submit
from routilux_mp._core.topology import ConnectionSpec, Topology
from routilux_mp._supervisor.commits import _SILENT, SILENCE_NS, SILENCE_TOLD_NS
from routilux_mp._supervisor.committer import Finished, InstantCommitter, Task
from routilux_mp._supervisor.live import LiveJob, NullTenure
from routilux_mp._supervisor.loop import Loop
from routilux_mp.backends.base import Event, Message, Report, Started
from routilux_mp.errors import StorageBlocked
from routilux_mp.settings import Settings
from tests.unit.core.core_bench import routine

MS = 1_000_000


class Clock:
    now = 10**18

    def now_ns(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return self.now


class Disk(InstantCommitter):
    """Answers at once, or not before it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False
        self.owed: list[tuple[str, Task]] = []

    def submit(self, key: str, task: Task, *, is_awaited: bool = True, after_s: float = 0.0) -> None:
        if self.hangs:
            self.owed.append((key, task))
        else:
            super().submit(key, task)

    def answer(self) -> None:
        """What was owed is done now."""
        self.hangs, owed, self.owed = False, self.owed, []
        for key, task in owed:
            super().submit(key, task)

    def refuse(self) -> list[Finished]:
        """It is full instead."""
        owed, self.owed = self.owed, []
        self._finished += [(key, StorageBlocked("no space left")) for key, _ in owed]
        return self._finished


class Tenure(NullTenure):
    """Every commit is a file of its own."""

    def commit(self, data: Sequence[bytes]) -> None:
        pass


class Backend:
    """Workers that do nothing by themselves."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.given: list[Work] = []
        self.told_to_go_on = 0
        self.waits_s: float | None = 0.0

    def poll(self, timeout_s: float | None, pause_s: float = 0.0) -> list[Event]:
        self.waits_s = timeout_s
        events, self.events = self.events, []
        return events

    def start(self, worker: int, code_id: str) -> None:
        self.events.append(Started(worker, worker))

    def send(self, worker: int, message: Message, job_id: str = "") -> None:
        if isinstance(message, Work):
            self.given.append(message)
        self.told_to_go_on += isinstance(message, GoOn)

    def running(self, worker: int) -> tuple[int, int, int]:
        return (0, -1, 0)


class World:
    """A generator in routine a has emitted a hundred for b, which takes 10 ms for each: all of them stand."""

    def __init__(self) -> None:
        self.clock, self.backend, self.disk = Clock(), Backend(), Disk()
        self.loop = Loop(
            Settings(durability="none"), self.backend, self.disk, self.clock,  # type: ignore[arg-type]
            introduce=lambda live, slot: None, read_batch=lambda live, batch: b"",
            on_print=lambda stream, text: None, documents=lambda live: lambda: (None, b""), workers_max=2, cores=2,
        )  # fmt: skip
        topology = Topology("f", "concurrent", (routine("a"), routine("b", events=0)), (ConnectionSpec(0, 0, 1, 0),))
        self.live = LiveJob(Job("j"), Tenure(10), "code")
        self.loop.add(self.live, Submit("f", topology.to_plain(), 0, 0, Batch(100, b"x")))
        self.turn()
        self.turn()
        (self.of_a,) = self.backend.given
        self.backend.given.clear()
        self.report(
            self.of_a, Completion(self.of_a.dispatch, 0, (Emit(0, Batch(100, b"y")),), cursor=b"c", is_last=False)
        )
        self.finish()  # it is known now how long they take
        assert self.backend.given, "the next ones are out"

    def turn(self, after_ns: int = 0) -> None:
        self.clock.now += after_ns
        self.loop.turn(None)

    def report(self, work: Work, completion: Completion) -> None:
        self.backend.events.append(Report(work.worker, completion, "j"))
        self.turn()

    def finish(self) -> None:
        """What was given out longest is done."""
        work = self.backend.given.pop(0)
        count = sum(part.count for part in work.parts)
        self.report(work, Completion(work.dispatch, count, is_last=True, busy_ns=10 * MS * count))

    def hang(self) -> None:
        """Nothing is answered from now on, and a commit is under way."""
        self.disk.hangs = True
        self.turn(50 * MS)  # no commit waits for company so long
        self.finish()
        assert self.disk.owed


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert made.live.lost is None


def test_nothing_is_given_out_before_the_disk_has_answered(world: World) -> None:
    world.hang()
    world.turn(SILENCE_NS // 2)
    world.finish()
    assert world.backend.given, "a slow disk stops nobody"
    world.turn(SILENCE_NS)
    while world.backend.given:
        world.finish()
    for _ in range(3):
        world.turn(SILENCE_NS)
    assert not world.backend.given
    world.disk.answer()
    world.turn()
    assert world.backend.given, "it has answered"


def test_a_generator_waits_for_the_disk_as_well(world: World) -> None:
    world.hang()
    world.turn(SILENCE_NS + 1)
    before = world.backend.told_to_go_on
    world.report(world.of_a, Completion(world.of_a.dispatch, 0, (), cursor=b"d", is_last=False))
    assert world.backend.told_to_go_on == before
    world.disk.answer()
    world.turn()
    assert world.backend.told_to_go_on == before + 1


def test_whoever_looks_is_told_since_when_the_disk_is_silent(world: World) -> None:
    world.hang()
    began = world.clock.now
    world.turn(SILENCE_TOLD_NS - MS)
    assert world.live.view.blocked is None, "not for every hiccup"
    world.turn(SILENCE_NS)
    assert world.live.view.blocked == (_SILENT, began)
    world.disk.refuse()
    world.turn()
    assert world.live.view.blocked == ("no space left", began), "now it is known why"
    world.turn(SILENCE_NS)
    world.disk.answer()
    world.turn()
    assert world.live.view.blocked is None


def test_it_is_told_also_when_no_worker_keeps_the_loop_turning(world: World) -> None:
    """Of a job that waits for its caller all workers are stopped by and by."""
    world.hang()
    world.loop.placement.workers.clear()
    world.turn()
    assert (world.backend.waits_s or 60.0) <= SILENCE_NS / 1e9
