"""Activations that kill their worker, never come back, or eat the memory: charged, reported, never a hang."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import ErrorHandler, Flow, JobState, Routine, Runtime
from routilux_mp.backends.base import Exit
from routilux_mp.backends.nursery import _Memory
from routilux_mp.errors import CheckpointDamaged
from tests.recovery import processes

#: Every wait for a job; none of them takes a tenth of it.
DEADLINE_S = 30.0
N = 20
BAD = 7

Act = Callable[[Routine], None]


class Source(Routine):
    """Emits numbers, all in one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, n: int) -> None:
        for i in range(n):
            self.emit("out", i=i)


def sink(act: Act, bad: int = BAD) -> Routine:
    """Passes every number on, after ``act`` for the bad one."""
    routine = Routine()

    def go(i: int) -> None:
        if i == bad:
            act(routine)
        routine.emit("out", i=i)

    routine.define_slot("in", handler=go)
    routine.define_event("out")
    return routine


def job(act: Act, handler: ErrorHandler | None = None, bad: int = BAD, **options: Any) -> Flow:
    flow = Flow(flow_id="crashes")
    routine = sink(act, bad)
    if handler is not None:
        routine.set_error_handler(handler)
    flow.add_routine(Source(), "source")
    flow.add_routine(routine, "sink", **options)
    flow.connect("source", "out", "sink", "in")
    return flow


@contextmanager
def ended(flow: Flow, folder: Path, n: int = N, **settings: Any) -> Iterator[JobState]:
    """Run it to its end; its runtime is still there."""
    runtime = Runtime(3, checkpoint_dir=str(folder), **settings)
    try:
        state = runtime.exec(flow, {"n": n}, settle_s=0)
        assert JobState.wait_for_completion(flow, state, timeout=DEADLINE_S), f"stuck: {state.progress}"
        yield state
    finally:
        runtime.shutdown(wait=False)
    # The end is sealed, and people and other tools can read it.
    shown = json.loads((folder / state.job_id / "job_state.json").read_bytes())
    assert (shown["status"], "incomplete" in shown) == (str(state.status), False)
    assert len(shown["dead_letters"]) == len(state._live_or_fail().handle.view.dead_letters)


def results(state: JobState) -> list[int]:
    return [result["i"] for result in state.results("sink", "out")]


def errors(state: JobState) -> list[str]:
    """Messages of the failed attempts, in order."""
    return [r.data["error"] for r in state.execution_history if r.event_name.startswith("error")]


def die(number: int) -> Act:
    return lambda routine: os.kill(os.getpid(), number)


# -- crashes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "how"),
    [
        pytest.param(die(signal.SIGSEGV), "was ended by SIGSEGV", id="segfault"),
        pytest.param(die(signal.SIGKILL), "was ended by SIGKILL", id="killed"),
        pytest.param(lambda routine: os._exit(3), "exited with status 3", id="exit"),
        pytest.param(lambda routine: os._exit(0), "exited with status 0", id="exit-0"),
    ],
)
def test_a_poison_pill_becomes_a_dead_letter_and_harms_nobody(act: Act, how: str, tmp_path: Path) -> None:
    with ended(job(act), tmp_path) as state:
        assert state.status == "completed"
        assert results(state) == [i for i in range(N) if i != BAD]
        (letter,) = state.dead_letters
        assert letter["activation_id"] == f"{state.job_id}/sink/{BAD}"
        assert (letter["routine_id"], letter["slot_name"], letter["data"]) == ("sink", "in", {"i": BAD})
        assert letter["error_type"] == "WorkerCrashed"
        reports = errors(state)
        assert len(reports) == 3  # max_crashes
        for report in reports:
            assert how in report
            assert "peak memory" in report
            assert "out of memory" not in report


def test_max_crashes_is_a_setting(tmp_path: Path) -> None:
    with ended(job(die(signal.SIGKILL)), tmp_path, max_crashes=1) as state:
        assert len(errors(state)) == 1
        assert len(state.dead_letters) == 1


@pytest.mark.parametrize(
    ("strategy", "status"), [("stop", "failed"), ("retry", "failed"), ("continue", "completed"), ("skip", "completed")]
)
def test_a_dead_letter_counts_as_failed_under_the_strategy(strategy: str, status: str, tmp_path: Path) -> None:
    flow = job(die(signal.SIGKILL), ErrorHandler(strategy, retry_delay=0.01))
    with ended(flow, tmp_path) as state:
        assert state.status == status
        assert len(state.dead_letters) == 1
        if status == "failed":
            assert "sink: WorkerCrashed: worker process" in str(state.error)
        else:
            assert results(state) == [i for i in range(N) if i != BAD]


def test_crash_counts_outlive_the_supervisor_and_letters_are_read_by_others(tmp_path: Path) -> None:
    flow = job(die(signal.SIGKILL))
    with ended(flow, tmp_path) as state:
        letters = state.dead_letters
    with Runtime(3, checkpoint_dir=str(tmp_path)) as runtime:
        again = runtime.resume_job(state.job_id, flow)
        assert again.dead_letters == letters
        assert results(again) == [i for i in range(N) if i != BAD]


def test_a_worker_that_dies_between_activations_charges_nobody(tmp_path: Path) -> None:
    """Killed by somebody while it has nothing to do: a new one does what comes next."""
    flow = job(lambda routine: None)
    with Runtime(3, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.exec(flow, {"n": 1}, settle_s=DEADLINE_S)
        assert state.status == "completed"
        workers = processes.family(os.getpid()).workers
        assert workers
        processes.kill(workers)
        again = runtime.exec(flow, {"n": N}, settle_s=0)
        assert JobState.wait_for_completion(flow, again, timeout=DEADLINE_S)
        assert results(again) == list(range(N))
        assert errors(again) == []


def test_a_crash_keeps_the_order_of_a_single_worker(tmp_path: Path) -> None:
    """What had come before the crash and was not reported yet runs again before what crashed, not after it."""
    mark = tmp_path / "has crashed"

    def act(routine: Routine) -> None:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with ended(job(act), tmp_path / "checkpoints", flush_ms=60_000) as state:
        assert results(state) == list(range(N))
        assert len(errors(state)) == 1


class Poison:
    """Cannot be built where a worker builds it: it ends the process."""

    def __init__(self, home: int) -> None:
        self.home = home

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() != self.home:
            os._exit(5)


def test_an_input_that_kills_whoever_opens_it_is_found(tmp_path: Path) -> None:
    home = os.getpid()
    flow = Flow(flow_id="poison")
    source = Routine()

    def go(n: int) -> None:
        for i in range(n):
            source.emit("out", i=Poison(home) if i == BAD else i)

    source.define_slot("trigger", handler=go)
    source.define_event("out")
    flow.add_routine(source, "source")
    flow.add_routine(sink(lambda routine: None), "sink")
    flow.connect("source", "out", "sink", "in")
    with ended(flow, tmp_path) as state:
        assert state.status == "completed"
        assert results(state) == [i for i in range(N) if i != BAD]
        (letter,) = state.dead_letters
        assert letter["activation_id"].endswith(f"/sink/{BAD}")
        assert isinstance(letter["data"]["i"], Poison)


class DiesAtBirth(Routine):
    """Loads in the nursery, which makes it once, and never in a worker."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in", handler=lambda i: None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        type(self).made += 1
        if type(self).made > 1:
            os._exit(4)


def test_a_routine_that_cannot_live_in_a_worker_is_no_hang(tmp_path: Path) -> None:
    flow = Flow(flow_id="birth")
    flow.add_routine(Source(), "source")
    flow.add_routine(DiesAtBirth(), "sink")
    flow.connect("source", "out", "sink", "in")
    with ended(flow, tmp_path, n=3) as state:
        assert state.status == "completed"
        assert len(state.dead_letters) == 3
        assert all("exited with status 4" in report for report in errors(state))


def test_a_handler_that_closes_all_descriptors_fails_its_job(tmp_path: Path) -> None:
    """As careless daemons do: the worker can never report again, and dies whenever it tries."""
    with ended(job(lambda routine: os.closerange(3, 256)), tmp_path) as state:
        assert state.status == "failed"
        assert "die before they begin with their work: worker process" in str(state.error)
        # What was done in the same breath could not be reported either; nothing of it shows.
        assert results(state) == list(range(len(results(state))))
        assert len(results(state)) <= BAD


# -- what is no crash ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError(), GeneratorExit()])
def test_whatever_a_handler_raises_is_its_own_failure(error: BaseException, tmp_path: Path) -> None:
    def act(routine: Routine) -> None:
        raise error

    with ended(job(act), tmp_path) as state:
        assert state.status == "completed"
        assert results(state) == [i for i in range(N) if i != BAD]
        assert state.dead_letters == []
        assert len(errors(state)) == 1


def hog(routine: Routine) -> None:
    """Takes memory until the limit that it runs under says no."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
    kept = []
    while True:
        kept.append(bytearray(1 << 22))


def test_a_handler_that_hits_its_memory_limit_fails_and_the_others_do_not(tmp_path: Path) -> None:
    with ended(job(hog), tmp_path) as state:
        assert state.status == "completed"
        assert results(state) == [i for i in range(N) if i != BAD]
        (record,) = [r for r in state.execution_history if r.event_name == "error"]
        assert record.data["error_type"] == "MemoryError"


# -- time limits --------------------------------------------------------------------------------


def hang(routine: Routine) -> None:
    time.sleep(600)


def compute(routine: Routine) -> None:
    """Holds the interpreter lock in one call for minutes."""
    3 ** (1 << 27)


@pytest.mark.parametrize("act", [hang, compute])
def test_a_handler_that_exceeds_its_time_is_killed_and_has_failed(act: Act, tmp_path: Path) -> None:
    begin = time.monotonic()
    with ended(job(act, timeout_s=0.3), tmp_path) as state:
        assert time.monotonic() - begin < DEADLINE_S / 2
        assert state.status == "completed"
        assert results(state) == [i for i in range(N) if i != BAD]
        (record,) = [r for r in state.execution_history if r.event_name == "error"]
        assert record.data["error_type"] == "ActivationTimeout"
        assert "timeout_s" in record.data["error"]


def test_a_timeout_under_stop_fails_the_job(tmp_path: Path) -> None:
    with ended(job(hang, ErrorHandler("stop"), timeout_s=0.2), tmp_path) as state:
        assert state.status == "failed"
        assert "ActivationTimeout" in str(state.error)
        assert BAD not in results(state)


def test_a_timeout_under_retry_is_tried_again(tmp_path: Path) -> None:
    def act(routine: Routine) -> None:
        if routine.attempt < 3:
            time.sleep(600)

    with ended(job(act, ErrorHandler("retry", retry_delay=0.01), timeout_s=0.2), tmp_path) as state:
        assert state.status == "completed"
        assert sorted(results(state)) == list(range(N))
        assert len(errors(state)) == 2


def test_a_timeout_of_one_routine_leaves_the_others_at_work(tmp_path: Path) -> None:
    flow = job(hang, timeout_s=0.5)
    flow.add_routine(sink(lambda routine: None), "other")
    flow.connect("source", "out", "other", "in")
    with ended(flow, tmp_path) as state:
        assert [r["i"] for r in state.results("other", "out")] == list(range(N))


def test_cancelling_a_hang_takes_no_longer_than_the_grace_period(tmp_path: Path) -> None:
    flow = job(hang)
    with Runtime(3, checkpoint_dir=str(tmp_path), grace_s=0.3) as runtime:
        state = runtime.exec(flow, {"n": N}, settle_s=0)
        deadline = time.monotonic() + DEADLINE_S
        while len(results(state)) < BAD:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        begin = time.monotonic()
        runtime.cancel(state, "enough", timeout_s=DEADLINE_S)
        assert state.status == "cancelled"
        assert time.monotonic() - begin < DEADLINE_S / 2


def test_leaving_a_runtime_does_not_wait_for_a_hang(tmp_path: Path) -> None:
    flow = job(hang)
    runtime = Runtime(3, checkpoint_dir=str(tmp_path), grace_s=0.3)
    state = runtime.exec(flow, {"n": N}, settle_s=0)
    begin = time.monotonic()
    runtime.shutdown(wait=False)
    assert time.monotonic() - begin < DEADLINE_S / 2
    flow = job(lambda routine: None)
    with Runtime(3, checkpoint_dir=str(tmp_path)) as runtime:
        again = runtime.resume_job(state.job_id, flow)
        assert JobState.wait_for_completion(flow, again, timeout=DEADLINE_S)
        assert results(again) == list(range(N))


def test_a_job_that_cannot_be_read_says_so_at_once(tmp_path: Path) -> None:
    with ended(job(lambda routine: None), tmp_path) as state:
        pass
    (tmp_path / state.job_id / "format.json").unlink()
    with Runtime(3, checkpoint_dir=str(tmp_path)) as runtime, pytest.raises(CheckpointDamaged, match=r"format\.json"):
        runtime.resume_job(state.job_id)


# -- memory -------------------------------------------------------------------------------------


@pytest.fixture
def memory(tmp_path: Path) -> _Memory:
    """Looks at made-up files of a cgroup with a limit of 1 GiB."""
    made = _Memory()
    made._events, made._limit = str(tmp_path / "memory.events"), str(tmp_path / "memory.max")
    (tmp_path / "memory.max").write_text(f"{1 << 30}\n")
    (tmp_path / "memory.events").write_text("oom 0\noom_kill 0\n")
    made.looks_exhausted(0)  # what was counted before does not count
    return made


def test_a_killed_worker_is_likely_out_of_memory_when_the_kernel_counted_a_victim(
    memory: _Memory, tmp_path: Path
) -> None:
    assert not memory.looks_exhausted(10 << 20)
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 1\n")
    assert memory.looks_exhausted(10 << 20)
    assert not memory.looks_exhausted(10 << 20)  # that victim was the one before


def test_a_killed_worker_is_likely_out_of_memory_when_it_held_most_of_it(memory: _Memory) -> None:
    assert not memory.looks_exhausted(400 << 20)
    assert memory.looks_exhausted(600 << 20)


def test_the_report_says_what_is_likely() -> None:
    report = Exit(7, signal=signal.SIGKILL, peak_rss_bytes=600 << 20, is_oom_suspected=True).report
    assert report == "worker process 7 was ended by SIGKILL; peak memory 600 MiB; likely out of memory"
