"""What becomes of a failed job when it is resumed: it stays failed, unless something unfinished has retries left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from routilux_mp import ErrorHandler, Flow, JobState, Routine, Runtime

DEADLINE_S = 20.0


def three_and_one_that_fails(max_retries: int, *, strategy: str = "retry", succeeds_at: int = 5) -> Flow:
    """The second of three emissions fails until the attempt ``succeeds_at``."""
    source, worker = Routine(), Routine()
    source.add_event("output")
    source.add_slot("trigger", handler=lambda: [source.emit("output", n=n) for n in range(3)] and None)
    worker.add_event("output")

    def work(n: int) -> None:
        if n == 1 and worker.attempt < succeeds_at:
            raise ValueError(f"attempt {worker.attempt}")
        worker.emit("output", n=n, attempt=worker.attempt)

    worker.add_slot("input", handler=work)
    worker.set_error_handler(ErrorHandler(strategy, max_retries=max_retries, retry_delay=0.001))
    flow = Flow("failed and resumed")
    flow.add_routine(source, "source")
    flow.add_routine(worker, "worker")
    flow.connect("source", "output", "worker", "input")
    return flow


@pytest.fixture(params=["inline", "local"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runtime(backend: str, tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / "root")) as runtime:
        yield runtime


def finish(flow: Flow, state: JobState) -> JobState:
    assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    return state


def done(state: JobState) -> list[tuple[int, int]]:
    return [(row["n"], row["attempt"]) for row in state.results("worker", "output")]


def failures(state: JobState) -> list[str]:
    return [r.data["error"] for r in state.get_execution_history("worker") if r.event_name == "error"]


def test_without_retries_left_it_stays_failed(runtime: Runtime) -> None:
    flow = three_and_one_that_fails(2)
    state = finish(flow, flow.execute("source"))
    assert (state.status, len(failures(state)), flow.get_routine_retry_count("worker")) == ("failed", 3, 2)
    records = len(state.execution_history)
    assert flow.resume(state) is state
    assert (state.status, len(state.execution_history)) == ("failed", records)
    stopping = three_and_one_that_fails(9, strategy="stop")
    assert stopping.resume(state).status == "failed"


def test_a_flow_that_allows_more_retries_goes_on(runtime: Runtime) -> None:
    flow = three_and_one_that_fails(2)
    state = finish(flow, flow.execute("source"))
    more = three_and_one_that_fails(6)
    assert more.resume(state) is state
    assert state.status in ("running", "completed")
    finish(more, state)
    assert (state.status, done(state)) == ("completed", [(0, 1), (2, 1), (1, 5)])
    assert failures(state) == [f"attempt {n}" for n in range(1, 5)]
    assert more.get_routine_retry_count("worker") == 4
    assert state.error is None
    assert state.get_routine_state("worker") == {"status": "completed"}
    assert more.resume(state).status == "completed"


def test_it_fails_again_when_those_are_used_up_too(runtime: Runtime) -> None:
    state = finish(three_and_one_that_fails(1), three_and_one_that_fails(1).execute("source"))
    more = three_and_one_that_fails(2)
    finish(more, more.resume(state))
    assert (state.status, len(failures(state))) == ("failed", 3)


@pytest.mark.parametrize("has_log", [True, False], ids=["its root", "another root"])
def test_from_a_document(runtime: Runtime, backend: str, tmp_path: Path, has_log: bool) -> None:
    flow = three_and_one_that_fails(2)
    sent = json.dumps(finish(flow, flow.execute("source")).serialize())
    runtime.shutdown()
    with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / ("root" if has_log else "other"))):
        same = JobState.deserialize(json.loads(sent))
        assert flow.resume(same).status == "failed"
        more = three_and_one_that_fails(6)
        state = JobState.deserialize(json.loads(sent))
        assert more.resume(state) is state
        assert state.status in ("running", "completed")
        finish(more, state)
        assert (state.status, done(state)) == ("completed", [(0, 1), (2, 1), (1, 5)])
        assert len(failures(state)) == 4


def test_a_retry_that_waited_when_another_routine_failed_the_job(runtime: Runtime) -> None:
    """What failed the job has no retries, what waits for one has: resumed, the job goes on with both."""

    def flow_with(divisor: int) -> Flow:
        flow = three_and_one_that_fails(3, succeeds_at=2)
        handler = flow.routines["worker"].get_error_handler()
        assert handler is not None
        handler.retry_delay = 60
        other = Routine()
        other.set_config(divisor=divisor)

        def divide(n: int) -> None:
            if n == 2:
                1 // other.get_config("divisor")

        other.add_slot("input", handler=divide)
        other.set_error_handler(ErrorHandler("stop"))
        flow.add_routine(other, "other")
        flow.connect("worker", "output", "other", "input")
        return flow

    broken, mended = flow_with(0), flow_with(1)
    state = finish(broken, broken.execute("source"))
    assert (state.status, failures(state)) == ("failed", ["attempt 1"])
    assert mended.resume(state).status == "running"
    mended.cancel(state)
    assert state.status == "cancelled"
    assert mended.resume(state).status == "cancelled"
