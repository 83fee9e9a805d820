"""Wrong wiring is impossible: a random flow, written as JSON and read again, does what it did and what it should."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from routilux_mp import Flow, JobState, Runtime
from tests.support.random_flows import IDS, Link, Outcome, Plan, expected, make_flow, outcome_of, plans

DEADLINE_S = 30.0

#: The two readings of a document: on the class it makes a new object, on an object it restores that one.
READERS = (Flow.deserialize, lambda data: Flow().deserialize(data))

DIAMOND = Plan(
    ("handlers", "handlers", "handlers", "ready"),
    (("override", "override"),) * 4,
    (
        Link(0, "output", 1, "input", None),
        Link(0, "output", 2, "input", {"a": "b", "b": "a"}),
        Link(1, "output", 3, "input", None),
        Link(2, "output", 3, "extra", {"a": "c"}),
    ),
    (3, 1, 0, 2),
    3,
)

#: More routines than workers, so that a list that was appended to moves on to another worker.
APPENDING = Plan(
    ("handlers", "handlers", "handlers", "handlers", "immediate"),
    (("override", "override"), ("append", "counted"), *((("override", "override"),) * 3)),
    tuple(Link(0, "output", n, "input", None) for n in (1, 2, 3, 4)),
    (0, 1, 2, 3, 4),
    3,
)


def run(runtime: Runtime, plan: Plan, flow: Flow) -> Outcome:
    state = runtime.execute(flow, IDS[0], {"count": plan.count}, settle_s=0)
    assert JobState.wait_for_completion(flow, state, DEADLINE_S), state.progress
    assert state.status == "completed", state.error
    got = outcome_of(plan, state)
    _expect_the_results_to_be_those_of_the_history(plan, state, got)
    assert len(state.execution_history) == got.emissions + 2
    return got


def _expect_the_results_to_be_those_of_the_history(plan: Plan, state: JobState, got: Outcome) -> None:
    connected = {(IDS[link.source], link.event) for link in plan.links}
    results = Counter(
        json.dumps([rid, event, result])
        for rid in IDS[: len(plan.kinds)]
        for event in ("output", "other")
        if (rid, event) not in connected
        for result in state.results(rid, event)
    )
    assert results == got.results


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans(), reader=st.sampled_from(READERS))
@example(plan=DIAMOND, reader=READERS[0])
@example(plan=APPENDING, reader=READERS[1])
def test_a_flow_that_went_through_json_does_the_same(plan: Plan, reader: object) -> None:
    flow = make_flow(plan)
    data = json.loads(json.dumps(flow.serialize()))
    again: Flow = reader(data)  # type: ignore[operator]
    assert list(again.routines) == list(flow.routines)
    assert again.serialize() == data
    with Runtime(3, backend="inline", durability="none") as runtime:
        assert run(runtime, plan, flow) == run(runtime, plan, again) == expected(plan)


@pytest.mark.slow
def test_the_same_on_worker_processes(tmp_path: Path) -> None:
    with Runtime(4, checkpoint_dir=str(tmp_path)) as runtime:

        @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(plan=plans())
        @example(plan=DIAMOND)
        def check(plan: Plan) -> None:
            again = Flow.deserialize(json.loads(json.dumps(make_flow(plan).serialize())))
            assert run(runtime, plan, again) == expected(plan)

        check()


@settings(max_examples=60, deadline=None)
@given(plan=plans(), data=st.data())
def test_another_wiring_would_be_seen(plan: Plan, data: st.DataObject) -> None:
    """The digests see it when one connection leads from the other event."""
    number = data.draw(st.integers(0, len(plan.links) - 1))
    link = plan.links[number]
    other = link._replace(event="other" if link.event == "output" else "output")
    wrong = plan._replace(links=(*plan.links[:number], other, *plan.links[number + 1 :]))
    if expected(wrong) == expected(plan):
        # Not seen are only twins, what is merely counted or overwritten on its way, and what never happens.
        twins = [one for one in plan.links if one._replace(event="") == link._replace(event="")]
        is_counted = any(merge in ("append", "counted") for merges in plan.merges for merge in merges)
        is_overwritten = any(one.mapping == {"b": "a"} for one in plan.links)
        assert len(twins) > 1 or is_counted or is_overwritten or _is_silent(plan, link.source)


def _is_silent(plan: Plan, number: int) -> bool:
    """Nothing ever arrives at this routine."""
    if number == 0:
        return plan.count == 0
    return all(_is_silent(plan, link.source) for link in plan.links if link.target == number)
