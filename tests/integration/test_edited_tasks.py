"""What is changed in a document's pending tasks holds when it is resumed, in its own root and in another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import ErrorHandler, Flow, JobState, Routine, Runtime, batch_size_policy
from routilux_mp.errors import UsageError

DEADLINE_S = 20.0


def make(count: int = 4, *, is_pausing: bool = True, delay_s: float = 60.0) -> Flow:
    """A source whose emissions wait, paused, for a worker that gets them under another name."""
    source, worker = Routine(), Routine()
    source.add_event("output")
    source.set_config(pauses=is_pausing)

    def send() -> None:
        for n in range(count):
            source.emit("output", n=n, more=[n])
        context = source.get_execution_context()
        assert context is not None
        if source.get_config("pauses"):
            context.flow.pause(context.job_state)

    source.add_slot("trigger", handler=send)
    worker.add_event("output")

    def work(value: Any, more: Any = None) -> None:
        if value == "fails" and worker.attempt == 1:
            raise ValueError("once")
        worker.emit("output", value=value, more=more, attempt=worker.attempt)

    worker.add_slot("input", handler=work)
    worker.set_error_handler(ErrorHandler("retry", retry_delay=delay_s))
    flow = Flow("edited tasks")
    flow.add_routine(source, "source")
    flow.add_routine(worker, "worker")
    flow.connect("source", "output", "worker", "input", {"n": "value"})
    return flow


@pytest.fixture(params=["inline", "local"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["same process", "its root", "another root"])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def paused(flow: Flow) -> JobState:
    state = flow.execute("source")
    state._live_or_fail().wait(DEADLINE_S, stops_when_paused=True)
    assert state.status == "paused"
    return state


def resumed_with(where: str, backend: str, tmp_path: Path, flow: Flow, change: Any) -> JobState:
    """The job after ``change(state)`` was done to its document, at its end."""
    runtime = Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / "root"))
    with runtime:
        text = json.dumps(paused(flow).serialize())
        if where == "same process":
            return _finished(flow, text, change)
    with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / ("root" if where == "its root" else "other"))):
        return _finished(flow, text, change)


def _finished(flow: Flow, text: str, change: Any) -> JobState:
    state = JobState.deserialize(json.loads(text))
    change(state)
    state = JobState.deserialize(json.loads(json.dumps(state.serialize())))  # once more, with what was changed
    flow.resume(state)
    assert JobState.wait_for_completion(flow, state, DEADLINE_S), state.progress
    list(state.results("worker", "output"))  # read while the runtime is there
    return state


def values(state: JobState) -> list[Any]:
    return [r.data["value"] for r in state.get_execution_history("worker") if r.event_name == "output"]


def test_nothing_changed(where: str, backend: str, tmp_path: Path) -> None:
    state = resumed_with(where, backend, tmp_path, make(), lambda state: None)
    assert (state.status, values(state)) == ("completed", [0, 1, 2, 3])
    assert len(state.execution_history) == 3 + 3 + 4


def test_other_data_comes_the_same_way_and_in_its_turn(where: str, backend: str, tmp_path: Path) -> None:
    def change(state: JobState) -> None:
        state.pending_tasks[1]["data"]["n"] = "changed"
        state.pending_tasks[3]["data"] = {"n": {1, 2}}

    state = resumed_with(where, backend, tmp_path, make(), change)
    assert values(state) == [0, "changed", 2, {1, 2}]
    assert [row["more"] for row in state.results("worker", "output")] == [[0], [1], [2], None]


def test_priority_goes_first_within_the_routine(where: str, backend: str, tmp_path: Path) -> None:
    def change(state: JobState) -> None:
        for index, priority in ((2, 5), (3, 9), (0, -1)):
            state.pending_tasks[index]["priority"] = priority

    assert values(resumed_with(where, backend, tmp_path, make(), change)) == [3, 2, 1, 0]


def test_one_that_is_taken_out_is_done_and_one_more_too(where: str, backend: str, tmp_path: Path) -> None:
    def change(state: JobState) -> None:
        more = {"routine_id": "worker", "slot_name": "input", "data": {"value": "more"}, "priority": 1}
        state.pending_tasks = [*state.pending_tasks[2:], more]

    assert values(resumed_with(where, backend, tmp_path, make(), change)) == ["more", 0, 1, 2, 3]


def test_a_retry_need_not_wait(where: str, backend: str, tmp_path: Path) -> None:
    flow = make(1, is_pausing=False)
    source = flow.routines["source"]
    source._slots["trigger"].handler = lambda: source.emit("output", n="fails")
    runtime = Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / "root"))
    with runtime:
        state = flow.execute("source", settle_s=0)
        live = state._live_or_fail()
        assert live.handle.wait(lambda view: view.waiting == 1, DEADLINE_S)
        flow.pause(state)
        [task] = state.pending_tasks
        assert (task["attempt"], task["not_before"] is None) == (2, False)
        text = json.dumps(state.serialize())
        if where == "same process":
            found = _finished(flow, text, _wait_no_longer)
    if where != "same process":
        with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / ("root" if where == "its root" else "other"))):
            found = _finished(flow, text, _wait_no_longer)
    assert [(row["value"], row["attempt"]) for row in found.results("worker", "output")] == [("fails", 2)]


def _wait_no_longer(state: JobState) -> None:
    state.pending_tasks[0]["not_before"] = None


def test_an_edited_job_can_be_read_and_resumed_again(backend: str, tmp_path: Path) -> None:
    """The changes are in the log: whoever replays it does the same."""
    flow = make(6)
    with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / "root")):
        text = json.dumps(paused(flow).serialize())
    with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / "root")) as runtime:
        state = JobState.deserialize(json.loads(text))
        state.pending_tasks[4]["data"]["n"] = "four"
        state.pending_tasks[5]["priority"] = 1
        flow.resume(state)
        assert JobState.wait_for_completion(flow, state, DEADLINE_S)
        job_id = state.job_id
    with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / "root")) as runtime:
        again = runtime.resume_job(job_id, flow)
        assert (again.status, values(again)) == ("completed", [5, 0, 1, 2, 3, "four"])


def test_what_cannot_be_changed_is_named(tmp_path: Path) -> None:
    flow = make()
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path / "root")):
        document = json.dumps(paused(flow).serialize())
        for change, error, text in (
            ({"data": 5}, ValueError, "the data of a pending task is a dictionary, got 5"),
            ({"data": {}, "routine_id": "nobody"}, ValueError, "Routine 'nobody' not found in flow"),
            ({"data": {}, "slot_name": "nowhere"}, ValueError, "Slot 'nowhere' not found in routine 'worker'"),
            ({"priority": "high"}, ValueError, "the priority of a pending task is a whole number, got 'high'"),
            ({"activation_id": "another/worker/0"}, ValueError, "there was no pending task 'another/worker/0'"),
        ):
            state = JobState.deserialize(json.loads(document))
            state.pending_tasks[0].update(change)
            with pytest.raises(error, match=text):
                flow.resume(state)
            assert state.status == "paused"


def test_what_a_policy_has_put_together_stays_together(tmp_path: Path) -> None:
    flow = make(3, is_pausing=False)
    threes = Routine()
    threes.add_slot("input")
    threes.set_logic(lambda slot_data: 1 // 0).set_activation_policy(batch_size_policy(3))
    threes.set_error_handler(ErrorHandler("retry", retry_delay=60))
    flow.add_routine(threes, "threes")
    flow.connect("source", "output", "threes", "input")
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path / "root")):
        running = flow.execute("source", settle_s=0)
        assert running._live_or_fail().handle.wait(lambda view: view.waiting == 1, DEADLINE_S)
        flow.pause(running)
        state = JobState.deserialize(json.loads(json.dumps(running.serialize())))
        [group] = state.pending_tasks
        assert (group["routine_id"], group["slot_name"]) == ("threes", None)
        group["data"]["input"].pop()
        with pytest.raises(UsageError, match="put together by the policy of its routine"):
            flow.resume(state)
        flow.cancel(running)
