"""When commits wait for company: while every core has work, and nobody outside has asked for anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Work
from routilux_mp._core.job import Job, Run
from routilux_mp._core.records import Completed
from routilux_mp._core.stimuli import Annotate, Completion, Emit, Pause, StateOp, Stimulus, Submit
from routilux_mp._core.topology import ConnectionSpec, Topology
from routilux_mp._serialization.packing import pack
from routilux_mp._supervisor.commits import GATHER_NS
from routilux_mp._supervisor.committer import InstantCommitter
from routilux_mp._supervisor.live import LiveJob, NullTenure
from routilux_mp._supervisor.loop import Loop
from routilux_mp._supervisor.pace import TURN_NS, TURN_OF_MANY_NS, TURN_SHARE
from routilux_mp._supervisor.placement import Placement
from routilux_mp._worker.spill import REFERENCE
from routilux_mp.backends.base import Event, Message, Report, Started
from routilux_mp.settings import Settings
from tests.unit.core.core_bench import routine

MS = 1_000_000
#: Nothing waits for company longer than that.
WAIT_NS = max(GATHER_NS, TURN_NS * 3 // 2)


class Clock:
    now = 10**18

    def now_ns(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return self.now


class Backend:
    """Workers that do nothing by themselves."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.given: dict[int, list[Work]] = {0: [], 1: []}  # per routine
        self.waits: list[float | None] = []
        self.pause_s = 0.0  # what was asked for last

    def poll(self, timeout_s: float | None, pause_s: float = 0.0) -> list[Event]:
        self.waits.append(timeout_s)
        self.pause_s = pause_s
        events, self.events = self.events, []
        return events

    def start(self, worker: int, code_id: str) -> None:
        self.events.append(Started(worker, worker))

    def send(self, worker: int, message: Message, job_id: str = "") -> None:
        if isinstance(message, Work):
            self.given[message.routine].append(message)

    def running(self, worker: int) -> tuple[int, int, int]:
        return (0, -1, 0)


class World:
    """A routine with two workers that feeds another one; 10 ms for each of its activations."""

    def __init__(self, cores: int) -> None:
        self.clock, self.backend = Clock(), Backend()
        self.loop = Loop(
            Settings(durability="none"), self.backend, InstantCommitter(), self.clock,  # type: ignore[arg-type]
            introduce=lambda live, slot: None, read_batch=lambda live, batch: b"",
            on_print=lambda stream, text: None, documents=lambda live: lambda: (None, b""), workers_max=4, cores=cores,
        )  # fmt: skip
        topology = Topology(
            "f", "concurrent", (routine("a", workers=2), routine("b", events=0)), (ConnectionSpec(0, 0, 1, 0),)
        )
        self.live = LiveJob(Job("j"), NullTenure(10), "code")
        self.loop.add(self.live, Submit("f", topology.to_plain(), 0, 0, Batch(100, b"x")))
        self.turn()
        self.turn()
        for _ in range(4):  # until it is known how long they take, and the first of b has run
            self.finish()
            self.clock.now += WAIT_NS
            self.turn()
            self.drain()
        assert self.loop.placement.are_busy({work.worker for work in self.backend.given[0]}, 9 * MS) == (cores <= 2)

    def turn(self) -> None:
        self.loop.turn(None)

    def finish(self) -> None:
        """The oldest of routine a is done."""
        work = self.backend.given[0].pop(0)
        emits = (Emit(0, Batch(1, b"y")),)
        self.backend.events.append(
            Report(work.worker, Completion(work.dispatch, 1, emits, is_last=True, busy_ns=10 * MS), "j")
        )

    def drain(self) -> None:
        """All that b has is done."""
        while self.backend.given[1]:
            work = self.backend.given[1].pop()
            count = sum(part.count for part in work.parts)
            self.backend.events.append(
                Report(work.worker, Completion(work.dispatch, count, is_last=True, busy_ns=100), "j")
            )
            self.turn()

    def finish_two(self) -> None:
        """The first goes at once, since the last commit is long ago; the second follows it closely."""
        self.clock.now += WAIT_NS
        self.finish()
        self.turn()
        self.drain()
        self.clock.now += MS
        self.finish()
        self.turn()


@pytest.fixture
def world() -> Iterator[World]:
    made = World(cores=2)
    yield made
    assert made.live.lost is None


def test_while_every_core_is_busy_a_commit_waits_for_company_and_not_for_ever(world: World) -> None:
    world.finish_two()
    assert world.live.records
    assert not world.backend.given[1]
    world.turn()
    left_s = world.backend.waits[-1]
    assert left_s is not None
    wait_ns = max(GATHER_NS, world.loop.pace.distance_ns * 3 // 2)
    assert 0 < left_s <= (wait_ns - MS) / 1e9  # the loop wakes by itself
    world.clock.now += WAIT_NS
    world.turn()
    assert not world.live.records
    assert len(world.backend.given[1]) == 1


def test_with_a_core_to_spare_it_goes_at_once() -> None:
    world = World(cores=3)
    world.finish_two()
    assert not world.live.records
    assert len(world.backend.given[1]) == 1


def test_a_worker_that_runs_out_of_work_ends_the_waiting(world: World) -> None:
    world.finish_two()
    slots = world.loop.placement.workers.values()
    job = world.live.job
    job.routines[0].ready.clear()  # there is nothing to follow for it
    while world.backend.given[0] and world.live.records:
        assert sum(slot.load > 0 for slot in slots if slot.routine == "a") == 2
        world.finish()
        world.turn()
    assert len(world.backend.given[1]) >= 1


def test_a_generator_may_be_waiting_for_the_world(world: World) -> None:
    world.clock.now += WAIT_NS
    work = world.backend.given[0][0]
    world.backend.events.append(Report(work.worker, Completion(work.dispatch, 0, cursor=b"1"), "j"))
    world.turn()
    world.clock.now += MS
    other = next(w for w in world.backend.given[0] if w.worker != work.worker)
    world.backend.given[0].remove(other)
    world.backend.given[0].insert(0, other)
    world.finish()
    world.turn()
    assert not world.live.records


@pytest.mark.parametrize("wish", [Pause("please", b""), Annotate((StateOp("set", "", "key", b"x"),))])
def test_what_somebody_asked_for_waits_for_nothing(world: World, wish: Stimulus) -> None:
    world.finish_two()
    assert world.live.records
    world.loop.happen(world.live, wish, world.clock.now)
    world.turn()
    assert not world.live.records


def test_while_every_core_is_busy_turns_are_at_a_distance(world: World) -> None:
    busy_ns = world.loop.placement.busy_ns()
    assert busy_ns >= 10 * MS
    distance_ns = min(TURN_NS, TURN_SHARE * busy_ns)
    world.turn()
    world.turn()
    assert world.backend.pause_s == distance_ns / 1e9
    world.clock.now += MS
    world.turn()
    assert world.backend.pause_s == (distance_ns - MS) / 1e9
    world.clock.now += TURN_NS
    world.turn()
    assert world.backend.pause_s == 0


def test_where_turns_are_far_apart_a_commit_goes_with_every_second_one(world: World) -> None:
    world.loop.placement._ahead_ns = 1e9
    world.turn()
    world.turn()
    assert world.loop.pace.distance_ns == TURN_NS > GATHER_NS / 1.5
    world.finish_two()
    world.clock.now += TURN_NS
    world.turn()
    assert world.live.records
    world.clock.now += TURN_NS
    world.turn()
    assert not world.live.records


def test_the_turns_of_a_job_beside_others_are_closer(world: World) -> None:
    world.loop.placement._ahead_ns = 1e9
    world.turn()
    world.turn()
    assert world.backend.pause_s == TURN_NS / 1e9
    other = LiveJob(Job("k"), NullTenure(10), "code")
    world.loop.add(other, Submit("f", world.live.job.topology.to_plain(), 0, 0, Batch(1, b"x")))
    world.turn()
    world.turn()
    assert world.backend.pause_s == TURN_OF_MANY_NS / 1e9
    assert other.lost is None


def test_the_turns_of_more_workers_than_cores_are_closer(world: World) -> None:
    placement = world.loop.placement
    placement._ahead_ns = 1e9
    world.turn()
    world.turn()
    assert world.backend.pause_s == TURN_NS / 1e9
    third = placement.new("code", "c", 0)
    placement.gave(third, 1000, "j", 1)  # nobody knows how long that takes
    world.turn()
    world.turn()
    assert world.backend.pause_s == TURN_OF_MANY_NS / 1e9
    placement._pace_ns["code", "c"] = MS / 100
    world.turn()
    assert world.backend.pause_s == TURN_NS / 1e9


def test_the_turns_of_a_job_that_holds_shared_memory_are_closer(world: World) -> None:
    world.loop.placement._ahead_ns = 1e9
    world.turn()
    world.turn()
    assert world.backend.pause_s == TURN_NS / 1e9
    reference = REFERENCE + pack(("e0000001/a-1", 1 << 20, 0, 0, 1 << 20))
    work = world.backend.given[0].pop(0)
    emits = (Emit(0, Batch(1, reference)),)
    done = Completion(work.dispatch, 1, emits, is_last=True, busy_ns=10 * MS)
    world.backend.events.append(Report(work.worker, done, "j"))
    world.clock.now += WAIT_NS
    world.turn()
    assert len(world.live.blobs) == 1
    world.turn()
    assert world.backend.pause_s == TURN_OF_MANY_NS / 1e9


def test_payloads_in_shared_memory_go_when_a_quarter_more_is_there(world: World) -> None:
    released: list[str] = []
    live = world.live
    live.tenure.release_blobs = released.extend  # type: ignore[method-assign,assignment]

    def note(name: str, is_needed: bool) -> None:
        batch = Batch(1, REFERENCE + pack((name, 1 << 20, 0, 0, 1 << 20)))
        if is_needed:
            live.job.routines[1].slots[0].append(Run(0, 0, 0, batch, 0, 1))
        live._release_consumed([Completed(1, 0, (0, 1), (Emit(0, batch),))])

    for n in range(40):
        note(f"e0000001/needed-{n}", is_needed=True)
    assert not released
    for n in range(60):
        note(f"e0000001/consumed-{n}", is_needed=False)
        assert len(live.blobs) <= 50
    assert set(released) == {f"e0000001/consumed-{n}" for n in range(len(released))}
    assert len(released) + len(live.blobs) == 100


def test_with_a_core_to_spare_turns_follow_at_once() -> None:
    world = World(cores=3)
    assert world.loop.placement.busy_ns() == 0
    world.turn()
    world.turn()
    assert world.backend.pause_s == 0


def test_what_runs_already_keeps_no_core_busy_for_long() -> None:
    placement = Placement(workers_max=3, ahead_ms=20, cores=2)
    first, second, third = (placement.new("code", "r", 0) for _ in range(3))
    placement.gave(first, 1, "j", 1)
    placement.reported(first, 1, 1, True, 10 * MS, 0)
    for number, (slot, count) in enumerate(((first, 2), (second, 5), (third, 4)), 2):
        placement.gave(slot, number, "j", count)
    assert placement.busy_ns() == 0, "one call says little of how long they take"
    placement.reported(first, 2, 2, True, 20 * MS, 0)
    placement.gave(first, 5, "j", 2)
    assert placement.busy_ns() == 30 * MS  # of the two that have most, the one that has less, behind what it runs
    assert [slot.load for slot in (first, second, third)] == [2, 5, 4]


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_job_whose_time_is_over_is_told_so_whatever_else_happens_then(world: World, is_busy: bool) -> None:
    job = world.live.job
    job.ends_after_ns = 0
    job.fails_at_ns = world.clock.now + 5 * MS
    world.loop.happen(world.live, Annotate((StateOp("set", "", "k", 1),)), world.clock.now)
    world.clock.now += 6 * MS
    if is_busy:  # another thread is served, and a worker reports, before it is looked at what time it is
        world.loop.happen(world.live, Annotate((StateOp("set", "", "k", 2),)), world.clock.now)
        world.finish()
    world.turn()
    assert job.closing is not None
    assert job.closing[0] == "failed"


def test_what_somebody_waits_for_is_shown_with_its_commit_however_busy_the_job_is(world: World) -> None:
    world.clock.now += WAIT_NS
    world.finish()
    world.turn()  # a view was taken now
    before = world.live.version
    world.loop.happen(world.live, Annotate((StateOp("set", "", "k", 1),)), world.clock.now)
    world.live.is_dirty = True
    world.turn()
    assert world.live.job.dispatches
    assert world.live.view.version == before + 1
    assert world.live.view.shared["k"] == 1
