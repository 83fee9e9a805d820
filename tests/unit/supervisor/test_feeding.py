"""Many routines want a worker and few are there: what a turn then costs, and that each gets its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Work
from routilux_mp._core.job import Job
from routilux_mp._core.stimuli import Completion, Emit, Submit
from routilux_mp._core.topology import ConnectionSpec, Topology
from routilux_mp._supervisor.committer import InstantCommitter
from routilux_mp._supervisor.live import LiveJob, NullTenure
from routilux_mp._supervisor.loop import Loop
from routilux_mp._supervisor.placement import Placement
from routilux_mp.backends.base import Report, Started
from routilux_mp.settings import Settings
from tests.unit.core.core_bench import routine

ROUTINES, WORKERS = 200, 3


class World:
    """A routine that feeds two hundred others."""

    def __init__(self) -> None:
        self.now = 10**18
        self.events: list[Any] = []
        self.given: list[Work] = []
        clock = SimpleNamespace(now_ns=lambda: self.now, monotonic_ns=lambda: self.now)
        backend = SimpleNamespace(
            poll=self.poll, send=self.send, stop=lambda _: None, running=lambda _: (0, -1, 0),
            start=lambda worker, code_id: self.events.append(Started(worker, worker)),
        )  # fmt: skip
        self.loop = Loop(
            Settings(durability="none"), backend, InstantCommitter(), clock,  # type: ignore[arg-type]
            introduce=lambda live, slot: None, read_batch=lambda live, batch: b"",
            on_print=lambda stream, text: None, documents=lambda live: lambda: (None, b""),
            workers_max=WORKERS, cores=2,
        )  # fmt: skip
        topology = Topology(
            "f", "concurrent", (routine("source"), *(routine(f"r{n}", events=0) for n in range(ROUTINES))),
            tuple(ConnectionSpec(0, 0, n + 1, 0) for n in range(ROUTINES)),
        )  # fmt: skip
        self.live = LiveJob(Job("j"), NullTenure(10), "code")
        self.loop.add(self.live, Submit("f", topology.to_plain(), 0, 0, Batch(1, b"x")))

    def poll(self, timeout_s: float | None, pause_s: float = 0.0) -> list[Any]:
        events, self.events = self.events, []
        return events

    def send(self, worker: int, message: object, job_id: str = "") -> None:
        if isinstance(message, Work):
            self.given.append(message)

    def finish(self) -> int:
        """The oldest is done; which routine it was of."""
        work = self.given.pop(0)
        emits = (Emit(0, Batch(1, b"y")),) if work.routine == 0 else ()
        done = Completion(work.dispatch, 1, emits, is_last=True, busy_ns=10_000_000)
        self.events.append(Report(work.worker, done, "j"))
        return work.routine

    def turn(self) -> None:
        self.now += 50_000_000
        self.loop.turn(None)


def test_who_waits_for_a_worker_costs_a_turn_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [0]
    candidate = Placement.candidate

    def counted(self: Placement, *arguments: Any) -> Any:
        looked[0] += 1
        return candidate(self, *arguments)

    monkeypatch.setattr(Placement, "candidate", counted)
    world = World()
    for _ in range(3):
        world.turn()
    done = [world.finish()]
    world.turn()
    turns = 0
    looked[0] = 0
    while len(done) <= ROUTINES:
        while not world.given:
            world.turn()
            turns += 1
        done.append(world.finish())
        world.turn()
        turns += 1
    assert sorted(done) == list(range(ROUTINES + 1)), "each has had its turn, once"
    assert world.live.lost is None
    assert looked[0] <= turns * (2 * WORKERS + 2), "not one look for each that waits"
    world.turn()
    assert world.live.job.status == "completed"
