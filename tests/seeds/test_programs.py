"""The programs that the seeds describe but do not print whole, or print with a slip."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import (
    ErrorHandler,
    ErrorStrategy,
    Flow,
    FlowRegistry,
    JobState,
    Routine,
    Runtime,
    immediate_policy,
    register_serializable,
)

DEADLINE_S = 20.0


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


# -- 000, step 6, with the counter where it belongs and JobState.deserialize ------------------------


class DataProcessor(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.input = self.add_slot("input")
        self.output = self.add_event("output", ["result"])

        def process(slot_data: Any, policy_message: Any, job_state: Any) -> None:
            input_list = slot_data.get("input", [])
            data_value = input_list[0].get("data", 0) if input_list else 0
            state = job_state.get_routine_state("processor", {})
            job_state.update_routine_state("processor", {"count": state.get("count", 0) + 1})
            self.emit("output", result=data_value * 2)

        self.set_logic(process)
        self.set_activation_policy(immediate_policy())


def test_cross_host_recovery_of_the_tutorial(tmp_path: Path) -> None:
    flow = Flow(flow_id="distributed_workflow")
    flow.add_routine(DataProcessor(), "processor")
    structure = json.dumps(flow.serialize())

    flow = Flow.deserialize(json.loads(structure))
    FlowRegistry.get_instance().register_by_name("distributed_workflow", flow)
    with Runtime(thread_pool_size=5, checkpoint_dir=str(tmp_path)) as runtime:
        job_state = runtime.exec("distributed_workflow", entry_params={"data": 10})
        execution = json.dumps(job_state.serialize())
        assert list(job_state.results("processor", "output")) == [{"result": 20}]

    flow = Flow.deserialize(json.loads(structure))
    saved = JobState.deserialize(json.loads(execution))
    assert flow.flow_id == "distributed_workflow"
    assert (saved.job_id, saved.status) == (job_state.job_id, "completed")
    assert saved.get_routine_state("processor", {}).get("count", 0) == 1  # type: ignore[union-attr]


# -- 003: retries go on where they were --------------------------------------------------------------


@register_serializable
class LongRunningRoutine(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.process)
        self.add_event("output", ["data"])

    def process(self, **kwargs: Any) -> None:
        time.sleep(0.05)
        self.emit("output", data="long")


@register_serializable
class FailingRoutine(Routine):
    def __init__(self, delay: float = 0.02) -> None:
        super().__init__()
        self.delay = delay
        self.attempt_count = 0
        self.add_slot("input", handler=self.process)
        self.add_event("output", ["data"])
        self.add_serializable_fields(["attempt_count"])

    def process(self, data: Any = None, **kwargs: Any) -> None:
        time.sleep(self.delay)
        raise ValueError(f"Simulated failure on attempt {self.attempt}")


@register_serializable
class SuccessRoutine(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input", handler=self.process)

    def process(self, data: Any = None, **kwargs: Any) -> None: ...


def retry_flow() -> Flow:
    flow = Flow(flow_id="retry_serialization_demo")
    failing = FailingRoutine()
    failing.set_error_handler(
        ErrorHandler(
            strategy=ErrorStrategy.RETRY,
            max_retries=4,
            retry_delay=0.05,
            retry_backoff=1000,  # however busy the machine is: it is paused before the third attempt
            retryable_exceptions=(ValueError,),
        )
    )
    flow.add_routine(LongRunningRoutine(), "long_running")
    flow.add_routine(failing, "failing")
    flow.add_routine(SuccessRoutine(), "success")
    flow.connect("long_running", "output", "failing", "input")
    flow.connect("failing", "output", "success", "input")
    return flow


def failures(state: JobState) -> list[str]:
    return [r.data["error"] for r in state.execution_history if r.event_name == "error"]


@pytest.mark.parametrize("is_same_runtime", [True, False], ids=["same-runtime", "next-runtime"])
def test_retries_go_on_after_a_transfer(tmp_path: Path, is_same_runtime: bool) -> None:
    """One directory for both hosts: five attempts in all, three of them after the transfer."""
    flow, save_path = retry_flow(), tmp_path / "flow_state.json"
    root = str(tmp_path / "root")
    runtime = Runtime(3, checkpoint_dir=root)
    with runtime:
        job_state = flow.execute("long_running", settle_s=0)
        handler = flow.routines["failing"].get_error_handler()
        assert handler is not None
        poll(lambda: handler.retry_count >= 2)
        assert job_state.status == "running"
        flow.pause(job_state, reason="2 failures detected")
        assert len(failures(job_state)) == handler.retry_count == 2
        save_path.write_text(json.dumps({"flow": flow.serialize(), "job_state": job_state.serialize()}))
        if is_same_runtime:
            _go_on(save_path)
    if not is_same_runtime:
        with Runtime(3, checkpoint_dir=root):
            _go_on(save_path)


def _go_on(save_path: Path) -> None:
    save_data = json.loads(save_path.read_text())
    new_flow = Flow()
    new_flow.deserialize(save_data["flow"])
    handler = new_flow.routines["failing"].get_error_handler()
    assert handler is not None
    assert (handler.strategy, handler.max_retries, handler.retry_count) == (ErrorStrategy.RETRY, 4, 2)
    new_job_state = JobState()
    new_job_state.deserialize(save_data["job_state"])
    assert new_job_state.status == "paused"
    [task] = new_job_state.pending_tasks
    assert (task["routine_id"], task["attempt"]) == ("failing", 3)
    task["not_before"] = None  # nobody waits for that here
    handler.retry_backoff = 1.0

    resumed = new_flow.resume(new_job_state)
    assert JobState.wait_for_completion(new_flow, resumed, timeout=DEADLINE_S)
    assert resumed.status == "failed"
    assert failures(resumed) == [f"Simulated failure on attempt {n}" for n in (1, 2, 3, 4, 5)]
    assert handler.retry_count == 4
    assert resumed.get_routine_state("success") is None


# -- 002:851 and 002:875 with a routine that takes its time ------------------------------------------


class Slow(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.process)
        self.add_event("output")

    def process(self, gate: str = "") -> None:
        poll(lambda: Path(gate).exists())
        self.emit("output", ok=True)


def test_status_transitions_of_a_resumed_job(tmp_path: Path) -> None:
    flow = Flow("transitions")
    entry_id = flow.add_routine(Slow(), "slow")
    follow_id = flow.add_routine(SuccessRoutine(), "success")
    flow.connect(entry_id, "output", follow_id, "input")
    gate = tmp_path / "gate"
    with Runtime(2, checkpoint_dir=str(tmp_path / "root")):
        job_state = flow.execute(entry_id, {"gate": str(gate)}, settle_s=0)
        poll(lambda: job_state.current_routine_id == "slow")
        gate.touch()
        flow.pause(job_state)
        assert job_state.status == "paused"
        resumed = flow.resume(job_state)
        assert resumed.status in ("running", "completed")
        assert flow.wait_for_completion(DEADLINE_S)
        assert resumed.status == "completed"
        assert len(resumed.execution_history) == 3
