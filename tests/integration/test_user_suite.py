"""Tests as a user of the original package has them: handlers that append to a list of the test.

Everything runs in the calling process, chosen by the environment as such a user would, and nothing here
knows that there could be anything else. The same user's tests on worker processes: ``test_user_suite_local``.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import (
    CallbackOutputHandler,
    ErrorHandler,
    ErrorStrategy,
    ExecutionRecord,
    Flow,
    FlowRegistry,
    JobState,
    QueueOutputHandler,
    Routine,
    Runtime,
    all_slots_ready_policy,
    batch_size_policy,
    custom_policy,
    immediate_policy,
    time_interval_policy,
)


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("ROUTILUX_MP_BACKEND", "inline")
    monkeypatch.chdir(tmp_path)
    FlowRegistry.get_instance().clear()
    yield
    FlowRegistry.get_instance().clear()


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.trigger_slot = self.define_slot("trigger", handler=self.send)
        self.output_event = self.define_event("output", ["data"])

    def send(self, **kwargs: Any) -> None:
        self.emit("output", data=kwargs.get("data", "test"))


def sink(received: list[Any], slot: str = "input", **options: Any) -> Routine:
    routine = Routine()
    routine.define_slot(slot, handler=lambda data=None, **rest: received.append(data), **options)
    return routine


def events_of(job_state: JobState, routine_id: str | None = None) -> list[str]:
    return [record.event_name for record in job_state.get_execution_history(routine_id)]


# -- flows and routines -------------------------------------------------------------------------


def test_a_linear_flow_delivers() -> None:
    received: list[Any] = []
    flow = Flow("linear")
    source_id = flow.add_routine(Source(), "source")
    flow.add_routine(sink(received), "sink")
    flow.connect("source", "output", "sink", "input")
    job_state = flow.execute(source_id, entry_params={"data": "A"})
    assert flow.wait_for_completion(timeout=5.0)
    assert job_state.status == "completed"
    assert received == ["A"]
    assert events_of(job_state) == ["start", "output", "completed"]
    assert len(job_state.execution_history) == 3
    assert job_state.get_routine_state("source") == {"status": "completed"}
    assert job_state.get_routine_state("sink") == {"status": "completed"}


def test_source_processor_result_has_four_records() -> None:
    class Processor(Routine):
        def __init__(self) -> None:
            super().__init__()
            self.add_slot("input", handler=self.process)
            self.add_event("output", ["result"])

        def process(self, data: Any = None, **kwargs: Any) -> None:
            self.emit("output", result=f"Processed: {data}")

    flow = Flow("four")
    flow.add_routine(Source(), "source")
    flow.add_routine(Processor(), "processor")
    flow.connect("source", "output", "processor", "input")
    job_state = flow.execute("source")
    assert [(r.routine_id, r.event_name, r.data) for r in job_state.execution_history] == [
        ("source", "start", {}),
        ("source", "output", {"data": "test"}),
        ("source", "completed", {}),
        ("processor", "output", {"result": "Processed: test"}),
    ]
    assert list(job_state.results("processor", "output")) == [{"result": "Processed: test"}]


def test_fan_out_reaches_everyone_once() -> None:
    lists: list[list[Any]] = [[] for _ in range(3)]
    flow = Flow("fan out")
    flow.add_routine(Source(), "source")
    for number, received in enumerate(lists):
        flow.add_routine(sink(received), f"sink{number}")
        flow.connect("source", "output", f"sink{number}", "input")
    flow.execute("source", entry_params={"data": 7})
    assert lists == [[7], [7], [7]]


def test_fan_in_keeps_each_sources_order() -> None:
    received: list[Any] = []

    class Many(Routine):
        def __init__(self) -> None:
            super().__init__()
            self.add_slot("trigger", handler=self.send)
            self.add_slot("input", handler=self.send)
            self.add_event("output")

        def send(self, **kwargs: Any) -> None:
            for number in range(5):
                self.emit("output", data=(self.get_config("name"), number))

    flow = Flow("fan in")
    for name in ("start", "a", "b"):
        routine = Many()
        routine.set_config(name=name)
        flow.add_routine(routine, name)
    only_first = Routine()
    only_first.add_slot("input", handler=lambda data: only_first.emit("output") if data[1] == 0 else None)
    only_first.add_event("output")
    flow.add_routine(only_first, "first")
    flow.add_routine(sink(received), "sink")
    flow.connect("start", "output", "first", "input")
    for name in ("a", "b"):
        flow.connect("first", "output", name, "input")
        flow.connect(name, "output", "sink", "input")
    flow.execute("start")
    assert [n for name, n in received if name == "a"] == list(range(5))
    assert [n for name, n in received if name == "b"] == list(range(5))
    assert len(received) == 10


def test_diamond_activates_the_join_for_each_emission() -> None:
    received: list[Any] = []
    flow = Flow("diamond")
    flow.add_routine(Source(), "source")
    for side in ("left", "right"):
        routine = Routine()
        routine.add_event("output")
        routine.add_slot("input", handler=lambda data, r=routine, s=side: r.emit("output", data=f"{s}:{data}"))
        flow.add_routine(routine, side)
        flow.connect("source", "output", side, "input")
    flow.add_routine(sink(received), "join")
    flow.connect("left", "output", "join", "input")
    flow.connect("right", "output", "join", "input")
    flow.execute("source", entry_params={"data": "x"})
    assert sorted(received) == ["left:x", "right:x"]


def test_param_mapping_renames() -> None:
    received: list[Any] = []
    target = Routine()
    target.define_slot("input", handler=lambda value, extra: received.append((value, extra)))

    source = Routine()
    source.define_event("output", ["a", "b"])
    source.define_slot("trigger", handler=lambda: source.emit("output", a=1, extra=2))
    flow = Flow("mapping")
    flow.add_routine(source, "source")
    flow.add_routine(target, "target")
    connection = flow.connect("source", "output", "target", "input", param_mapping={"a": "value"})
    assert connection.param_mapping == {"a": "value"}
    flow.execute("source")
    assert received == [(1, 2)]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("override", [{"n": 1}, {"n": 2}, {"n": 3}]),
        ("append", [{"n": [1]}, {"n": [1, 2]}, {"n": [1, 2, 3]}]),
        (lambda old, new: {"n": old.get("n", 0) + new["n"]}, [{"n": 1}, {"n": 3}, {"n": 6}]),
        ("no such strategy", [{"n": 1}, {"n": 2}, {"n": 3}]),
    ],
    ids=["override", "append", "callable", "unknown"],
)
def test_merge_strategies(strategy: Any, expected: list[Any]) -> None:
    received: list[Any] = []
    target = Routine()
    target.define_slot("input", handler=lambda **data: received.append(data), merge_strategy=strategy)
    source = Routine()
    source.define_event("output")
    source.define_slot("trigger", handler=lambda: [source.emit("output", n=n) for n in (1, 2, 3)] and None)
    flow = Flow("merge")
    flow.add_routine(source, "source")
    flow.add_routine(target, "target")
    flow.connect("source", "output", "target", "input")
    flow.execute("source")
    assert received == expected
    flow.execute("source")  # nothing of the first job is left
    assert received == expected * 2


@pytest.mark.parametrize(
    ("handler", "sent", "expected"),
    [
        (lambda **kw: kw, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
        (lambda data: data, {"data": 1}, 1),
        (lambda data: data, {"a": 1}, {"a": 1}),
        (lambda a: a, {"a": 1, "b": 2}, 1),
        (lambda other: other, {"a": 1}, {"a": 1}),
        (lambda a, b: (a, b), {"a": 1, "b": 2, "c": 3}, (1, 2)),
        (lambda a, b=5: (a, b), {"a": 1}, (1, 5)),
        (lambda x, y=None: (x, y), {"a": 1}, ({"a": 1}, None)),
        (lambda data=None, **kw: (data, kw), {"a": 1}, (None, {"a": 1})),
        (lambda: "nothing", {"a": 1}, "nothing"),
    ],
)
def test_what_a_handler_is_given(handler: Any, sent: dict[str, Any], expected: Any) -> None:
    received: list[Any] = []
    routine = Routine()

    def call(*args: Any, **kwargs: Any) -> None:
        received.append(handler(*args, **kwargs))

    call.__signature__ = __import__("inspect").signature(handler)  # type: ignore[attr-defined]
    routine.define_slot("trigger", handler=call)
    flow = Flow()
    flow.add_routine(routine, "r")
    assert flow.execute("r", entry_params=sent).status == "completed"
    assert received == [expected]


def test_emitting_an_unknown_event_fails_the_entry() -> None:
    routine = Routine()
    routine.define_slot("trigger", handler=lambda: routine.emit("nope"))
    flow = Flow()
    flow.add_routine(routine, "r")
    job_state = flow.execute("r")
    assert job_state.status == "failed"
    assert "Event 'nope' not found in routine 'r'" in job_state.get_routine_state("r")["error"]


def test_emitting_outside_of_a_handler_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        Source().emit("output", data=1)


def test_config_is_seen_in_a_handler() -> None:
    seen: list[Any] = []
    routine = Routine()
    routine.set_config(threshold=10, name="x")
    routine.define_slot(
        "trigger", handler=lambda: seen.append((routine.get_config("threshold"), routine.get_config("no", 5)))
    )
    flow = Flow()
    flow.add_routine(routine, "r")
    flow.execute("r")
    assert seen == [(10, 5)]
    assert routine.config() == {"threshold": 10, "name": "x"}


def test_a_cycle_ends_when_nothing_more_is_sent() -> None:
    counts: list[int] = []
    routine = Routine()
    routine.define_event("again", ["n"])

    def step(n: int = 0) -> None:
        counts.append(n)
        if n < 5:
            routine.emit("again", n=n + 1)

    routine.define_slot("trigger", handler=lambda: step(0))
    routine.define_slot("loop", handler=step)
    flow = Flow("cycle")
    flow.add_routine(routine, "r")
    flow.connect("r", "again", "r", "loop")
    assert flow.execute("r").status == "completed"
    assert counts == [0, 1, 2, 3, 4, 5]


def test_missing_trigger() -> None:
    flow = Flow("no trigger")
    flow.add_routine(sink([]), "r")
    job_state = flow.execute("r")
    assert job_state.status == "failed"
    assert "Entry routine 'r' must have a 'trigger' slot" in str(job_state.get_routine_state("r"))
    with pytest.raises(ValueError, match="Entry routine 'x' not found in flow"):
        flow.execute("x")


# -- job states -----------------------------------------------------------------------------------


def test_executions_are_independent() -> None:
    flow = Flow("independent")
    flow.add_routine(Source(), "source")
    states = [flow.execute("source", entry_params={"data": value}) for value in "ABC"]
    assert len({state.job_id for state in states}) == 3
    for state, value in zip(states, "ABC", strict=True):
        assert [r.data for r in state.execution_history if r.event_name == "output"] == [{"data": value}]
        assert state.execution_history[0].data == {"data": value}


def test_concurrent_executions_from_threads() -> None:
    flow = Flow("threads")
    flow.add_routine(Source(), "source")
    found: dict[int, JobState] = {}

    def run(number: int) -> None:
        found[number] = flow.execute("source", entry_params={"data": number})

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flow.wait_for_completion(timeout=10)
    assert {n: list(s.results("source", "output")) for n, s in found.items()} == {n: [{"data": n}] for n in range(8)}


def test_routine_state_updates_of_handler_and_caller() -> None:
    routine = Routine()

    def count() -> None:
        context = routine.get_execution_context()
        assert context is not None
        state = context.job_state.get_routine_state("r", {})
        context.job_state.update_routine_state("r", {"count": state.get("count", 0) + 1})

    routine.define_slot("trigger", handler=count)
    flow = Flow()
    flow.add_routine(routine, "r")
    job_state = flow.execute("r")
    assert job_state.get_routine_state("r") == {"status": "completed", "count": 1}
    job_state.update_routine_state("r", {"status": "completed", "execution_time": 0.5, "custom_field": "value"})
    assert job_state.get_routine_state("r") == {"status": "completed", "execution_time": 0.5, "custom_field": "value"}
    assert job_state.get_routine_state("other") is None
    assert job_state.get_routine_state("other", {}) == {}


def test_shared_data_and_log() -> None:
    flow = Flow("shared")
    source = Source()
    flow.add_routine(source, "source")
    worker = Routine()

    def work(data: Any) -> None:
        state = worker.get_execution_context().job_state  # type: ignore[union-attr]
        state.update_shared_data("seen", [*state.get_shared_data("seen", []), data])
        state.append_to_shared_log({"action": "saw", "data": data})

    worker.define_slot("input", handler=work)
    flow.add_routine(worker, "worker")
    flow.connect("source", "output", "worker", "input")
    job_state = flow.execute("source", entry_params={"data": 1})
    assert job_state.shared_data == {"seen": [1]}
    assert job_state.get_shared_data("seen") == [1]
    [entry] = job_state.get_shared_log()
    assert (entry["action"], entry["data"]) == ("saw", 1)
    assert "timestamp" in entry
    assert job_state.get_shared_log(lambda e: e["action"] == "other") == []


def test_a_state_by_hand() -> None:
    job_state = JobState("my_flow")
    assert (job_state.status, job_state.flow_id, job_state.execution_history) == ("pending", "my_flow", [])
    job_state.status = "running"
    job_state.current_routine_id = "r1"
    job_state.update_routine_state("r1", {"status": "completed", "result": "success"})
    job_state.record_execution("r1", "output", {"data": 1})
    job_state.shared_data["k"] = "v"
    again = JobState()
    again.deserialize(json.loads(json.dumps(job_state.serialize())))
    assert (again.job_id, again.flow_id, again.status) == (job_state.job_id, "my_flow", "running")
    assert again.current_routine_id == "r1"
    assert again.get_routine_state("r1") == {"status": "completed", "result": "success"}
    assert [r.event_name for r in again.execution_history] == ["output"]
    assert isinstance(again.execution_history[0], ExecutionRecord)
    assert again.shared_data == {"k": "v"}
    assert again.created_at == job_state.created_at


def test_save_and_load(tmp_path: Path) -> None:
    flow = Flow("saved")
    flow.add_routine(Source(), "source")
    job_state = flow.execute("source")
    job_state.save(str(tmp_path / "state.json"))
    loaded = JobState.load(str(tmp_path / "state.json"))
    assert (loaded.job_id, loaded.status) == (job_state.job_id, "completed")
    assert loaded.execution_history == list(job_state.execution_history)
    with pytest.raises(FileNotFoundError):
        JobState.load(str(tmp_path / "nowhere.json"))
    (tmp_path / "flow.json").write_text(json.dumps(flow.serialize()))
    with pytest.raises(ValueError, match="JobState"):
        JobState.load(str(tmp_path / "flow.json"))


# -- pause, resume, cancel ------------------------------------------------------------------------


def test_pause_resume_cancel_right_after_execute() -> None:
    flow = Flow("control")
    flow.add_routine(Source(), "source")
    job_state = flow.execute("source")
    flow.pause(job_state, reason="Manual pause", checkpoint={"step": 1})
    assert job_state.status == "paused"
    assert [(p["reason"], p["checkpoint"]) for p in job_state.pause_points] == [("Manual pause", {"step": 1})]
    resumed = flow.resume(job_state)
    assert resumed is job_state
    assert resumed.status == "running"
    flow.wait_for_completion(timeout=5.0)
    assert resumed.status == "completed"
    other = flow.execute("source")
    flow.cancel(other, reason="No longer needed")
    assert other.status == "cancelled"
    assert other.routine_states["_cancellation"]["reason"] == "No longer needed"
    assert job_state.status == "completed"


def test_a_handler_that_pauses_leaves_the_rest_pending() -> None:
    received: list[Any] = []
    flow = Flow("pause inside")
    source = Routine()
    source.define_event("output", ["data"])

    def send() -> None:
        for number in range(4):
            source.emit("output", data=number)
        flow.pause(source.get_execution_context().job_state, reason="from inside")  # type: ignore[union-attr]

    source.define_slot("trigger", handler=send)
    flow.add_routine(source, "source")
    flow.add_routine(sink(received), "sink")
    flow.connect("source", "output", "sink", "input")
    job_state = flow.execute("source")
    assert (job_state.status, received) == ("paused", [])
    assert [(t["routine_id"], t["slot_name"], t["data"]) for t in job_state.pending_tasks] == [
        ("sink", "input", {"data": number}) for number in range(4)
    ]
    assert job_state.pause_points[0]["pending_tasks_count"] == 4
    flow.resume(job_state)
    assert flow.wait_for_completion(timeout=5)
    assert (job_state.status, received) == ("completed", [0, 1, 2, 3])


def test_calls_with_another_flows_state() -> None:
    flow, other = Flow("A"), Flow("B")
    flow.add_routine(Source(), "source")
    other.add_routine(Source(), "source")
    job_state = other.execute("source")
    for call in (flow.pause, flow.resume, flow.cancel):
        with pytest.raises(ValueError, match="JobState flow_id 'B' does not match Flow flow_id 'A'"):
            call(job_state)


def test_transfer_through_json() -> None:
    flow = Flow("cross_host_flow")
    flow.add_routine(Source(), "source")
    target = Source()
    target.add_slot("input", handler=target.send)
    flow.add_routine(target, "target")
    flow.connect("source", "output", "target", "input")
    job_state = flow.execute("source")
    flow.pause(job_state, reason="Transfer to Host B")
    text = json.dumps({"flow": flow.serialize(), "job_state": job_state.serialize()})
    assert "job_state" not in flow.serialize()
    assert not hasattr(flow, "job_state")
    data = json.loads(text)
    restored = JobState().deserialize(data["job_state"])
    assert (data["flow"]["flow_id"], restored.job_id, restored.status) == (flow.flow_id, job_state.job_id, "paused")
    assert [(c["source_routine_id"], c["target_slot_name"]) for c in data["flow"]["connections"]] == [
        ("source", "input")
    ]


# -- errors -------------------------------------------------------------------------------------


def failing(fails: int, attempts: list[int], kind: type[Exception] = ValueError) -> Routine:
    routine = Routine()
    routine.define_event("output", ["data"])

    def work(**kwargs: Any) -> None:
        attempts.append(len(attempts) + 1)
        if len(attempts) <= fails:
            raise kind(f"failure {len(attempts)}")
        routine.emit("output", data="ok")

    routine.define_slot("trigger", handler=work)
    routine.define_slot("input", handler=work)
    return routine


def test_stop_fails_the_job() -> None:
    attempts: list[int] = []
    flow = Flow()
    flow.set_error_handler(ErrorHandler(strategy=ErrorStrategy.STOP))
    flow.add_routine(failing(9, attempts), "r")
    job_state = flow.execute("r")
    assert (job_state.status, attempts) == ("failed", [1])
    state = job_state.get_routine_state("r")
    assert (state["status"], state["error"]) == ("failed", "failure 1")
    assert "error_time" in state
    assert events_of(job_state) == ["start", "error"]


def test_continue_goes_on() -> None:
    attempts: list[int] = []
    flow = Flow()
    flow.set_error_handler(ErrorHandler("continue"))
    flow.add_routine(failing(9, attempts), "r")
    job_state = flow.execute("r")
    assert job_state.status == "completed"
    assert job_state.get_routine_state("r")["status"] == "error_continued"
    [record] = [r for r in job_state.execution_history if r.event_name == "error_continued"]
    assert record.data == {"error": "failure 1", "error_type": "ValueError"}


def test_skip_marks_as_skipped() -> None:
    flow = Flow()
    routine = failing(9, [])
    routine.set_error_handler(ErrorHandler(strategy="skip"))
    flow.add_routine(routine, "r")
    job_state = flow.execute("r")
    assert job_state.status == "completed"
    assert job_state.get_routine_state("r") == {"status": "skipped", "error": "failure 1"}


def test_retry_succeeds_at_last() -> None:
    attempts: list[int] = []
    flow = Flow()
    routine = failing(2, attempts)
    handler = ErrorHandler("retry", max_retries=3, retry_delay=0.001)
    routine.set_error_handler(handler)
    flow.add_routine(routine, "r")
    job_state = flow.execute("r")
    assert (job_state.status, attempts) == ("completed", [1, 2, 3])
    assert events_of(job_state) == ["start", "error", "error", "output", "completed"]
    assert handler.retry_count == 2
    assert flow.get_routine_retry_count("r") == 2


def test_retry_gives_up_after_max_retries() -> None:
    attempts: list[int] = []
    flow = Flow()
    routine = failing(99, attempts)
    handler = ErrorHandler(ErrorStrategy.RETRY, max_retries=4, retry_delay=0.001, retry_backoff=1.0)
    routine.set_error_handler(handler)
    flow.add_routine(Source(), "source")
    flow.add_routine(routine, "failing")
    flow.add_routine(sink([]), "success")
    flow.connect("source", "output", "failing", "input")
    flow.connect("failing", "output", "success", "input")
    job_state = flow.execute("source")
    assert (job_state.status, len(attempts), handler.retry_count) == ("failed", 5, 4)
    assert events_of(job_state, "failing") == ["error"] * 5
    assert job_state.get_routine_state("success") is None


def test_retry_of_other_exceptions_does_not_happen() -> None:
    attempts: list[int] = []
    flow = Flow()
    routine = failing(99, attempts, KeyError)
    routine.set_error_handler(ErrorHandler("retry", retry_delay=0.001, retryable_exceptions=(ValueError,)))
    flow.add_routine(routine, "r")
    assert flow.execute("r").status == "failed"
    assert attempts == [1]


def test_the_routines_handler_goes_before_the_flows() -> None:
    flow = Flow()
    flow.set_error_handler(ErrorHandler("stop"))
    optional, critical = failing(9, []), failing(9, [])
    optional.set_as_optional()
    flow.add_routine(Source(), "source")
    flow.add_routine(optional, "optional")
    flow.connect("source", "output", "optional", "input")
    assert flow.execute("source").status == "completed"
    flow.add_routine(critical, "critical")
    flow.connect("source", "output", "critical", "input")
    assert flow.execute("source").status == "failed"


def test_critical_routines_fail_the_job_whatever_the_strategy() -> None:
    flow = Flow()
    routine = failing(9, [])
    routine.set_error_handler(ErrorHandler("continue", is_critical=True))
    flow.add_routine(routine, "r")
    assert flow.execute("r").status == "failed"
    again = failing(1, [])
    again.set_as_critical(max_retries=2, retry_delay=0.001)
    flow.add_routine(again, "again")
    assert flow.execute("again").status == "completed"


def test_without_a_handler_a_downstream_failure_is_tolerated() -> None:
    received: list[Any] = []
    flow = Flow()
    flow.add_routine(Source(), "source")
    flow.add_routine(failing(9, []), "bad")
    flow.add_routine(sink(received), "good")
    flow.connect("source", "output", "bad", "input")
    flow.connect("source", "output", "good", "input")
    job_state = flow.execute("source")
    assert (job_state.status, received) == ("completed", ["test"])
    assert events_of(job_state, "bad") == ["error"]
    assert job_state.get_routine_state("bad")["error"] == "failure 1"


# -- the runtime style ----------------------------------------------------------------------------


def logic(received: list[Any], *slots: str, policy: Any = None) -> Routine:
    routine = Routine()
    for name in slots or ("input",):
        routine.add_slot(name)
    routine.add_event("output")

    def work(slot_data: dict[str, list[Any]], policy_message: Any, job_state: Any) -> None:
        received.append((slot_data, policy_message))
        routine.emit("output", count=sum(map(len, slot_data.values())))

    routine.set_logic(work).set_activation_policy(policy or immediate_policy())
    return routine


def spread(count: int) -> Routine:
    routine = Routine()
    routine.add_slot("trigger")
    routine.add_event("output", ["n"])

    def work(slot_data: Any, policy_message: Any, job_state: Any) -> None:
        for n in range(count):
            routine.emit("output", n=n)

    return routine.set_logic(work).set_activation_policy(immediate_policy())


def run(flow: Flow, **params: Any) -> JobState:
    FlowRegistry.get_instance().register_by_name("flow", flow)
    with Runtime(thread_pool_size=5) as runtime:
        job_state = runtime.exec("flow", entry_params=params)
        assert runtime.wait_until_all_jobs_finished(timeout=10.0)
    return job_state


def piped(*routines: Routine) -> Flow:
    flow = Flow("piped")
    for number, routine in enumerate(routines):
        flow.add_routine(routine, f"r{number}")
        if number:
            flow.connect(f"r{number - 1}", "output", f"r{number}", next(iter(routine._slots)))
    return flow


def test_immediate_policy() -> None:
    received: list[Any] = []
    job_state = run(piped(spread(3), logic(received)))
    assert job_state.status == "completed"
    assert [item for data, _ in received for item in data["input"]] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {json.dumps(message) for _, message in received} == {'{"reason": "immediate"}'}


def test_batch_size_policy_and_its_flush() -> None:
    received: list[Any] = []
    run(piped(spread(7), logic(received, policy=batch_size_policy(3))))
    assert [len(data["input"]) for data, _ in received] == [3, 3, 1]
    assert received[0][1]["batch_size"] == 3


def test_all_slots_ready_policy() -> None:
    received: list[Any] = []
    flow = piped(spread(3))
    flow.add_routine(logic(received, "left", "right", policy=all_slots_ready_policy()), "join")
    flow.connect("r0", "output", "join", "left")
    flow.connect("r0", "output", "join", "right")
    job_state = run(flow)
    assert [data for data, _ in received] == [{"left": [{"n": n}], "right": [{"n": n}]} for n in range(3)]
    assert job_state.unconsumed == {}


def test_time_interval_policy_takes_everything_in_the_end() -> None:
    received: list[Any] = []
    run(piped(spread(5), logic(received, policy=time_interval_policy(30))))
    assert [item["n"] for data, _ in received for item in data["input"]] == [0, 1, 2, 3, 4]


def test_custom_policy_and_what_it_leaves() -> None:
    received: list[Any] = []
    policy = custom_policy(lambda slots, job_state: slots["input"].get_unconsumed_count() >= 2)
    job_state = run(piped(spread(5), logic(received, policy=policy)))
    assert [len(data["input"]) for data, _ in received] == [2, 2]
    assert job_state.unconsumed == {"r1": {"input": 1}}


def test_a_policy_of_ones_own() -> None:
    received: list[Any] = []

    def pairs(slots: Any, job_state: Any) -> tuple[bool, dict[str, list[Any]], Any]:
        if slots["input"].get_unconsumed_count() < 2:
            return False, {}, None
        taken = [slots["input"].consume_one_new(), slots["input"].consume_one_new()]
        return True, {"input": taken}, {"pair": True}

    run(piped(spread(4), logic(received, policy=pairs)))
    assert received == [
        ({"input": [{"n": 0}, {"n": 1}]}, {"pair": True}),
        ({"input": [{"n": 2}, {"n": 3}]}, {"pair": True}),
    ]


def test_exec_errors() -> None:
    with Runtime(thread_pool_size=2) as runtime:
        with pytest.raises(ValueError, match="Flow 'nowhere' not found in registry"):
            runtime.exec("nowhere")
        flow = piped(spread(1))
        FlowRegistry.get_instance().register_by_name("flow", flow)
        with pytest.raises(ValueError, match="does not match"):
            runtime.exec("flow", job_state=JobState("other"))
    with pytest.raises(RuntimeError):
        runtime.exec("flow")


def test_the_attempt_of_the_tutorial() -> None:
    """000, step 5: an ended state is run again with what it was started with."""
    said: list[str] = []
    processor = Routine()
    processor.add_slot("input")

    def process(slot_data: Any, policy_message: Any, job_state: Any) -> None:
        count = (job_state.get_routine_state("r1") or {}).get("count", 0)
        job_state.update_routine_state("r1", {"count": count + 1})
        said.append(f"{slot_data['input'][0]['n']} (attempt #{count + 1})")

    processor.set_logic(process).set_activation_policy(immediate_policy())
    flow = piped(spread(1), processor)
    first = run(flow, data="first_input")
    saved = JobState.deserialize(json.loads(json.dumps(first.serialize())))
    with Runtime(thread_pool_size=5) as runtime:
        second = runtime.exec("flow", job_state=saved)
        runtime.wait_until_all_jobs_finished(timeout=5.0)
    assert (second.status, said) == ("completed", ["0 (attempt #1)", "0 (attempt #2)"])
    assert second.job_id != first.job_id
    assert [r.data for r in second.execution_history if r.event_name == "start"] == [{"data": "first_input"}] * 2


def test_post_to_a_flow_that_stays_open() -> None:
    received: list[Any] = []
    flow = piped(logic(received))
    with Runtime(2) as runtime:
        job_state = runtime.exec(flow)
        assert job_state.status == "running"
        for n in range(3):
            runtime.post(flow, "r0", "input", {"n": n}, job_id=job_state.job_id)
        assert job_state.status == "running"
        assert [s.job_id for s in runtime.list_jobs("running")] == [job_state.job_id]
    assert job_state.status == "completed"
    assert [item["n"] for data, _ in received for item in data["input"]] == [0, 1, 2]


# -- outputs, hooks, tracker ----------------------------------------------------------------------


def test_outputs_go_to_a_queue_and_to_the_log() -> None:
    outputs: queue.Queue[Any] = queue.Queue()
    routine = Routine()
    routine.define_slot("trigger", handler=lambda: routine.send_output("progress", percent=50))
    flow = Flow("outputs")
    flow.add_routine(routine, "r")
    job_state = flow.execute("r")
    job_state.set_output_handler(QueueOutputHandler(outputs))
    found = outputs.get(timeout=5)
    assert {k: found[k] for k in ("job_id", "routine_id", "output_type", "data")} == {
        "job_id": job_state.job_id, "routine_id": "r", "output_type": "progress", "data": {"percent": 50},
    }  # fmt: skip
    assert [o["data"] for o in job_state.output_log] == [{"percent": 50}]


def test_outputs_call_back() -> None:
    seen: list[Any] = []
    routine = Routine()
    routine.define_slot("trigger", handler=lambda: [routine.send_output("n", n=n) for n in range(3)] and None)
    flow = Flow("outputs")
    flow.add_routine(routine, "r")
    job_state = flow.execute("r")
    job_state.set_output_handler(CallbackOutputHandler(lambda job, rid, kind, data, at: seen.append((rid, data["n"]))))
    assert flow.wait_for_completion(timeout=5)
    assert seen == [("r", 0), ("r", 1), ("r", 2)]


def test_the_tracker_counts() -> None:
    flow = Flow("tracked")
    flow.add_routine(Source(), "source")
    assert flow.execution_tracker is None
    flow.execute("source")
    tracker = flow.execution_tracker
    assert tracker is not None
    performance = tracker.get_routine_performance("source")
    assert performance is not None
    assert (performance["total_executions"], performance["success_rate"]) == (1, 1.0)
    assert [e["event_name"] for e in tracker.event_flow] == ["output"]


def test_progress_callback_and_conditions() -> None:
    flow = Flow("progress")
    flow.add_routine(Source(), "source")
    seen: list[Any] = []
    job_state = flow.execute("source")
    assert JobState.wait_for_completion(flow, job_state, timeout=5, progress_callback=lambda *a: seen.append(a))
    assert seen[-1] == (0, 0, "completed")
    done = lambda flow, state: len(state.execution_history) >= 3  # noqa: E731
    assert JobState.wait_until_condition(flow, job_state, done, timeout=5)


def test_several_events_are_recorded_in_the_order_they_were_emitted() -> None:
    routine = Routine()
    for name in ("a", "b"):
        routine.define_event(name)

    def send() -> None:
        for n in range(3):
            routine.emit("b", n=n)
            routine.emit("a", n=n)
            routine.emit("a", n=-n)

    routine.define_slot("trigger", handler=send)
    flow = Flow("several events")
    flow.add_routine(routine, "r")
    job_state = flow.execute("r")
    assert events_of(job_state) == ["start", *"baabaabaa", "completed"]
    assert [r.data["n"] for r in job_state.execution_history[1:-1]] == [0, 0, 0, 1, 1, -1, 2, 2, -2]
    assert [row["n"] for row in job_state.results("r", "a")] == [0, 0, 1, -1, 2, -2]


def test_two_events_that_feed_one_routine_arrive_in_the_order_they_were_emitted() -> None:
    """``done`` after every item of its group, although it was defined first."""
    received: list[Any] = []
    source = Routine()
    source.define_event("done")
    source.define_event("item")

    def send() -> None:
        for group in range(3):
            for n in range(4):
                source.emit("item", n=n)
            source.emit("done", group=group)

    source.define_slot("trigger", handler=send)
    target = Routine()
    target.define_slot("item", handler=lambda n: received.append(n) or None)
    target.define_slot("done", handler=lambda group: received.append(f"done {group}"))
    flow = Flow("groups")
    flow.add_routine(source, "source")
    flow.add_routine(target, "target")
    flow.connect("source", "done", "target", "done")
    flow.connect("source", "item", "target", "item")
    job_state = flow.execute("source")
    assert received == [0, 1, 2, 3, "done 0", 0, 1, 2, 3, "done 1", 0, 1, 2, 3, "done 2"]
    assert events_of(job_state, "source") == ["start", *(["item"] * 4 + ["done"]) * 3, "completed"]
