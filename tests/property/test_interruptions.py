"""Pausing, resuming and cancelling at any moment loses nothing and doubles nothing, here and on another host.

Each plan has one outcome, computed without an engine. A job of it is paused again and again, at moments
that are drawn, and goes on in the same runtime, in the next one of the same root, or from JSON where
nobody has heard of it, while a second job of the same flow runs beside it and must not notice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from routilux_mp import Flow, JobState, Runtime
from tests.support.random_flows import IDS, Plan, expected, make_flow, outcome_of, plans

DEADLINE_S = 30.0
#: Long enough for most pauses to come before the end.
NAP_S = 0.0005

#: How an interrupted job goes on.
WAYS = ("here", "next runtime", "json", "json, unpaused")
#: (number of records to wait for, way)
STEPS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(WAYS)), max_size=4)


class Hosts:
    """Runtimes, one after another or side by side, each a host of its own if it has a root of its own."""

    def __init__(self, backend: str, stack: ExitStack) -> None:
        self._backend = backend
        self._stack = stack
        self.root = self.new_root()
        self.runtime = self.start()

    def new_root(self) -> str:
        self.root = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="interruptions-"))
        return self.root

    def start(self) -> Runtime:
        self.runtime = self._stack.enter_context(Runtime(3, backend=self._backend, checkpoint_dir=self.root))
        return self.runtime

    def stop(self) -> None:
        self.runtime.shutdown()


@contextmanager
def hosts(backend: str) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(backend, stack)


def document(state: JobState) -> JobState:
    """What another host makes of it."""
    return JobState.deserialize(json.loads(json.dumps(state.serialize())))


def wait_for_records(flow: Flow, state: JobState, count: int) -> None:
    JobState.wait_until_condition(flow, state, lambda _, s: len(s.execution_history) >= count, DEADLINE_S, 0.001)


def interrupt(here: Hosts, flow: Flow, state: JobState, way: str) -> tuple[Flow, JobState]:
    """Pause, go on; the state that is live from now on."""
    if way == "json, unpaused":
        other = document(state)  # one commit's cut; what this host still does is nobody's business
        flow.cancel(state, "host A is switched off")
        flow = Flow.deserialize(json.loads(json.dumps(flow.serialize())))
        here.new_root()
        here.start()
        return flow, flow.resume(other)
    flow.pause(state, way, {"way": way})
    assert state.status == "paused"
    assert state.checkpoint == {"way": way}
    assert state.pause_points[-1]["pending_tasks_count"] == len(state.pending_tasks)
    assert document(state).pending_tasks == state.pending_tasks
    if way == "here":
        assert flow.resume(state) is state
        return flow, state
    records = len(state.execution_history)
    other, job_id = document(state), state.job_id
    if way == "json":
        flow = Flow.deserialize(json.loads(json.dumps(flow.serialize())))
        here.new_root()
    else:
        here.stop()
    here.start()
    resumed = flow.resume(other)
    assert resumed.job_id == job_id
    assert len(resumed.execution_history) >= records
    return flow, resumed


def expect_the_end(plan: Plan, flow: Flow, state: JobState) -> None:
    assert JobState.wait_for_completion(flow, state, DEADLINE_S), (state.status, state.progress)
    assert state.status == "completed", state.error
    assert outcome_of(plan, state) == expected(plan)
    names = [(r.routine_id, r.event_name) for r in state.execution_history]
    assert [names.count((IDS[0], name)) for name in ("start", "completed")] == [1, 1]
    assert len(names) == expected(plan).emissions + 2


def check_interruptions(backend: str, plan: Plan, steps: list[tuple[int, str]]) -> None:
    with hosts(backend) as here:
        flow = make_flow(plan, NAP_S)
        state = here.runtime.execute(flow, IDS[0], {"count": plan.count}, settle_s=0)
        other_flow = flow
        other = here.runtime.execute(flow, IDS[0], {"count": plan.count}, settle_s=0)
        for records, way in steps:
            wait_for_records(flow, state, min(records, expected(plan).emissions + 2))
            flow, state = interrupt(here, flow, state, way)
        expect_the_end(plan, flow, state)
        expect_the_end(plan, other_flow, other)


def check_cancel(backend: str, plan: Plan, records: int) -> None:
    with hosts(backend) as here:
        flow = make_flow(plan, NAP_S)
        state = here.runtime.execute(flow, IDS[0], {"count": plan.count}, settle_s=0)
        other = here.runtime.execute(flow, IDS[0], {"count": plan.count}, settle_s=0)
        wait_for_records(flow, state, min(records, expected(plan).emissions + 2))
        flow.cancel(state, "enough")
        assert state.status == "cancelled"
        assert state.routine_states["_cancellation"]["reason"] == "enough"
        done = outcome_of(plan, state)
        assert done.results <= expected(plan).results
        assert done.emissions <= expected(plan).emissions
        expect_the_end(plan, flow, other)
        assert outcome_of(plan, state) == done
        assert flow.resume(state) is state
        assert state.status == "cancelled"


PLANS = plans(emissions_max=120)
#: No shrinking: what depends on the moment does not get smaller, and each try takes its time.
QUIETLY = {
    "deadline": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}


@settings(max_examples=40, **QUIETLY)  # type: ignore[arg-type]
@given(plan=PLANS, steps=STEPS)
def test_interrupted_inline(plan: Plan, steps: list[tuple[int, str]]) -> None:
    check_interruptions("inline", plan, steps)


@pytest.mark.slow
@settings(max_examples=12, **QUIETLY)  # type: ignore[arg-type]
@given(plan=PLANS, steps=STEPS)
def test_interrupted_on_worker_processes(plan: Plan, steps: list[tuple[int, str]]) -> None:
    check_interruptions("local", plan, steps)


@settings(max_examples=25, **QUIETLY)  # type: ignore[arg-type]
@given(plan=PLANS, records=st.integers(0, 80))
def test_cancelled_inline(plan: Plan, records: int) -> None:
    check_cancel("inline", plan, records)


@pytest.mark.slow
@settings(max_examples=8, **QUIETLY)  # type: ignore[arg-type]
@given(plan=PLANS, records=st.integers(0, 80))
def test_cancelled_on_worker_processes(plan: Plan, records: int) -> None:
    check_cancel("local", plan, records)
