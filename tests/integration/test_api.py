"""The public API over a running engine: both styles, both backends, every call that reaches a job."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import (
    ErrorHandler,
    Flow,
    FlowRegistry,
    JobState,
    Routine,
    Runtime,
    configure,
    immediate_policy,
    upstream_done_policy,
)
from routilux_mp.errors import RuntimeClosed
from routilux_mp.runtime import close_default, current_runtime

DEADLINE_S = 20.0


class Source(Routine):
    """Emits what it is given, ``count`` times."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("output", ["data"])

    def send(self, data: Any = "test", count: int = 1) -> None:
        for number in range(count):
            self.emit("output", data=data, number=number)


class Upper(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input", handler=self.process)
        self.add_event("output", ["result"])

    def process(self, data: str = "", number: int = 0) -> None:
        self.emit("output", result=f"{data.upper()}{number}")


class Counting(Routine):
    """Runtime style: keeps a count in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input")
        self.add_event("output")

        def process(slot_data: Any, policy_message: Any, job_state: Any) -> None:
            count = job_state.get_routine_state("counting", {}).get("count", 0) + len(slot_data["input"])
            job_state.update_routine_state("counting", {"count": count})
            job_state.update_shared_data("last", slot_data["input"][-1])
            self.emit("output", count=count, reason=policy_message["reason"])

        self.set_logic(process)
        self.set_activation_policy(immediate_policy())


class Total(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input")
        self.add_event("output")
        self.set_logic(self.add).set_activation_policy(upstream_done_policy())

    def add(self, numbers: list[dict[str, Any]], policy_message: Any) -> None:
        self.emit("output", total=len(numbers), reason=policy_message["reason"])


class Failing(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.process)
        self.add_slot("input", handler=self.process)
        self.add_event("output")

    def process(self, **kwargs: Any) -> None:
        self.emit("output", lost=True)
        raise ValueError(f"attempt {self.attempt}")


class Waiting(Routine):
    """Runs until a file appears, then passes its input on."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input", handler=self.process)
        self.add_event("output")

    def process(self, data: str, number: int = 0) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not Path(data).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.emit("output", number=number)


def chain(*routines: tuple[str, Routine], flow_id: str = "chain") -> Flow:
    flow = Flow(flow_id)
    ids = [flow.add_routine(routine, rid) for rid, routine in routines]
    for source, target in itertools.pairwise(ids):
        flow.connect(source, "output", target, "input")
    return flow


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


@pytest.fixture(params=["inline", "local"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(3, backend=request.param, checkpoint_dir=str(tmp_path / "root")) as runtime:
        yield runtime


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(3, backend="local", checkpoint_dir=str(tmp_path / "root")) as runtime:
        yield runtime


# -- both styles ------------------------------------------------------------------------------------


def test_handler_style(runtime: Runtime) -> None:
    flow = chain(("source", Source()), ("upper", Upper()))
    state = flow.execute("source", {"data": "a", "count": 2})
    assert flow.wait_for_completion(DEADLINE_S) is True
    assert state.status == "completed"
    assert list(state.results("upper", "output")) == [{"result": "A0"}, {"result": "A1"}]
    assert [(r.routine_id, r.event_name) for r in state.get_execution_history("source")] == [
        ("source", "start"),
        ("source", "output"),
        ("source", "output"),
        ("source", "completed"),
    ]
    assert state.execution_history[0].data == {"data": "a", "count": 2}
    assert len(state.execution_history) == 6
    assert state.routine_states == {"source": {"status": "completed"}, "upper": {"status": "completed"}}
    assert state.created_at <= state.execution_history[-1].timestamp <= state.updated_at
    assert state.progress["upper"] == (2, 0, 0)


def test_runtime_style(runtime: Runtime) -> None:
    flow = chain(("source", Source()), ("counting", Counting()), ("total", Total()), flow_id="styles")
    FlowRegistry.get_instance().register_by_name("by name", flow)
    state = runtime.exec("by name", entry_params={"count": 5})
    assert runtime.wait_until_all_jobs_finished(DEADLINE_S)
    assert runtime.exec("styles", {"count": 1}).flow_id == "styles"
    assert state.get_routine_state("counting") == {"status": "completed", "count": 5}
    assert state.shared_data["last"]["number"] == 4
    assert list(state.results("total", "output")) == [{"total": 5, "reason": "upstream_done"}]


def test_one_job_never_touches_another(runtime: Runtime) -> None:
    flow = chain(("source", Source()), ("counting", Counting()))
    states = [flow.execute("source", {"count": n}, settle_s=0) for n in (1, 2, 3)]
    assert flow.wait_for_completion(DEADLINE_S)
    assert [s.get_routine_state("counting")["count"] for s in states] == [1, 2, 3]  # type: ignore[index]
    assert len({s.job_id for s in states}) == 3


def test_sequential(runtime: Runtime) -> None:
    flow = chain(("source", Source()), ("upper", Upper()))
    state = flow.execute("source", {"count": 3}, execution_strategy="sequential")
    assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    assert len(list(state.results("upper", "output"))) == 3


# -- starting ---------------------------------------------------------------------------------------


def test_an_entry_without_a_trigger_has_failed(runtime: Runtime) -> None:
    flow = chain(("upper", Upper()))
    state = flow.execute("upper")
    assert state.status == "failed"
    assert "'trigger' slot" in (state.error or "")
    assert state.get_routine_state("upper")["status"] == "failed"  # type: ignore[index]
    assert flow.resume(state) is state
    assert state.status == "failed"


def test_exec_of_the_unknown_and_of_another_flow(runtime: Runtime) -> None:
    with pytest.raises(ValueError, match="Flow 'nowhere' not found in registry"):
        runtime.exec("nowhere")
    flow = chain(("source", Source()))
    with pytest.raises(ValueError, match="JobState flow_id '' does not match Flow flow_id 'chain'"):
        runtime.exec(flow, job_state=JobState())
    with pytest.raises(ValueError, match="must be a dictionary"):
        runtime.exec(flow, entry_params=[1])  # type: ignore[arg-type]


def test_a_pending_state_is_run_as_it_is(runtime: Runtime) -> None:
    flow = chain(("source", Source()), ("counting", Counting()))
    pending = JobState("chain")
    pending.update_routine_state("counting", {"count": 10})
    pending.metadata["mine"] = 1
    assert runtime.exec(flow, {"count": 2}, job_state=pending) is pending
    assert JobState.wait_for_completion(flow, pending, DEADLINE_S)
    assert pending.get_routine_state("counting")["count"] == 12  # type: ignore[index]
    assert pending.metadata == {"mine": 1}


def test_an_ended_state_is_run_again_from_where_it_was(runtime: Runtime) -> None:
    flow = chain(("source", Source()), ("counting", Counting()))
    first = runtime.exec(flow, {"count": 2})
    assert JobState.wait_for_completion(flow, first, DEADLINE_S)
    saved = JobState.deserialize(json.loads(json.dumps(first.serialize())))
    second = runtime.exec(flow, job_state=saved)
    assert JobState.wait_for_completion(flow, second, DEADLINE_S)
    assert second is not saved
    assert second.job_id != first.job_id
    assert second.metadata["rerun_of"] == first.job_id
    assert second.get_routine_state("counting")["count"] == 4  # type: ignore[index]
    assert len(second.execution_history) == 2 * len(first.execution_history)
    assert saved.get_routine_state("counting")["count"] == 2  # type: ignore[index]


def test_a_flow_without_trigger_stays_open_for_posts(tmp_path: Path) -> None:
    flow = chain(("upper", Upper()))
    with Runtime(2, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.exec(flow)
        assert state.status == "running"
        for number in range(3):
            assert runtime.post(flow, "upper", "input", {"data": "p", "number": number}) is state
        poll(lambda: len(list(state.results("upper", "output"))) == 3)
        assert state.status == "running"
        with pytest.raises(ValueError, match="Routine 'x' not found in flow"):
            runtime.post(flow, "x", "input", {})
        with pytest.raises(ValueError, match="Slot 'x' not found in routine 'upper'"):
            runtime.post(flow, "upper", "x", {})
        with pytest.raises(ValueError, match="no job 'other'"):
            runtime.post(flow, "upper", "input", {}, job_id="other")
    assert state.status == "completed"


def test_jobs_are_found_by_id_and_status(runtime: Runtime) -> None:
    flow = chain(("source", Source()))
    state = flow.execute("source")
    assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    assert runtime.get_job(state.job_id) is state
    assert runtime.get_job("nobody") is None
    assert runtime.list_jobs("completed") == [state]
    assert runtime.list_jobs("running") == []
    assert runtime.cancel_job("nobody") is False


# -- failures ---------------------------------------------------------------------------------------


def run_failing(handler: ErrorHandler | None) -> tuple[Flow, JobState]:
    flow = chain(("source", Source()), ("failing", Failing()), ("upper", Upper()))
    flow.routines["failing"].set_error_handler(handler)
    state = flow.execute("source")
    assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    # Whatever the strategy: what a failed attempt emitted never existed.
    assert list(state.results("upper", "output")) == []
    return flow, state


def names(state: JobState) -> list[str]:
    return [record.event_name for record in state.get_execution_history("failing")]


def test_stop(runtime: Runtime) -> None:
    _, state = run_failing(ErrorHandler("stop"))
    found = state.get_routine_state("failing")
    assert state.status == "failed"
    assert found is not None
    assert (found["status"], found["error"]) == ("failed", "attempt 1")
    assert "T" in found["error_time"]
    assert names(state) == ["error"]
    assert "attempt 1" in (state.error or "")


def test_continue(runtime: Runtime) -> None:
    _, state = run_failing(ErrorHandler("continue"))
    assert state.status == "completed"
    assert state.get_routine_state("failing")["status"] == "error_continued"  # type: ignore[index]
    [record] = state.get_execution_history("failing")
    assert record.event_name == "error_continued"
    assert (record.data["error"], record.data["error_type"]) == ("attempt 1", "ValueError")


def test_skip(runtime: Runtime) -> None:
    _, state = run_failing(ErrorHandler("skip"))
    assert state.status == "completed"
    assert state.get_routine_state("failing") == {"status": "skipped", "error": "attempt 1"}


def test_retry(runtime: Runtime) -> None:
    handler = ErrorHandler("retry", max_retries=2, retry_delay=0.01, retryable_exceptions=(ValueError,))
    flow, state = run_failing(handler)
    assert state.status == "failed"
    assert names(state) == ["error"] * 3
    assert handler.retry_count == flow.get_routine_retry_count("failing") == 2
    assert flow.serialize()["routines"]["failing"]["_error_handler"]["retry_count"] == 2
    other = flow.execute("source", settle_s=0)
    assert JobState.wait_for_completion(flow, other, DEADLINE_S)
    assert len(names(other)) == 3


def test_what_is_not_retryable_fails_at_once(runtime: Runtime) -> None:
    _, state = run_failing(ErrorHandler("retry", retryable_exceptions=(KeyError,)))
    assert (state.status, names(state)) == ("failed", ["error"])


def test_without_a_handler_a_downstream_failure_is_tolerated_and_an_entrys_is_not(runtime: Runtime) -> None:
    _, state = run_failing(None)
    assert (state.status, names(state)) == ("completed", ["error"])
    flow = chain(("failing", Failing()))
    failed = flow.execute("failing")
    assert JobState.wait_for_completion(flow, failed, DEADLINE_S)
    assert failed.status == "failed"


def test_execution_timeout(tmp_path: Path) -> None:
    flow = chain(("source", Source()), ("waiting", Waiting()))
    with Runtime(2, checkpoint_dir=str(tmp_path), grace_s=0.1):
        state = flow.execute("source", {"data": str(tmp_path / "never")}, timeout=0.2, settle_s=0)
        assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    assert state.status == "failed"


# -- pausing, resuming, cancelling ------------------------------------------------------------------


def test_pause_and_resume(local: Runtime, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    flow = chain(("source", Source()), ("waiting", Waiting()))
    state = flow.execute("source", {"data": str(gate), "count": 5}, settle_s=0)
    poll(lambda: state.current_routine_id == "waiting")
    opener = threading.Timer(0.1, gate.touch)
    opener.start()
    flow.pause(state, "inspection", {"row": 3})
    opener.join()
    assert state.status == "paused"
    [point] = state.pause_points
    assert (point["reason"], point["checkpoint"]) == ("inspection", {"row": 3})
    assert state.checkpoint == {"row": 3}
    done = len(list(state.results("waiting", "output")))
    assert point["pending_tasks_count"] == len(state.pending_tasks) == 5 - done
    assert JobState.wait_for_completion(flow, state) is False
    assert flow.resume(state) is state
    assert state.status == "running"
    assert flow.wait_for_completion(DEADLINE_S)
    assert [r["number"] for r in state.results("waiting", "output")] == list(range(5))
    assert state.pending_tasks == []


def test_resume_in_another_runtime_of_the_same_root(tmp_path: Path) -> None:
    gate, root = tmp_path / "gate", str(tmp_path / "root")
    flow = chain(("source", Source()), ("waiting", Waiting()))
    with Runtime(2, checkpoint_dir=root):
        state = flow.execute("source", {"data": str(gate), "count": 3}, settle_s=0)
        poll(lambda: state.current_routine_id == "waiting")
        threading.Timer(0.05, gate.touch).start()
        flow.pause(state)
        before = len(list(state.results("waiting", "output")))
    assert state.status == "paused"
    with Runtime(2, checkpoint_dir=root):
        again = JobState.deserialize(state.serialize())
        again.update_shared_data("edited", True)
        assert flow.resume(again) is again
        assert JobState.wait_for_completion(flow, again, DEADLINE_S)
        assert again.get_shared_data("edited") is True
        assert before < 3
        assert [r["number"] for r in again.results("waiting", "output")] == [0, 1, 2]


def test_a_document_is_resumed_where_nobody_knows_the_job(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    flow = chain(("source", Source()), ("waiting", Waiting()))
    with Runtime(2, checkpoint_dir=str(tmp_path / "host_a")):
        state = flow.execute("source", {"data": str(gate), "count": 3}, settle_s=0)
        poll(lambda: state.current_routine_id == "waiting")
        state.update_shared_data("k", {"v": (1,)})
        threading.Timer(0.05, gate.touch).start()
        flow.pause(state)
        flow_data, state_data = json.dumps(flow.serialize()), json.dumps(state.serialize())
        done = [r["number"] for r in state.results("waiting", "output")]
    with Runtime(2, checkpoint_dir=str(tmp_path / "host_b")):
        new_flow, new_state = Flow.deserialize(json.loads(flow_data)), JobState.deserialize(json.loads(state_data))
        assert new_state.status == "paused"
        resumed = new_flow.resume(new_state)
        assert JobState.wait_for_completion(new_flow, resumed, DEADLINE_S)
        assert (resumed.status, resumed.job_id) == ("completed", state.job_id)
        assert [r["number"] for r in resumed.results("waiting", "output")] == [0, 1, 2]
        assert done == [0, 1, 2][: len(done)]
        assert resumed.get_shared_data("k") == {"v": (1,)}
        assert [r.event_name for r in resumed.execution_history[:2]] == ["start", "output"]


def test_pausing_resuming_and_cancelling_what_has_ended(runtime: Runtime) -> None:
    flow = chain(("source", Source()))
    state = flow.execute("source")
    assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    flow.pause(state, "too late", {"c": 1})
    assert (state.status, state.checkpoint) == ("paused", {"c": 1})
    assert JobState.deserialize(state.serialize()).status == "paused"
    assert flow.resume(state) is state
    assert state.status == "running"
    assert flow.wait_for_completion(DEADLINE_S)
    assert state.status == "completed"
    assert flow.resume(state).status == "completed"
    flow.cancel(state, "no longer needed")
    assert state.status == "cancelled"
    assert state.routine_states["_cancellation"]["reason"] == "no longer needed"


def test_cancel(local: Runtime, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    flow = chain(("source", Source()), ("waiting", Waiting()))
    state = flow.execute("source", {"data": str(gate), "count": 5}, settle_s=0)
    poll(lambda: state.current_routine_id == "waiting")
    threading.Timer(0.05, gate.touch).start()
    assert local.cancel_job(state.job_id, "enough") is True
    assert state.status == "cancelled"
    assert state.routine_states["_cancellation"]["reason"] == "enough"
    assert flow.resume(state).status == "cancelled"
    assert len(list(state.results("waiting", "output"))) < 5


# -- state from outside -----------------------------------------------------------------------------


def test_writing_state_while_it_runs_and_after(local: Runtime, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    flow = chain(("source", Source()), ("waiting", Waiting()))
    state = flow.execute("source", {"data": str(gate)}, settle_s=0)
    poll(lambda: state.current_routine_id == "waiting")
    state.update_routine_state("waiting", {"note": [1]})
    state.shared_data["k"] = "v"
    state.increment("n", 2)
    state.increment("n", 3)
    state.append("list", {"x": 1})
    assert state.get_routine_state("waiting") == {"note": [1]}
    assert state.owner is not None
    assert state.owner["pid"] == os.getpid()
    assert dict(state.shared_data) == {"k": "v", "n": 5, "list": [{"x": 1}]}
    del state.shared_data["k"]
    assert "k" not in state.shared_data
    gate.touch()
    assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    assert state.owner is None
    assert state.get_routine_state("waiting") == {"status": "completed", "note": [1]}
    state.update_routine_state("waiting", {"status": "completed", "mine": 2})
    state.shared_data["after"] = 1
    assert state.get_routine_state("waiting") == {"status": "completed", "mine": 2}
    assert state.get_shared_data("after") == 1
    assert state.get_shared_data("n") == 5
    assert JobState.deserialize(state.serialize()).get_routine_state("waiting") == {"status": "completed", "mine": 2}


def test_progress_and_conditions(local: Runtime, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    flow = chain(("source", Source()), ("waiting", Waiting()))
    state = flow.execute("source", {"data": str(gate)}, settle_s=0)
    assert JobState.wait_until_condition(flow, state, lambda f, s: s.current_routine_id == "waiting", DEADLINE_S)
    assert JobState.wait_until_condition(flow, state, lambda f, s: False, timeout=0.02) is False
    assert JobState.wait_for_completion(flow, state, timeout=0.02) is False
    seen: list[tuple[int, int, str]] = []

    def progress(queued: int, active: int, status: str) -> None:
        seen.append((queued, active, status))
        gate.touch()

    assert JobState.wait_for_completion(flow, state, DEADLINE_S, check_interval=0.01, progress_callback=progress)
    assert seen[0][1:] == (1, "running")
    assert seen[-1] == (0, 0, "completed")
    assert flow.execution_tracker.get_flow_performance()["total_events"] == 2  # type: ignore[union-attr]


# -- runtimes ---------------------------------------------------------------------------------------


def test_leaving_waits_for_queued_work(tmp_path: Path) -> None:
    flow = chain(("source", Source()), ("upper", Upper()))
    with Runtime(2, checkpoint_dir=str(tmp_path)) as runtime:
        state = flow.execute("source", {"count": 300}, settle_s=0)
    assert state.status == "completed"
    assert len(state.execution_history) == 602
    assert len(list(state.results("upper", "output"))) == 300
    for call in (lambda: runtime.exec(flow), lambda: runtime.post(flow, "upper", "input", {})):
        with pytest.raises(RuntimeError, match="shut down"):
            call()
    runtime.shutdown()
    with pytest.raises(RuntimeClosed), runtime:
        pass


def test_the_innermost_runtime_is_the_current_one(tmp_path: Path) -> None:
    configure(checkpoint_dir=str(tmp_path / "default"))
    try:
        default = current_runtime()
        with Runtime(1, checkpoint_dir=str(tmp_path)) as outer:
            with Runtime(1, checkpoint_dir=str(tmp_path)) as inner:
                assert current_runtime() is inner
            assert current_runtime() is outer
        assert current_runtime() is default
        close_default()
        assert current_runtime() is not default
        with pytest.raises(ValueError, match="no setting named 'colour'"):
            configure(colour="red")
    finally:
        configure(checkpoint_dir=None)


@pytest.mark.parametrize("number", [-1, 1.5, "many"])
def test_impossible_budgets(number: Any) -> None:
    with pytest.raises(ValueError, match="max_workers"):
        Runtime(number)


def test_nothing_is_kept_without_durability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flow = chain(("source", Source()), ("counting", Counting()))
    with Runtime(2, checkpoint_dir=str(tmp_path / "root"), durability="none"):
        state = flow.execute("source", {"count": 3})
        assert flow.wait_for_completion(DEADLINE_S)
        assert len(state.execution_history) == 8
        assert state.get_routine_state("counting")["count"] == 3  # type: ignore[index]
    assert list(tmp_path.rglob("c0*")) == []


def test_views_on_disk_can_be_read_by_anybody(tmp_path: Path) -> None:
    flow = chain(("source", Source()), ("counting", Counting()))
    with Runtime(2, checkpoint_dir=str(tmp_path)):
        state = flow.execute("source", {"count": 2})
    folder = tmp_path / state.job_id
    restored = JobState.load(folder / "job_state.json")
    assert (restored.status, restored.job_id) == ("completed", state.job_id)
    assert restored.get_routine_state("counting")["count"] == 2  # type: ignore[index]
    assert len(restored.execution_history) == len(state.execution_history)
    assert Flow.deserialize(json.loads((folder / "flow.json").read_text())).flow_id == "chain"
