"""Activation policies over a running engine: who is asked, when, and what its answer leads to."""

from __future__ import annotations

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
    JobState,
    Routine,
    Runtime,
    all_slots_ready_policy,
    batch_size_policy,
    custom_policy,
    time_interval_policy,
)

DEADLINE_S = 20.0


class Source(Routine):
    """Sends numbers into one or both of its events."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("left")
        self.add_event("right")

    def send(self, left: int = 0, right: int = 0) -> None:
        for number in range(max(left, right)):
            if number < left:
                self.emit("left", n=number)
            if number < right:
                self.emit("right", n=-number)


class Collector(Routine):
    """Passes on what its policy gave it."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("a")
        self.add_slot("b")
        self.add_event("output")
        self.set_logic(self.collect)

    def collect(self, slot_data: dict[str, list[Any]], policy_message: Any, job_state: Any) -> None:
        data = {name: [item["n"] for item in items] for name, items in slot_data.items()}
        self.emit("output", **data, message=policy_message)


def flow_with(policy: Any, **options: Any) -> Flow:
    flow = Flow("policies")
    flow.add_routine(Source(), "source")
    collector = Collector().set_activation_policy(policy)
    if "error_handler" in options:
        collector.set_error_handler(options.pop("error_handler"))
    flow.add_routine(collector, "collector", **options)
    flow.connect("source", "left", "collector", "a")
    flow.connect("source", "right", "collector", "b")
    return flow


@pytest.fixture(params=["inline", "local"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(2, backend=request.param, checkpoint_dir=str(tmp_path / "root")) as runtime:
        yield runtime


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def run(flow: Flow, **params: Any) -> JobState:
    state = flow.execute("source", params)
    assert flow.wait_for_completion(DEADLINE_S, state)
    return state


def outputs(state: JobState) -> list[dict[str, Any]]:
    return list(state.results("collector", "output"))


def inputs(state: JobState) -> list[tuple[list[int], list[int]]]:
    return [(found["a"], found["b"]) for found in outputs(state)]


def test_a_batch_is_full_when_every_slot_has_as_many(runtime: Runtime) -> None:
    state = run(flow_with(batch_size_policy(2)), left=5, right=3)
    assert inputs(state) == [([0, 1], [0, -1]), ([2, 3, 4], [-2])], "what is left at the end is flushed"
    assert outputs(state)[0]["message"] == {"reason": "batch_ready", "batch_size": 2}


def test_all_slots_ready_tells_what_nobody_took(runtime: Runtime) -> None:
    state = run(flow_with(all_slots_ready_policy()), left=3, right=1)
    assert inputs(state) == [([0], [0])]
    assert state.status == "completed"
    assert state.unconsumed == {"collector": {"a": 2}}


def test_an_interval_takes_all_there_is(runtime: Runtime) -> None:
    state = run(flow_with(time_interval_policy(60.0)), left=4)
    assert sum(len(a) for a, _ in inputs(state)) == 4
    assert len(inputs(state)) <= 2, "at once, and at the end: the interval is not over before that"


def test_a_check_is_asked_at_every_arrival_however_emissions_were_batched(runtime: Runtime) -> None:
    policy = custom_policy(lambda slots, job_state: slots["a"].get_unconsumed_count() >= 3)
    state = run(flow_with(policy), left=8)
    assert inputs(state) == [([0, 1, 2], []), ([3, 4, 5], [])]
    assert outputs(state)[0]["message"] == {"reason": "custom_policy_met"}
    assert state.unconsumed == {"collector": {"a": 2}}


def test_a_policy_of_ones_own_takes_what_it_likes_and_is_asked_at_the_end(runtime: Runtime) -> None:
    def pairs(slots: Any, job_state: Any, final: bool = False) -> Any:
        if slots["a"].get_unconsumed_count() >= 2:
            two = [slots["a"].consume_one_new() for _ in range(2)]
            return True, {"a": two}, {"why": "pair", "job": job_state.job_id}
        if final:
            return True, {"a": slots["a"].consume_all_new()}, {"why": "rest"}
        return False, {}, None

    state = run(flow_with(pairs), left=5)
    assert inputs(state) == [([0, 1], []), ([2, 3], []), ([4], [])]
    assert [found["message"] for found in outputs(state)] == [
        {"why": "pair", "job": state.job_id}, {"why": "pair", "job": state.job_id}, {"why": "rest"},
    ]  # fmt: skip
    assert state.unconsumed == {}


def test_yes_with_nothing_taken_does_not_go_on_for_ever(runtime: Runtime) -> None:
    state = run(flow_with(lambda slots, job_state, final=False: (True, {}, "again")), left=2)
    assert inputs(state) == [([], [])] * 3, "two arrivals and the end"
    assert state.unconsumed == {"collector": {"a": 2}}


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (lambda slots, job_state: True, "must return"),
        (lambda slots, job_state: (True, [1], None), "a dict"),
        (lambda slots, job_state: (True, {"c": [1]}, None), "slot 'c'"),
        (lambda slots, job_state: (True, {"a": [slots["a"].peek_latest(), 5]}, None), "not the oldest"),
        (lambda slots, job_state: (True, {"a": [{"n": 0}]}, None), "not the oldest"),
        (lambda slots, job_state: (True, {}, threading.Lock()), "message of its policy"),
        (lambda slots, job_state: 1 / 0, "division by zero"),
    ],
)
def test_an_answer_that_cannot_be_followed_is_a_failure_of_the_routine(policy: Any, text: str, tmp_path: Path) -> None:
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path / "root")):
        state = run(flow_with(policy, error_handler=ErrorHandler("stop")), left=1)
        assert state.status == "failed"
        assert text in state.routine_states["collector"]["error"]
        assert "collector" in str(state.error)
        assert [r.event_name for r in state.get_execution_history("collector")] == ["error"]


def test_a_policy_that_fails_is_tried_again_and_tolerated_without_a_handler(runtime: Runtime, tmp_path: Path) -> None:
    marks = tmp_path / "asked"

    def third_time_lucky(slots: Any, job_state: Any) -> bool:
        with marks.open("a") as file:
            file.write(".")
        if len(marks.read_text()) < 3:
            raise OSError("not yet")
        return True

    retry = ErrorHandler("retry", max_retries=3, retry_delay=0.01)
    state = run(flow_with(custom_policy(third_time_lucky), error_handler=retry), left=1)
    assert (state.status, inputs(state)) == ("completed", [([0], [])])
    assert [r.data["attempt"] for r in state.execution_history if r.event_name == "error"] == [1, 2]

    state = run(flow_with(lambda slots, job_state: 1 / 0), left=2)
    assert (state.status, inputs(state)) == ("completed", [])
    assert state.unconsumed == {"collector": {"a": 2}}, "nothing is lost"


def test_a_policy_that_hangs_or_dies_is_treated_like_a_handler(tmp_path: Path) -> None:
    def hang(slots: Any, job_state: Any) -> bool:
        time.sleep(DEADLINE_S)
        return True

    def die(slots: Any, job_state: Any) -> bool:
        os._exit(3)

    with Runtime(2, backend="local", checkpoint_dir=str(tmp_path / "root")):
        flow = flow_with(custom_policy(hang), timeout_s=0.2, error_handler=ErrorHandler("stop"))
        state = run(flow, left=1)
        assert (state.status, state.routine_states["collector"]["status"]) == ("failed", "failed")
        assert "timeout_s" in state.routine_states["collector"]["error"]
        state = run(flow_with(custom_policy(die)), left=1)
        assert (state.status, state.unconsumed) == ("completed", {"collector": {"a": 1}})
        assert [r.event_name for r in state.get_execution_history("collector")] == ["error"] * 3


def test_what_a_policy_does_to_the_state_is_not_kept(runtime: Runtime) -> None:
    def meddling(slots: Any, job_state: Any) -> bool:
        job_state.update_shared_data("asked", True)
        return True

    state = run(flow_with(custom_policy(meddling)), left=1)
    assert (inputs(state), state.shared_data) == ([([0], [])], {})


@pytest.mark.parametrize("backend", ["inline", "local"])
def test_half_filled_slots_survive_the_end_of_their_supervisor(tmp_path: Path, backend: str) -> None:
    def fed_by_hand() -> Flow:
        flow = Flow("policies")
        policy = custom_policy(lambda slots, job_state: slots["a"].get_unconsumed_count() >= 3)
        flow.add_routine(Collector().set_activation_policy(policy), "collector")
        return flow

    root = str(tmp_path / "root")
    with Runtime(2, backend=backend, checkpoint_dir=root) as first:
        flow = fed_by_hand()
        state = first.exec(flow)
        first.post(flow, "collector", "a", {"n": 1})
        first.post(flow, "collector", "a", {"n": 2})
        first.pause(state)
        assert state.unconsumed == {"collector": {"a": 2}}
    with Runtime(2, backend=backend, checkpoint_dir=root) as second:
        again = second.resume_job(state.job_id, fed_by_hand())
        second.post(flow, "collector", "a", {"n": 3})
        poll(lambda: len(outputs(again)) == 1)
        assert inputs(again) == [([1, 2, 3], [])]


def test_a_policy_of_a_routine_with_many_workers_is_asked_in_one_of_them(tmp_path: Path) -> None:
    """Its own memory holds from one question to the next, as in the routine's only worker."""
    routine = Routine()
    routine.add_slot("input")
    routine.add_event("output")
    asked: list[int] = []

    def pairs(slots: Any, job_state: Any) -> tuple[bool, dict[str, list[Any]], Any]:
        asked.append(len(asked))
        if len(asked) % 2:
            return False, {}, None
        return True, {"input": slots["input"].consume_all_new()}, {"asked": len(asked), "pid": os.getpid()}

    def work(slot_data: dict[str, list[Any]], policy_message: Any, job_state: Any) -> None:
        time.sleep(0.02)  # meanwhile the next questions come up
        routine.emit("output", **policy_message, ran_in=os.getpid(), count=len(slot_data["input"]))

    routine.set_logic(work).set_activation_policy(pairs)
    source = Routine()
    source.add_event("output")

    def send() -> Iterator[int]:
        for n in range(source.resume_cursor or 0, 40):
            source.emit("output", n=n)
            time.sleep(0.002)
            yield n + 1

    source.add_slot("trigger", handler=send)
    flow = Flow("many workers")
    flow.add_routine(source, "source")
    flow.add_routine(routine, "pairs", workers=3)
    flow.connect("source", "output", "pairs", "input")
    with Runtime(4, checkpoint_dir=str(tmp_path)):
        state = flow.execute("source", settle_s=0)
        assert flow.wait_for_completion(60, state)
        results = list(state.results("pairs", "output"))
    assert sorted(row["asked"] for row in results) == list(range(2, 41, 2))
    assert sum(row["count"] for row in results) == 40
    assert len({row["pid"] for row in results}) == 1
    assert len({row["ran_in"] for row in results}) > 1
