"""Workers that cannot begin: tried ever more slowly, then given up, whatever else goes on."""

from __future__ import annotations

from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.job import Job
from routilux_mp._core.stimuli import Completion, Submit
from routilux_mp._core.topology import Topology
from routilux_mp._supervisor.committer import InstantCommitter
from routilux_mp._supervisor.live import LiveJob
from routilux_mp._supervisor.loop import Loop
from routilux_mp._supervisor.staff import SILENT_DEATHS_MAX
from routilux_mp._supervisor.unkept import NullTenure
from routilux_mp._worker.liveness import LOOK_NS
from routilux_mp.backends.base import CodeRefused, Died, Event, Exit, Report, Started
from routilux_mp.errors import BackendError
from routilux_mp.settings import Settings
from tests.unit.core.core_bench import routine


class ManualClock:
    def __init__(self) -> None:
        self.now = 10**18

    def now_ns(self) -> int:
        self.now += 1
        return self.now

    def monotonic_ns(self) -> int:
        return self.now


class Backend:
    """Workers of code "bad" never come to life; the others do at once whatever they are given."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.events: list[Event] = []
        self.started: dict[str, int] = {}
        self.refusal: OSError | None = None
        self.codes: dict[int, str] = {}
        self.runs: dict[int, tuple[int, int, int]] = {}
        self.killed: list[int] = []

    def start(self, worker: int, code_id: str) -> None:
        self.started[code_id] = self.started.get(code_id, 0) + 1
        self.codes[worker] = code_id
        if self.refusal is not None:
            raise self.refusal
        if code_id == "bad":
            self.events.append(Died(worker, Exit(0, is_blameless=True, detail="cannot fork")))
        else:
            self.events.append(Started(worker, 1000 + worker))

    def send(self, worker: int, message: Any, job_id: str = "") -> None:
        if type(message).__name__ == "Work" and self.codes[worker] == "good":
            count = sum(part.count for part in message.parts)
            self.events.append(Report(worker, Completion(message.dispatch, count, is_last=True), job_id))

    def poll(self, timeout_s: float | None, pause_s: float = 0.0) -> list[Event]:
        if not self.events and timeout_s:
            self.clock.now += int(timeout_s * 1e9)
        events, self.events = self.events, []
        return events

    def running(self, worker: int) -> tuple[int, int, int]:
        return self.runs.get(worker, (0, -1, 0))

    def kill(self, worker: int) -> None:
        self.killed.append(worker)

    def stop(self, worker: int) -> None:
        pass


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.backend = Backend(self.clock)
        self.loop = Loop(
            Settings(durability="none"), self.backend, InstantCommitter(), self.clock,  # type: ignore[arg-type]
            introduce=lambda live, slot: slot.introduced.add(live.job.job_id), read_batch=lambda live, batch: b"",
            on_print=lambda stream, text: None, documents=lambda live: lambda: (None, b""), workers_max=4,
        )  # fmt: skip

    def add(self, code_id: str, timeout_s: float | None = None) -> LiveJob:
        topology = Topology(code_id, "concurrent", (routine("a", timeout_s=timeout_s),), ())
        live = LiveJob(Job(code_id), NullTenure(10), code_id)
        self.loop.add(live, Submit(code_id, topology.to_plain(), 0, 0, Batch(3, b"x")))
        return live


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_flow_whose_workers_never_live_is_given_up_though_another_one_thrives(bench: Bench) -> None:
    bad = bench.add("bad")
    begin = bench.clock.now
    for number in range(2000):
        if number % 20 == 0:
            bench.add("good")  # reports again and again
        bench.loop.turn(0.01)
        if bad.lost is not None:
            break
    assert isinstance(bad.lost, BackendError)
    assert "cannot fork" in str(bad.lost)
    assert bench.backend.started["bad"] == SILENT_DEATHS_MAX
    assert bench.clock.now - begin > 10**9, "it was tried more and more slowly"


def test_no_descriptor_is_left_for_a_worker(bench: Bench) -> None:
    bench.backend.refusal = OSError(24, "Too many open files")
    live = bench.add("good")
    for _ in range(5):
        bench.loop.turn(0.01)
    assert live.lost is None
    assert not bench.loop.placement.workers
    bench.backend.refusal = None
    for _ in range(30):
        bench.loop.turn(0.1)
    assert live.job.is_terminal


def test_code_that_can_no_longer_be_loaded_fails_its_jobs(bench: Bench) -> None:
    bad = bench.add("bad")
    refusals: list[tuple[str, str | None]] = []
    bench.loop.on_code = lambda code_id, refusal, sources: refusals.append((code_id, refusal))
    bench.backend.events.append(CodeRefused("bad", "gone", "a"))
    bench.loop.turn(0.01)
    assert bad.job.status == "failed"
    assert "gone" in bad.view.reason
    assert refusals == [("bad", "Routine 'a': gone")]


def test_nobody_is_killed_before_its_time_is_over(bench: Bench) -> None:
    """The page may call an activation older than it is, by as much as the worker looks at it."""
    live = bench.add("slow", timeout_s=2.0)
    while not live.job.dispatches:
        bench.loop.turn(0.01)
    [dispatch] = live.job.dispatches.values()
    began_ns = bench.clock.now
    bench.backend.runs[dispatch.worker] = (dispatch.dispatch, 0, began_ns)
    bench.clock.now = began_ns + 2 * 10**9 + LOOK_NS - 100
    bench.loop.turn(0)
    assert bench.backend.killed == []
    bench.clock.now = began_ns + 2 * 10**9 + LOOK_NS + 1
    bench.loop.turn(0)
    assert bench.backend.killed == [dispatch.worker]
