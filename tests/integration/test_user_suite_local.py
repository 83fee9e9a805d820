"""The same user's tests on worker processes: nothing of the test's own changes, so results, log and state are read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
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
    all_slots_ready_policy,
    batch_size_policy,
    immediate_policy,
    upstream_done_policy,
)

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with Runtime(3, backend="local", checkpoint_dir=str(tmp_path_factory.mktemp("root"))) as runtime:
        yield runtime


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_behind(runtime: Runtime) -> None:
    """The module's runtime is left when its last test has run; its processes and threads are no leak before."""


@pytest.fixture(autouse=True)
def _registry(runtime: Runtime) -> Iterator[None]:
    FlowRegistry.get_instance().clear()
    yield
    FlowRegistry.get_instance().clear()


def state_of(routine: Routine) -> Any:
    context = routine.get_execution_context()
    assert context is not None
    return context.job_state


def source(*values: Any) -> Routine:
    routine = Routine()
    routine.define_event("output", ["data"])
    routine.define_slot("trigger", handler=lambda: [routine.emit("output", data=value) for value in values] and None)
    return routine


def step(work: Any, **options: Any) -> Routine:
    """Emits what ``work(routine, data)`` gives."""
    routine = Routine()
    routine.define_event("output", ["data"])
    routine.define_slot("input", handler=lambda data=None, **more: routine.emit("output", data=work(routine, data)),
                        **options)  # fmt: skip
    return routine


def chain(*routines: Routine, flow_id: str = "local") -> Flow:
    flow = Flow(flow_id)
    for number, routine in enumerate(routines):
        flow.add_routine(routine, f"r{number}")
        if number:
            flow.connect(f"r{number - 1}", "output", f"r{number}", "input")
    return flow


def run(flow: Flow, entry: str = "r0", **params: Any) -> JobState:
    job_state = flow.execute(entry, entry_params=params or None)
    assert flow.wait_for_completion(timeout=DEADLINE_S, job_state=job_state), job_state.progress
    return job_state


def values(job_state: JobState, routine_id: str) -> list[Any]:
    return [row["data"] for row in job_state.results(routine_id, "output")]


def events_of(job_state: JobState, routine_id: str | None = None) -> list[str]:
    return [record.event_name for record in job_state.get_execution_history(routine_id)]


def test_a_linear_flow() -> None:
    job_state = run(chain(source("A"), step(lambda r, data: f"Processed: {data}")))
    assert (job_state.status, values(job_state, "r1")) == ("completed", ["Processed: A"])
    assert events_of(job_state) == ["start", "output", "completed", "output"]
    assert job_state.get_routine_state("r1") == {"status": "completed"}


def test_the_callers_list_does_not_change_and_results_are_complete() -> None:
    seen: list[int] = []
    job_state = run(chain(source(*range(300)), step(lambda r, data: seen.append(data) or data * 2)))
    assert seen == []
    assert values(job_state, "r1") == [n * 2 for n in range(300)]


def test_isinstance_holds_for_a_local_class() -> None:
    class Item:
        def __init__(self, n: int) -> None:
            self.n = n

    made = step(lambda r, data: Item(data))
    looked = step(lambda r, data: [isinstance(data, Item), data.n])
    assert values(run(chain(source(1, 2), made, looked)), "r2") == [[True, 1], [True, 2]]


def test_shared_data_survives_many_writers() -> None:
    flow = Flow("writers")
    flow.add_routine(source(*range(50)), "r0")
    for name in ("a", "b"):
        routine = step(lambda r, data: state_of(r).increment("count") or state_of(r).append("seen", data))
        flow.add_routine(routine, name, workers=2)
        flow.connect("r0", "output", name, "input")
    job_state = run(flow)
    assert job_state.get_shared_data("count") == 100
    assert Counter(job_state.get_shared_data("seen")) == dict.fromkeys(range(50), 2)


def test_a_read_modify_write_of_shared_data_loses_nothing() -> None:
    def add(routine: Routine, data: int) -> None:
        state = state_of(routine)
        state.update_shared_data("total", state.get_shared_data("total", 0) + data)

    flow = Flow("totals")
    flow.add_routine(source(*range(40)), "r0")
    flow.add_routine(step(add), "adds", workers=2)
    flow.connect("r0", "output", "adds", "input")
    assert run(flow).get_shared_data("total") == sum(range(40))


def test_the_log_has_every_entry_with_its_time() -> None:
    work = step(lambda r, data: state_of(r).append_to_shared_log({"n": data}))
    job_state = run(chain(source(*range(5)), work))
    assert [entry["n"] for entry in job_state.get_shared_log()] == list(range(5))
    assert all("T" in entry["timestamp"] for entry in job_state.get_shared_log())
    assert [entry["n"] for entry in job_state.get_shared_log(lambda entry: entry["n"] > 2)] == [3, 4]


def test_routine_state_counts_in_order() -> None:
    def count(routine: Routine, data: Any) -> int:
        state = state_of(routine).get_routine_state("r1", {})
        state_of(routine).update_routine_state("r1", {"count": state.get("count", 0) + 1})
        return int(state.get("count", 0))

    job_state = run(chain(source(*"abc"), step(count)))
    assert values(job_state, "r1") == [0, 1, 2]
    assert job_state.get_routine_state("r1") == {"status": "completed", "count": 3}


def test_append_accumulates_within_the_job_only() -> None:
    flow = chain(source(1, 2, 3), step(lambda r, data: list(data), merge_strategy="append"))
    for _ in range(2):
        assert values(run(flow), "r1") == [[1], [1, 2], [1, 2, 3]]


def test_several_events_keep_their_order() -> None:
    routine = Routine()
    for name in ("done", "item"):
        routine.define_event(name)

    def send() -> None:
        for group in range(3):
            for n in range(2):
                routine.emit("item", n=n)
            routine.emit("done", group=group)

    routine.define_slot("trigger", handler=send)
    heard = Routine()
    heard.define_event("output")
    heard.define_slot("item", handler=lambda n: heard.emit("output", data=n))
    heard.define_slot("done", handler=lambda group: heard.emit("output", data=f"done {group}"))
    flow = Flow("several")
    flow.add_routine(routine, "r0")
    flow.add_routine(heard, "heard")
    flow.connect("r0", "done", "heard", "done")
    flow.connect("r0", "item", "heard", "item")
    job_state = run(flow)
    assert values(job_state, "heard") == [0, 1, "done 0", 0, 1, "done 1", 0, 1, "done 2"]
    assert events_of(job_state, "r0") == ["start", *["item", "item", "done"] * 3, "completed"]


def test_events_of_a_busy_routine_are_recorded_in_order_however_they_were_batched() -> None:
    def both(routine: Routine, data: int) -> int:
        routine.emit("other", data=data)
        return data

    work = step(both)
    work.define_event("other")
    job_state = run(chain(source(*range(500)), work))
    records = [(r.event_name, r.data["data"]) for r in job_state.get_execution_history("r1")]
    assert records == [record for n in range(500) for record in (("other", n), ("output", n))]


@pytest.mark.parametrize(
    ("strategy", "status", "state", "event"),
    [
        ("stop", "failed", "failed", "error"),
        ("continue", "completed", "error_continued", "error_continued"),
        ("skip", "completed", "skipped", "error"),
        ("retry", "failed", "failed", "error"),
        (None, "completed", "error", "error"),
    ],
)
def test_error_strategies(strategy: str | None, status: str, state: str, event: str) -> None:
    bad = step(lambda r, data: 1 // 0)
    if strategy is not None:
        bad.set_error_handler(ErrorHandler(strategy, max_retries=2, retry_delay=0.001))
    job_state = run(chain(source(1), bad))
    assert job_state.status == status
    found = job_state.get_routine_state("r1")
    assert (found["status"], "division" in found["error"]) == (state, True)
    assert events_of(job_state, "r1") == [event] * (3 if strategy == "retry" else 1)


def test_retries_are_counted_on_the_callers_handler() -> None:
    def work(routine: Routine, data: Any) -> int:
        if routine.attempt < 3:
            raise ConnectionError("not yet")
        return routine.attempt

    flaky = step(work)
    handler = ErrorHandler(ErrorStrategy.RETRY, max_retries=4, retry_delay=0.001, retryable_exceptions=ConnectionError)
    flaky.set_error_handler(handler)
    flow = chain(source("x"), flaky)
    job_state = run(flow)
    assert (job_state.status, values(job_state, "r1")) == ("completed", [3])
    assert (handler.retry_count, flow.get_routine_retry_count("r1")) == (2, 2)
    assert events_of(job_state, "r1") == ["error", "error", "output"]
    assert run(flow).status == "completed"  # another job begins at 0
    assert handler.retry_count == 2


def test_a_crash_is_one_activations_affair() -> None:
    def work(routine: Routine, data: int) -> int:
        if data == 1:
            __import__("os")._exit(3)
        return data

    job_state = run(chain(source(0, 1, 2), step(work)))
    assert (job_state.status, sorted(values(job_state, "r1"))) == ("completed", [0, 2])
    [letter] = job_state.dead_letters
    assert (letter["routine_id"], letter["data"]) == ("r1", {"data": 1})


def test_pause_json_resume_elsewhere(tmp_path: Path) -> None:
    first = source(*range(6))

    def pausing(routine: Routine, data: int) -> int:
        if data == 2 and not routine.get_config("goes on"):
            context = routine.get_execution_context()
            assert context is not None
            context.flow.pause(context.job_state, reason="half", checkpoint={"at": data})
        return data

    def make(goes_on: bool) -> Flow:
        work = step(pausing)
        work.set_config(**{"goes on": goes_on})
        return chain(first, work)

    flow = make(False)
    job_state = flow.execute("r0")
    job_state._live_or_fail().wait(DEADLINE_S, stops_when_paused=True)
    assert (job_state.status, job_state.checkpoint) == ("paused", {"at": 2})
    done = values(job_state, "r1")
    assert [task["data"]["data"] for task in job_state.pending_tasks] == list(range(len(done), 6))
    text = json.dumps(job_state.serialize())
    other_flow = make(True)
    with Runtime(2, checkpoint_dir=str(tmp_path / "other")):
        other = JobState.deserialize(json.loads(text))
        assert other_flow.resume(other).status == "running"
        assert JobState.wait_for_completion(other_flow, other, timeout=DEADLINE_S)
        assert (other.status, values(other, "r1")) == ("completed", list(range(6)))
        assert other.job_id == job_state.job_id
    flow.cancel(job_state)


def test_cancel_while_it_runs() -> None:
    slow = step(lambda r, data: __import__("time").sleep(0.05))
    flow = chain(source(*range(1000)), slow)
    job_state = flow.execute("r0", settle_s=0)
    flow.cancel(job_state, reason="enough")
    assert job_state.status == "cancelled"
    assert job_state.routine_states["_cancellation"]["reason"] == "enough"
    assert len(values(job_state, "r1")) < 1000


def logic(work: Any, policy: Any, *slots: str) -> Routine:
    routine = Routine()
    for name in slots or ("input",):
        routine.add_slot(name)
    routine.add_event("output")

    def call(slot_data: Any, policy_message: Any, job_state: Any) -> None:
        routine.emit("output", data=work(slot_data, policy_message))

    return routine.set_logic(call).set_activation_policy(policy)


def test_policies_of_the_runtime_style(runtime: Runtime) -> None:
    flow = Flow("policies")
    flow.add_routine(source(*range(7)), "r0")
    lists = lambda slot_data, message: [[item["data"] for item in items] for items in slot_data.values()]  # noqa: E731
    routines = {
        "immediate": logic(lists, immediate_policy()),
        "threes": logic(lists, batch_size_policy(3)),
        "pairs": logic(lists, all_slots_ready_policy(), "input", "second"),
        "all": logic(lambda slot_data, message: [message, len(slot_data["input"])], upstream_done_policy()),
    }
    for name, routine in routines.items():
        flow.add_routine(routine, name)
        flow.connect("r0", "output", name, "input")
    flow.connect("r0", "output", "pairs", "second")
    FlowRegistry.get_instance().register_by_name("policies", flow)
    job_state = runtime.exec("policies", {})
    assert flow.wait_for_completion(DEADLINE_S, job_state)
    assert [n for [items] in values(job_state, "immediate") for n in items] == list(range(7))
    assert values(job_state, "threes") == [[[0, 1, 2]], [[3, 4, 5]], [[6]]]
    assert values(job_state, "pairs") == [[[n], [n]] for n in range(7)]
    assert values(job_state, "all") == [[{"reason": "upstream_done"}, 7]]


def test_a_run_from_an_ended_state_sees_what_the_first_one_left(runtime: Runtime) -> None:
    def count(routine: Routine, data: Any) -> int:
        state = state_of(routine).get_routine_state("r1", {})
        state_of(routine).update_routine_state("r1", {"count": state.get("count", 0) + 1})
        return int(state.get("count", 0)) + 1

    flow = chain(source("x"), step(count))
    first = run(flow)
    again = runtime.exec(flow, job_state=JobState.deserialize(json.loads(json.dumps(first.serialize()))))
    assert flow.wait_for_completion(DEADLINE_S, again)
    assert (values(first, "r1"), values(again, "r1")) == ([1], [2])
    assert again.metadata["rerun_of"] == first.job_id
    assert again.get_routine_state("r1")["count"] == 2


def test_workers_side_by_side_in_order() -> None:
    def work(routine: Routine, data: int) -> int:
        __import__("time").sleep(0.001 * (data % 3))
        return data

    flow = Flow("ordered")
    flow.add_routine(source(*range(60)), "r0")
    flow.add_routine(step(work), "side by side", workers=3, ordered=True)
    flow.connect("r0", "output", "side by side", "input")
    assert values(run(flow), "side by side") == list(range(60))


def test_what_a_handler_prints_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    run(chain(source("hello"), step(lambda r, data: print(data))))
    assert capsys.readouterr().out == "hello\n"


def test_jobs_of_one_flow_do_not_meet() -> None:
    flow = chain(source(*range(20)), step(lambda r, data: state_of(r).increment("n")))
    states = [flow.execute("r0", settle_s=0) for _ in range(5)]
    assert flow.wait_for_completion(timeout=DEADLINE_S)
    assert [state.get_shared_data("n") for state in states] == [20] * 5
