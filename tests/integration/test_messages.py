"""What handlers tell the job besides emissions and state: log, outputs, deferred events, wishes."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import CallbackOutputHandler, ErrorHandler, Flow, JobState, QueueOutputHandler, Routine, Runtime
from routilux_mp.monitoring import ExecutionHooks

DEADLINE_S = 20.0


class Step(Routine):
    """Does what the subclass says, and passes its input on."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.run)
        self.add_slot("input", handler=self.run)
        self.add_event("output")
        self.add_event("question")

    def run(self, **data: Any) -> None:
        self.do(data)
        self.emit("output", **data)

    def do(self, data: dict[str, Any]) -> None:
        raise NotImplementedError


class Logs(Step):
    def do(self, data: dict[str, Any]) -> None:
        context = self.get_execution_context()
        assert context is not None
        state = context.job_state
        seen = [entry["by"] for entry in state.get_shared_log()]
        state.append_to_shared_log({"by": context.routine_id})
        assert [entry["by"] for entry in state.get_shared_log()] == [*seen, context.routine_id]
        events = [(r.routine_id, r.event_name) for r in state.execution_history]
        state.update_routine_state(context.routine_id, {"seen": seen, "events": events, "length": len(events)})


class Asks(Step):
    """Keeps a question back, and pauses."""

    def do(self, data: dict[str, Any]) -> None:
        context = self.get_execution_context()
        assert context is not None
        self.emit_deferred_event("question", text="how many?")
        if data.get("pause"):
            context.flow.pause(context.job_state, reason="waiting", checkpoint={"at": [1]})
        if data.get("fail"):
            raise ValueError("after all")


class Answers(Step):
    def do(self, data: dict[str, Any]) -> None:
        self.send_output("heard", **data)


class Cancels(Step):
    def do(self, data: dict[str, Any]) -> None:
        context = self.get_execution_context()
        assert context is not None
        context.flow.cancel(context.job_state, "enough")


class Sends(Step):
    def do(self, data: dict[str, Any]) -> None:
        for number in range(3):
            self.send_output("progress", number=number, of=data.get("n"))
        if data.get("fail"):
            raise ValueError("not sent")


def chain(*routines: tuple[str, Routine]) -> Flow:
    flow = Flow("messages")
    previous = None
    for rid, routine in routines:
        flow.add_routine(routine, rid)
        if previous is not None:
            flow.connect(previous, "output", rid, "input")
        previous = rid
    return flow


def asking() -> Flow:
    flow = chain(("asks", Asks()))
    flow.add_routine(Answers(), "answers")
    flow.connect("asks", "question", "answers", "input")
    return flow


@pytest.fixture(params=["inline", "local"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(3, backend=request.param, checkpoint_dir=str(tmp_path / "root")) as runtime:
        yield runtime


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def test_a_handler_sees_the_committed_log_and_history(runtime: Runtime) -> None:
    flow = chain(("a", Logs()), ("b", Logs()), ("c", Logs()))
    state = flow.execute("a", {})
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert state.error is None
    assert [entry["by"] for entry in state.get_shared_log()] == ["a", "b", "c"]
    assert state.get_routine_state("c", {})["seen"] == ["a", "b"]
    events = [tuple(event) for event in state.get_routine_state("c", {})["events"]]
    assert events == [("a", "start"), ("a", "output"), ("a", "completed"), ("b", "output")]


def test_one_worker_sees_what_it_has_just_logged(runtime: Runtime) -> None:
    class Many(Step):
        def run(self, **data: Any) -> None:
            for _ in range(5):
                self.emit("output")

    flow = chain(("many", Many()), ("logs", Logs()))
    state = flow.execute("many", {})
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert state.get_routine_state("logs", {})["seen"] == ["logs"] * 4


def test_the_log_is_read_once_and_what_is_new_is_added(tmp_path: Path) -> None:
    """Across rolls of the log, from several workers; each entry is there once, and changing it changes nothing."""

    class Many(Step):
        def run(self, **data: Any) -> None:
            for n in range(40):
                self.emit("output", n=n)

    class Reads(Step):
        def run(self, **data: Any) -> None:
            context = self.get_execution_context()
            assert context is not None
            before = context.job_state.get_shared_log()
            for entry in before:
                entry["n"] = "changed"
            context.job_state.append_to_shared_log({"n": data["n"]})
            seen = [entry["n"] for entry in context.job_state.get_shared_log()]
            assert data["n"] in seen
            assert len(set(seen)) == len(seen) > len(before), seen

    with Runtime(3, checkpoint_dir=str(tmp_path / "root"), batch_count_max=2):
        flow = chain(("many", Many()))
        flow.add_routine(Reads(), "reads", workers=2)
        flow.connect("many", "output", "reads", "input")
        state = flow.execute("many", {})
        assert flow.wait_for_completion(DEADLINE_S, state)
    assert [r.data for r in state.execution_history if r.event_name == "error"] == []
    assert sorted(entry["n"] for entry in state.shared_log) == list(range(40))


@pytest.mark.parametrize("backend", ["inline", "local"])
def test_without_a_directory_a_handler_sees_what_its_worker_has_logged(backend: str, tmp_path: Path) -> None:
    with Runtime(2, backend=backend, durability="none", checkpoint_dir=str(tmp_path / "root")):
        flow = chain(("a", Logs()), ("b", Logs()))
        state = flow.execute("a", {})
        assert flow.wait_for_completion(DEADLINE_S, state)
    assert [entry["by"] for entry in state.get_shared_log()] == ["a", "b"]
    assert state.get_routine_state("b", {})["seen"] in ([], ["a"])
    assert [r.event_name for r in state.execution_history if r.event_name == "error"] == []


def test_a_deferred_event_waits_for_the_resumption(runtime: Runtime) -> None:
    flow = asking()
    state = flow.execute("asks", {"pause": True})
    poll(lambda: state.status == "paused")
    assert state.pause_points[-1]["reason"] == "waiting"
    assert state.checkpoint == {"at": [1]}
    expected = [{"routine_id": "asks", "event_name": "question", "data": {"text": "how many?"}}]
    assert state.deferred_events == expected
    assert state.serialize()["deferred_events"] == expected
    assert [r.event_name for r in state.execution_history] == ["start", "output", "completed"]
    flow.resume(state)
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert (state.status, state.deferred_events) == ("completed", [])
    assert [(r.routine_id, r.event_name) for r in state.execution_history][3:] == [
        ("asks", "question"), ("answers", "output"),
    ]  # fmt: skip
    assert [(o["output_type"], o["data"]) for o in state.output_log] == [("heard", {"text": "how many?"})]


def test_a_job_with_deferred_events_left_is_not_done(runtime: Runtime) -> None:
    flow = asking()
    state = flow.execute("asks", {})
    assert flow.wait_for_completion(job_state=state) is False, "it waits for its resumption, not for us"
    assert state.status == "running"
    assert runtime.wait_until_all_jobs_finished() is False, "nobody will resume it meanwhile"
    flow.resume(state)
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert len(state.output_log) == 1


def test_a_failed_attempt_defers_and_wishes_nothing(runtime: Runtime) -> None:
    flow = asking()
    state = flow.execute("asks", {"pause": True, "fail": True})
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert (state.status, state.deferred_events, state.pause_points) == ("failed", [], [])


@pytest.mark.parametrize("backend", ["inline", "local"])
def test_deferred_events_survive_the_supervisor(tmp_path: Path, backend: str) -> None:
    root = str(tmp_path / "root")
    with Runtime(2, backend=backend, checkpoint_dir=root):
        flow = asking()
        state = flow.execute("asks", {"pause": True})
        poll(lambda: state.status == "paused")
    with Runtime(2, backend=backend, checkpoint_dir=root) as second:
        again = second.resume_job(state.job_id, asking())
        assert JobState.wait_for_completion(asking(), again, DEADLINE_S)
        assert [o["data"] for o in again.output_log] == [{"text": "how many?"}]
        events = [r.event_name for r in again.execution_history]
        assert events == ["start", "output", "completed", "question", "output"]


def test_the_caller_defers_too(runtime: Runtime) -> None:
    flow = asking()
    state = flow.execute("asks", {"pause": True})
    poll(lambda: state.status == "paused")
    with pytest.raises(ValueError, match="Event 'nothing' not found"):
        state.add_deferred_event("asks", "nothing", {})
    state.add_deferred_event("asks", "question", {"text": "why?"})
    flow.resume(state)
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert [o["data"]["text"] for o in state.output_log] == ["how many?", "why?"]


def test_a_cancel_from_inside_holds_with_the_commit(runtime: Runtime) -> None:
    flow = chain(("cancels", Cancels()), ("b", Sends()))
    state = flow.execute("cancels", {})
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert state.status == "cancelled"
    assert state.routine_states["_cancellation"]["reason"] == "enough"
    assert [r.event_name for r in state.execution_history] == ["start", "output", "completed"]


def test_outputs_reach_the_handler_in_order_in_a_thread_of_the_caller(runtime: Runtime) -> None:
    flow = chain(("a", Sends()), ("b", Sends()))
    received: queue.Queue[dict[str, Any]] = queue.Queue()
    state = flow.execute("a", {"n": 7})
    state.set_output_handler(QueueOutputHandler(received))
    assert flow.wait_for_completion(DEADLINE_S, state)
    found = [received.get_nowait() for _ in range(6)]
    assert received.empty()
    assert [(f["routine_id"], f["data"]["number"]) for f in found] == [(r, n) for r in "ab" for n in range(3)]
    assert found == state.output_log


def test_a_handler_set_before_the_job_began_gets_everything(runtime: Runtime) -> None:
    flow = chain(("a", Sends()))
    threads: list[threading.Thread] = []
    received: list[tuple[Any, ...]] = []

    def receive(*arguments: Any) -> None:
        threads.append(threading.current_thread())
        received.append(arguments)
        raise ValueError("a handler's own trouble")

    state = JobState("messages")
    state.set_output_handler(CallbackOutputHandler(receive))
    runtime.exec(flow, {"n": 1}, job_state=state)
    assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    assert [arguments[:3] for arguments in received] == [(state.job_id, "a", "progress")] * 3
    assert threading.main_thread() not in threads


def test_outputs_of_a_failed_attempt_are_not_sent(runtime: Runtime) -> None:
    flow = chain(("a", Sends()))
    flow.set_error_handler(ErrorHandler("continue"))
    state = flow.execute("a", {"fail": True})
    state.set_output_handler(CallbackOutputHandler(lambda *a: pytest.fail("sent")))
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert state.output_log == []


def test_without_a_directory_outputs_arrive_all_the_same() -> None:
    received: list[Any] = []
    with Runtime(2, backend="inline", durability="none"):
        flow = chain(("a", Sends()), ("b", Sends()))
        state = flow.execute("a", {})
        state.set_output_handler(CallbackOutputHandler(lambda *a: received.append(a[3]["number"])))
        assert flow.wait_for_completion(DEADLINE_S, state)
    assert received == [0, 1, 2] * 2


def test_outside_of_a_handler_there_is_nothing_to_tell() -> None:
    step = Sends()
    with pytest.raises(RuntimeError, match="not in execution context"):
        step.send_output("x", a=1)
    with pytest.raises(RuntimeError, match="not in execution context"):
        step.emit_deferred_event("question", text="?")
    with pytest.raises(ValueError, match="Event 'nothing' not found"):
        step.emit_deferred_event("nothing")


class Noting(ExecutionHooks):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.threads: set[threading.Thread] = set()

    def note(self, *what: Any) -> None:
        self.seen.append(what)
        self.threads.add(threading.current_thread())

    def on_job_start(self, job_state: Any) -> None:
        self.note("job start", job_state.flow_id)

    def on_job_end(self, job_state: Any, status: str) -> None:
        self.note("job end", status)

    def on_routine_start(self, routine_id: str, job_state: Any) -> None:
        self.note("start", routine_id)

    def on_routine_end(self, routine_id: str, job_state: Any, status: str, error: str | None = None) -> None:
        self.note("end", routine_id, status, error)
        raise ValueError("a hook's own trouble")

    def on_event_emit(self, routine_id: str, event_name: str, data: dict[str, Any], job_state: Any) -> None:
        self.note("event", routine_id, event_name, data)


@pytest.mark.parametrize("durability", ["commit", "none"])
@pytest.mark.parametrize("backend", ["inline", "local"])
def test_hooks_are_told_what_every_job_does(backend: str, durability: str, tmp_path: Path) -> None:
    class Fails(Step):
        def do(self, data: dict[str, Any]) -> None:
            raise ValueError("no")

    hooks = Noting()
    with Runtime(2, backend=backend, durability=durability, checkpoint_dir=str(tmp_path / "root")) as runtime:
        runtime.add_hooks(hooks)
        flow = chain(("a", Sends()), ("b", Fails()))
        flow.execute("a", {"n": 1})
    assert hooks.seen == [
        ("job start", "messages"), ("start", "a"), ("event", "a", "output", {"n": 1}), ("end", "a", "completed", None),
        ("start", "b"), ("end", "b", "failed", "no"), ("job end", "completed"),
    ]  # fmt: skip
    assert threading.main_thread() not in hooks.threads


@pytest.mark.parametrize("backend", ["inline", "local"])
def test_hooks_are_told_of_every_routine(backend: str, tmp_path: Path) -> None:
    """Also of those that emit nothing, and of each attempt; and not again of what ran before a resumption."""

    class Source(Step):
        def do(self, data: dict[str, Any]) -> None:
            if self.attempt == 1:
                raise ValueError("once")
            for n in range(3):
                self.emit("output", n=n)

    class Sink(Step):
        def do(self, data: dict[str, Any]) -> None:
            context = self.get_execution_context()
            if data.get("n") == 1:
                assert context is not None
                context.flow.pause(context.job_state)

    source, hooks = Source(), Noting()
    source.set_error_handler(ErrorHandler("retry", retry_delay=0.001))
    with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / "root")) as runtime:
        runtime.add_hooks(hooks)
        flow = chain(("a", source), ("b", Sink()))
        state = flow.execute("a")
        state._live_or_fail().wait(DEADLINE_S, stops_when_paused=True)
    again = Noting()
    with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path / "root")) as runtime:
        runtime.add_hooks(again)
        flow.resume(state)
    seen = [what[:2] for what in (*hooks.seen, *again.seen) if what[0] in ("start", "end")]
    assert seen[:5] == [("start", "a"), ("end", "a"), ("start", "a"), ("end", "a"), ("start", "b")]
    assert Counter(seen[4:]) == {("start", "b"): 4, ("end", "b"): 4}
    assert [what[2] for what in hooks.seen if what[:2] == ("end", "a")] == ["failed", "completed"]
    assert [what[0] for what in again.seen][:1] == ["job start"]
