"""Single lines of the API's contract that no other test looks at, each by itself."""

from __future__ import annotations

import importlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import routilux_mp
from routilux_mp import (
    ErrorHandler,
    Flow,
    FlowRegistry,
    JobState,
    Routine,
    Runtime,
    batch_size_policy,
    immediate_policy,
)
from routilux_mp.errors import UsageError

DEADLINE_S = 20.0


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


class Step(Routine):
    """Calls the function that is its configuration's ``work``, from every slot."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("trigger", "input"):
            self.add_slot(name, handler=self.take)
        self.add_event("output")

    def take(self, **data: Any) -> Any:
        return self.get_config("work", relay)(self, data)


def relay(routine: Routine, data: dict[str, Any]) -> None:
    routine.emit("output", **data)


def state_of(routine: Routine) -> Any:
    context = routine.get_execution_context()
    assert context is not None
    return context.job_state


def chain(*works: Any, flow_id: str = "details", **options: Any) -> Flow:
    flow = Flow(flow_id, **options)
    for number, work in enumerate(works):
        step = Step()
        step.set_config(work=work)
        flow.add_routine(step, f"s{number}")
        if number:
            flow.connect(f"s{number - 1}", "output", f"s{number}", "input")
    return flow


@pytest.fixture(params=["inline", "local"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(3, backend=request.param, checkpoint_dir=str(tmp_path / "root")) as runtime:
        yield runtime


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(3, checkpoint_dir=str(tmp_path / "root")) as runtime:
        yield runtime


def finish(flow: Flow, state: JobState) -> JobState:
    assert JobState.wait_for_completion(flow, state, DEADLINE_S), state.progress
    return state


# -- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("flow", "Flow"),
        ("routine", "Routine ExecutionContext"),
        ("slot", "Slot"),
        ("event", "Event"),
        ("connection", "Connection"),
        ("error_handler", "ErrorHandler ErrorStrategy"),
        ("job_state", "JobState ExecutionRecord"),
        ("runtime", "Runtime"),
        (
            "activation_policies",
            "immediate_policy batch_size_policy time_interval_policy all_slots_ready_policy custom_policy "
            "upstream_done_policy",
        ),
        ("monitoring.flow_registry", "FlowRegistry"),
        ("status", "JobStatus"),
        ("serilux", "Serializable register_serializable"),
        ("output", "OutputHandler QueueOutputHandler CallbackOutputHandler NullOutputHandler"),
        ("tracker", "ExecutionTracker"),
    ],
)
def test_every_import_path_of_the_contract(module: str, names: str) -> None:
    home = importlib.import_module(f"routilux_mp.{module}")
    for name in names.split():
        assert getattr(home, name) is getattr(routilux_mp, name)


def test_a_state_has_every_attribute_of_the_contract_detached_and_live(runtime: Runtime) -> None:
    names = [
        "job_id",
        "flow_id",
        "status",
        "current_routine_id",
        "routine_states",
        "execution_history",
        "pending_tasks",
        "pause_points",
        "shared_data",
        "metadata",
        "checkpoint",
        "created_at",
        "updated_at",
        "deferred_events",
        "shared_log",
        "output_log",
        "output_handler",
        "dead_letters",
        "unconsumed",
        "blocked",
        "owner",
    ]
    flow = chain(relay)
    live = finish(flow, flow.execute("s0"))
    for state in (JobState(), live, JobState.deserialize(live.serialize())):
        assert [name for name in names if not hasattr(state, name)] == []
    assert repr(flow) == "Flow[details]"


# -- starting ---------------------------------------------------------------------------------------


def test_nothing_that_was_submitted_shows_pending(runtime: Runtime) -> None:
    flow = chain(relay)
    states = [flow.execute("s0", settle_s=0), runtime.exec(flow, settle_s=0), runtime.exec(flow, {}, settle_s=0)]
    assert [state.status for state in states if state.status == "pending"] == []
    assert JobState().status == "pending"


def test_settling_waits_for_a_short_job_and_not_for_a_long_one(local: Runtime, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def wait(routine: Routine, data: dict[str, Any]) -> None:
        poll(gate.exists)

    assert chain(relay).execute("s0", settle_s=DEADLINE_S).status == "completed"
    flow = chain(wait)
    begin = time.monotonic()
    state = flow.execute("s0", settle_s=0.05)
    assert state.status == "running"
    assert state.execution_history[0].event_name == "start"  # visible while the entry runs
    assert len(state.execution_history) == 1
    assert time.monotonic() - begin < DEADLINE_S
    gate.touch()
    finish(flow, state)


@pytest.mark.parametrize(
    ("slots", "entry"),
    [
        ({"a": ["input"], "b": ["trigger", "input"]}, ("b", "trigger")),
        ({"a": ["input"], "b": ["first", "second"]}, ("b", "first")),
        ({"a": ["input"], "b": ["other", "trigger"]}, ("b", "trigger")),
    ],
)
def test_where_exec_starts(runtime: Runtime, slots: dict[str, list[str]], entry: tuple[str, str]) -> None:
    """The first routine with a trigger, else the first that nothing feeds, with its first slot."""

    flow = Flow()
    for rid, names in slots.items():
        routine = Routine()
        routine.add_event("output")
        for name in names:
            routine.add_slot(name, handler=lambda data, r=routine, n=name: r.emit("output", slot=n, got=data))
        flow.add_routine(routine, rid)
    flow.connect("b", "output", "a", "input")
    state = finish(flow, runtime.exec(flow, {"k": 1}))
    rid, slot = entry
    sent = [r.data for r in state.execution_history if (r.routine_id, r.event_name) == (rid, "output")]
    assert sent == [{"slot": slot, "got": {"k": 1}}]


def test_registering_again_replaces_and_an_id_is_found_too(runtime: Runtime) -> None:
    first, second = chain(relay, flow_id="by id 1"), chain(relay, flow_id="by id 2")
    registry = FlowRegistry.get_instance()
    registry.register_by_name("again", first)
    registry.register_by_name("again", second)
    assert runtime.exec("again", {}).flow_id == "by id 2"
    assert runtime.exec("by id 2", {}).flow_id == "by id 2"
    assert registry.unregister_by_name("again") is True
    with pytest.raises(ValueError, match="Flow 'again' not found in registry"):
        runtime.exec("again")


def test_parameters_are_not_for_a_job_that_goes_on(local: Runtime, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    flow = chain(lambda routine, data: poll(gate.exists))
    state = local.exec(flow, {}, settle_s=0)
    with pytest.raises(ValueError, match="goes on with what it was given"):
        local.exec(flow, {"a": 1}, job_state=state)
    gate.touch()
    assert finish(flow, local.exec(flow, job_state=state)) is state


def test_parameters_of_a_run_from_an_ended_state(runtime: Runtime) -> None:
    flow = chain(relay)
    first = finish(flow, runtime.exec(flow, {"a": 1}))
    again = finish(flow, runtime.exec(flow, job_state=first))
    other = finish(flow, runtime.exec(flow, {"a": 2}, job_state=again))
    found = [list(state.results("s0", "output")) for state in (first, again, other)]
    assert found == [[{"a": 1}], [{"a": 1}], [{"a": 2}]]
    assert (again.metadata["rerun_of"], other.metadata["rerun_of"]) == (first.job_id, again.job_id)
    assert "rerun_of" not in first.metadata


def test_a_flow_that_cannot_be_serialised_runs_and_says_why(local: Runtime, tmp_path: Path) -> None:
    flow = chain(relay)
    flow.routines["s0"].add_slot("more", handler=Step().take)
    with pytest.raises(ValueError, match="Cannot serialize method 'take' from Step"):
        flow.serialize()
    state = finish(flow, flow.execute("s0", {"n": 1}))
    assert list(state.results("s0", "output")) == [{"n": 1}]
    document = json.loads((tmp_path / "root" / state.job_id / "flow.json").read_text())
    assert document["portable"] is False
    assert "Cannot serialize method 'take' from Step" in document["why"]


def test_sequential_means_one_at_a_time(local: Runtime, tmp_path: Path) -> None:
    """Three routines that the entry feeds; without ``"sequential"`` they run side by side."""

    def mark(routine: Routine, data: dict[str, Any]) -> None:
        begin = time.monotonic()
        time.sleep(0.02)
        routine.emit("output", span=[begin, time.monotonic()])

    def overlaps(strategy: str) -> int:
        flow = chain(lambda routine, data: routine.emit("output"))
        for name in ("a", "b", "c"):
            step = Step()
            step.set_config(work=mark)
            flow.add_routine(step, name)
            flow.connect("s0", "output", name, "input")
        state = finish(flow, flow.execute("s0", execution_strategy=strategy))
        spans = sorted(result["span"] for name in "abc" for result in state.results(name, "output"))
        assert len(spans) == 3
        return sum(after[0] < before[1] for before, after in itertools.pairwise(spans))

    assert overlaps("sequential") == 0
    poll(lambda: overlaps("concurrent") > 0)


def test_fewer_workers_than_routines(tmp_path: Path) -> None:
    flow = chain(*[relay] * 6)
    with Runtime(1, checkpoint_dir=str(tmp_path)):
        state = finish(flow, flow.execute("s0", {"n": 1}, settle_s=0))
    assert list(state.results("s5", "output")) == [{"n": 1}]


@pytest.mark.parametrize("source", ["argument", "environment", "pyproject", "default"])
def test_where_the_checkpoint_directory_comes_from(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROUTILUX_MP_CHECKPOINT_DIR", raising=False)
    sources = ["pyproject", "environment", "argument"]
    given = sources[: sources.index(source) + 1] if source in sources else []
    (tmp_path / "pyproject.toml").write_text(
        '[tool.routilux_mp]\ncheckpoint_dir = "pyproject"\n' if "pyproject" in given else ""
    )
    if "environment" in given:
        monkeypatch.setenv("ROUTILUX_MP_CHECKPOINT_DIR", "environment")
    flow = chain(relay)
    with Runtime(1, backend="inline", checkpoint_dir="argument" if "argument" in given else None):
        state = finish(flow, flow.execute("s0"))
    folder = "checkpoints" if source == "default" else source
    assert (tmp_path / folder / state.job_id / "job_state.json").is_file()


# -- pausing and resuming ---------------------------------------------------------------------------


def test_a_pause_that_takes_too_long_still_stands(local: Runtime, tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "begun"

    def wait(routine: Routine, data: dict[str, Any]) -> None:
        begun.touch()
        poll(gate.exists)
        routine.emit("output")

    flow = chain(wait, relay)
    state = flow.execute("s0", settle_s=0)
    poll(begun.exists)
    flow.pause(state, "lunch", timeout_s=0.02)
    assert state.status == "running"
    gate.touch()
    poll(lambda: state.status == "paused")
    [point] = state.pause_points
    assert set(point) == {
        "timestamp", "reason", "checkpoint", "pending_tasks_count", "active_tasks_count", "queue_size",
        "current_routine_id",
    }  # fmt: skip
    assert (point["reason"], point["pending_tasks_count"], point["active_tasks_count"]) == ("lunch", 1, 0)
    [task] = state.pending_tasks
    assert set(task) == {
        "activation_id", "routine_id", "slot_name", "data", "priority", "metadata", "attempt", "not_before",
    }  # fmt: skip
    assert (task["routine_id"], task["slot_name"], task["attempt"]) == ("s1", "input", 1)
    records = len(state.execution_history)
    assert flow.resume(state) is state
    finish(flow, state)
    assert len(state.execution_history) == records + 1  # pausing and resuming add none


def test_waiting_for_a_flow_with_a_paused_job(local: Runtime, tmp_path: Path) -> None:
    """Without a timeout nobody waits for what may never go on; it has not ended either."""
    gate = tmp_path / "gate"
    flow = chain(relay, lambda routine, data: poll(gate.exists))
    state = flow.execute("s0", settle_s=0)
    threading.Timer(0.05, gate.touch).start()
    flow.pause(state)
    if state.pending_tasks:
        begin = time.monotonic()
        assert flow.wait_for_completion() is False
        assert time.monotonic() - begin < 5
        assert flow.wait_for_completion(0.05) is False
        assert local.wait_until_all_jobs_finished() is False
        assert local.wait_until_all_jobs_finished(0.05) is False
        assert local.wait_until_all_jobs_finished(flow_id="another") is True
    flow.resume(state)
    assert flow.wait_for_completion() is True
    assert state.status == "completed"
    flow.pause(state)  # it has ended, and shows what was asked for
    assert flow.wait_for_completion() is False
    assert local.wait_until_all_jobs_finished() is False
    flow.resume(state)
    assert local.wait_until_all_jobs_finished() is True


def test_resuming_uses_the_flow_that_it_is_given(tmp_path: Path) -> None:
    """Its configuration and its handlers, not those that the job was started with."""

    def answer(routine: Routine, data: dict[str, Any]) -> None:
        routine.emit("output", says=routine.get_config("says"))

    gate = tmp_path / "gate"

    def make(says: str) -> Flow:
        flow = chain(lambda routine, data: [poll(gate.exists), routine.emit("output")], answer)
        flow.routines["s1"].set_config(says=says)
        return flow

    with Runtime(2, checkpoint_dir=str(tmp_path / "root")):
        flow = make("old")
        state = flow.execute("s0", settle_s=0)
        threading.Timer(0.05, gate.touch).start()
        flow.pause(state)
        assert state.pending_tasks
    with Runtime(2, checkpoint_dir=str(tmp_path / "root")):
        flow = make("new")
        resumed = finish(flow, flow.resume(JobState.deserialize(state.serialize())))
    assert list(resumed.results("s1", "output")) == [{"says": "new"}]


def test_resuming_here_takes_the_rules_of_the_flow_that_it_is_given(runtime: Runtime) -> None:
    def fails(routine: Routine, data: dict[str, Any]) -> None:
        raise ValueError(f"attempt {routine.attempt}")

    def make(max_retries: int, retry_delay: float) -> Flow:
        flow = chain(relay, fails)
        flow.set_error_handler(ErrorHandler("retry", max_retries=max_retries, retry_delay=retry_delay, retry_backoff=1))
        return flow

    flow = make(9, 60)
    state = flow.execute("s0", settle_s=0)
    poll(lambda: flow.get_routine_retry_count("s1") == 1)
    flow.pause(state)
    other = make(3, 0.001)
    edited = JobState.deserialize(json.loads(json.dumps(state.serialize())))
    edited.pending_tasks[0]["not_before"] = None
    finish(other, other.resume(edited))
    assert (state.status, edited.status, edited.retry_count("s1")) == ("failed", "failed", 3)
    assert len([r for r in state.execution_history if r.event_name == "error"]) == 4


def test_a_generator_stops_at_its_next_yield(local: Runtime) -> None:
    def count(routine: Routine, data: dict[str, Any]) -> Iterator[int]:
        for number in range(routine.resume_cursor or 0, 2000):
            routine.emit("output", number=number)
            time.sleep(0.0005)
            yield number + 1

    flow = chain(count)
    state = flow.execute("s0", settle_s=0)
    poll(lambda: len(list(state.results("s0", "output"))) > 5)
    flow.pause(state)
    done = len(list(state.results("s0", "output")))
    assert 5 < done < 2000
    flow.resume(state)
    finish(flow, state)
    assert [result["number"] for result in state.results("s0", "output")] == list(range(2000))


def test_a_resumed_job_with_nothing_left_is_seen_running(runtime: Runtime) -> None:
    """At least a tenth of a second passes, so that a caller who looks at once sees ``running``."""
    flow = chain(relay)
    state = finish(flow, flow.execute("s0"))
    flow.pause(state)
    begin = time.monotonic()
    assert flow.resume(state).status == "running"
    finish(flow, state)
    assert time.monotonic() - begin >= 0.09
    assert state.status == "completed"


@pytest.mark.parametrize("has_log", [True, False], ids=["its root", "another root"])
def test_a_job_that_was_paused_after_its_end_is_whole_wherever_it_is_resumed(
    runtime: Runtime, tmp_path: Path, has_log: bool
) -> None:
    """The seeds' own example: so small a job is done before it is paused and sent."""
    flow = chain(relay, relay)
    state = finish(flow, flow.execute("s0", {"n": 1}))
    flow.pause(state, "transfer", {"row": 1})
    sent = state.serialize()
    runtime.shutdown()
    root = str(tmp_path / ("root" if has_log else "other"))
    for _ in range(2):
        with Runtime(2, backend=runtime.settings.backend, checkpoint_dir=root):
            other = JobState.deserialize(json.loads(json.dumps(sent)))
            assert (other.status, other.checkpoint) == ("paused", {"row": 1})
            resumed = flow.resume(other)
            assert resumed.status == "running"
            finish(flow, resumed)
            assert (resumed.job_id, resumed.status) == (state.job_id, "completed")
            assert resumed.execution_history == list(state.execution_history)
            assert list(resumed.results("s1", "output")) == [{"n": 1}]
            assert resumed.get_routine_state("s1") == {"status": "completed"}
            flow.pause(resumed, "transfer", {"row": 1})
            sent = resumed.serialize()


# -- in a handler -----------------------------------------------------------------------------------


def test_what_is_changed_in_place_is_part_of_the_commit(runtime: Runtime) -> None:
    def work(routine: Routine, data: dict[str, Any]) -> None:
        state = state_of(routine)
        state.shared_data.setdefault("list", []).append(data["n"])
        state.routine_states.setdefault("mine", {})
        if "mine" in state.routine_states:
            state.routine_states["mine"]["last"] = data["n"]
        if data["n"] == 1:
            state.shared_data["list"].append("lost")
            raise ValueError("not this one")
        state.update_routine_state("mine", {"last": data["n"]})

    def three(routine: Routine, data: dict[str, Any]) -> None:
        for n in range(3):
            routine.emit("output", n=n)

    flow = chain(three, work)
    state = finish(flow, flow.execute("s0"))
    assert state.get_shared_data("list") == [0, 2]
    assert state.get_routine_state("mine") == {"last": 2}


def test_where_a_handler_is(runtime: Runtime) -> None:
    def work(routine: Routine, data: dict[str, Any]) -> None:
        context = routine.get_execution_context()
        assert context is not None
        here = [context.flow.flow_id, context.routine_id, context.job_state.job_id, context.job_state.flow_id]
        routine.emit("output", here=here, state=context.job_state.get_routine_state("never"))

    flow = chain(work)
    state = finish(flow, flow.execute("s0"))
    [result] = state.results("s0", "output")
    assert result == {"here": ["details", "s0", state.job_id, "details"], "state": None}
    assert flow.routines["s0"].get_execution_context() is None


def test_a_handler_looks_at_the_other_routines(runtime: Runtime) -> None:
    def work(routine: Routine, data: dict[str, Any]) -> None:
        context = routine.get_execution_context()
        assert context is not None
        flow = context.flow
        with pytest.raises(AttributeError, match="'execute' is to be had where the flow was made"):
            flow.execute("s0")
        with pytest.raises(UsageError, match="can pause the job that runs it, not job"):
            flow.pause(JobState("details"))
        with pytest.raises(UsageError, match="from inside"):
            JobState.wait_for_completion(flow, context.job_state)
        limit = flow.routines["s1"].get_config("limit")
        ids = [rid for rid, _ in flow.find_routines_by_type(Step)]
        routine.emit("output", limit=limit, ids=ids, count=len(flow.routines), says=repr(flow))

    flow = chain(work, relay)
    flow.routines["s1"].set_config(limit=7)
    state = finish(flow, flow.execute("s0"))
    assert list(state.results("s1", "output")) == [
        {"limit": 7, "ids": ["s0", "s1"], "count": 2, "says": "Flow[details]"}
    ], state.error


def test_a_handler_reads_the_metadata_and_is_told_what_it_has_not(runtime: Runtime) -> None:
    def work(routine: Routine, data: dict[str, Any]) -> None:
        state = state_of(routine)
        with pytest.raises(AttributeError, match="job_state in a handler has no 'pending_tasks'"):
            state.pending_tasks  # noqa: B018
        routine.emit("output", **state.metadata)

    flow = chain(work)
    state = JobState("details")
    state.metadata = {"owner": ["me", {1, 2}]}
    finish(flow, runtime.exec(flow, {}, state))
    assert list(state.results("s0", "output")) == [{"owner": ["me", {1, 2}]}]
    assert list(finish(flow, runtime.exec(flow, {})).results("s0", "output")) == [{}]


def test_a_job_that_took_too_long_has_failed_even_if_it_came_to_its_end(runtime: Runtime) -> None:
    flow = chain(lambda routine, data: time.sleep(0.1))
    state = finish(flow, flow.execute("s0", timeout=0.02))
    assert (state.status, state.error) == ("failed", "execution_timeout is over")


@pytest.mark.parametrize("durability", ["commit", "none"])
@pytest.mark.parametrize("backend", ["inline", "local"])
def test_a_handler_records(backend: str, durability: str, tmp_path: Path) -> None:
    """Its own records hold with its commit, and are part of a document like any other."""

    def work(routine: Routine, data: dict[str, Any]) -> None:
        state_of(routine).record_execution("s0", "checked", {"attempt": routine.attempt, "set": {1}})
        if routine.attempt == 1:
            raise ValueError("once")
        routine.emit("output", n=1)
        state_of(routine).record_execution("elsewhere", "noted")

    flow = chain(work)
    flow.set_error_handler(ErrorHandler("retry", retry_delay=0.001))
    with Runtime(2, backend=backend, durability=durability, checkpoint_dir=str(tmp_path / "root")):
        state = finish(flow, flow.execute("s0"))
        records = [(r.routine_id, r.event_name) for r in state.execution_history]
        assert records == [
            ("s0", "start"), ("s0", "error"), ("s0", "output"), ("s0", "checked"), ("elsewhere", "noted"),
            ("s0", "completed"),
        ]  # fmt: skip
        assert state.execution_history[3].data == {"attempt": 2, "set": {1}}
        assert state.execution_history[-1] == state.execution_history[5]
        again = JobState.deserialize(json.loads(json.dumps(state.serialize())))
        assert again.execution_history == list(state.execution_history)


def test_what_is_handed_out_is_a_copy(runtime: Runtime) -> None:
    flow = chain(lambda routine, data: state_of(routine).update_shared_data("list", [1]))
    state = finish(flow, flow.execute("s0"))
    state.get_shared_data("list").append(2)
    found = state.get_routine_state("s0")
    assert found is not None
    found["status"] = "mine"
    assert (state.get_shared_data("list"), state.get_routine_state("s0")) == ([1], {"status": "completed"})
    assert state.get_routine_state("never") is None


def test_times_never_go_back(runtime: Runtime) -> None:
    flow = chain(lambda routine, data: [routine.emit("output", n=n) for n in range(20)], relay)
    state = finish(flow, flow.execute("s0"))
    times = [record.timestamp for record in state.execution_history]
    assert times == sorted(times)
    assert all(isinstance(t, datetime) and t.tzinfo is None and "T" in str(t) for t in times)
    assert state.created_at <= times[0]
    assert times[-1] <= state.updated_at


def test_what_handlers_print_is_seen_before_the_status(runtime: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    flow = chain(lambda routine, data: print("one\ntwo"))
    finish(flow, flow.execute("s0", settle_s=0))
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_long_uncommitted_handler_is_told_of_commits(
    runtime: Runtime, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(routine: Routine, data: dict[str, Any]) -> None:
        for n in range(20_000):  # it looks every few thousand
            routine.emit("output", n=n)

    flow = chain(work)
    finish(flow, flow.execute("s0"))
    said = caplog.text + "".join(capfd.readouterr())
    assert "yield" in said
    assert "self.commit" in said


def test_public_methods_may_be_called_from_many_threads(runtime: Runtime) -> None:
    """004: thread-safe. Nothing is lost of what eight threads add at the same time."""
    flow = chain(relay)
    flow.set_error_handler(ErrorHandler("stop"))
    state = JobState(flow.flow_id)

    def write(number: int) -> None:
        for n in range(25):
            state.increment("count")
            state.append("list", [number, n])
            state.append_to_shared_log({"number": number})
            state.update_routine_state(f"r{number}", {"n": n})
            state.record_execution("mine", "note", {"n": n})
            assert len(state.execution_history) > 0
            assert json.dumps(state.serialize())

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    runtime.exec(flow, {}, state)
    for thread in threads:
        thread.join()
    finish(flow, state)
    assert state.get_shared_data("count") == 200
    assert len(state.get_shared_data("list")) == 200
    assert len(state.shared_log) == 200
    assert [state.get_routine_state(f"r{number}") for number in range(8)] == [{"n": 24}] * 8


# -- restoring --------------------------------------------------------------------------------------


class Configured(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.kept, self.lost = 0, 0
        self.add_slot("input")
        self.add_event("output")
        self.add_serializable_fields(["kept", "not_there"])
        self.set_logic(self.work).set_activation_policy(immediate_policy())

    def work(self, slot_data: Any) -> None: ...


def test_what_is_restored_and_what_is_not() -> None:
    routine = Configured()
    routine.kept, routine.lost = 1, 1
    routine.set_config(a={"deep": [1, 2]})
    routine.set_activation_policy(batch_size_policy(3))
    routine.add_slot("added", merge_strategy="append")
    data = json.loads(json.dumps(routine.serialize()))
    again = Configured.deserialize(data)
    assert (again.kept, again.lost, data["not_there"]) == (1, 0, None)
    assert again.config() == {"a": {"deep": [1, 2]}}
    assert again._activation_policy == batch_size_policy(3)
    assert again._logic == again.work
    assert again.get_slot("added").merge_strategy == "append"
    assert list(again._slots) == ["input", "added"]


# -- the package that the seeds import -----------------------------------------------------------


def test_the_decorator_of_the_real_package(local: Runtime) -> None:
    """``from serilux import register_serializable`` may stay as it is in a user's file."""
    serilux = pytest.importorskip("serilux")

    @serilux.register_serializable  # type: ignore[untyped-decorator]
    class Decorated(Step):
        pass

    flow = Flow("decorated")
    flow.add_routine(Decorated(), "d")
    again = Flow.deserialize(json.loads(json.dumps(flow.serialize())))
    assert type(again.routines["d"]) is Decorated
    state = finish(again, again.execute("d", {"n": 1}))
    assert list(state.results("d", "output")) == [{"n": 1}]


def test_what_that_decorator_does_is_harmless(runtime: Runtime) -> None:
    """It keeps a registry of its own and returns the class: whatever decorates a class so, it works."""

    def register(cls: type) -> type:
        cls._registered = True  # type: ignore[attr-defined]
        return cls

    @register
    class Decorated(Step):
        pass

    flow = Flow("decorated too")
    flow.add_routine(Decorated(), "d")
    again = Flow.deserialize(json.loads(json.dumps(flow.serialize())))
    assert list(finish(again, again.execute("d", {"n": 2})).results("d", "output")) == [{"n": 2}]
