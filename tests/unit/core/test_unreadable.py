"""Input that cannot be read: nobody is charged, nothing is lost, and it is tried again with growing pauses."""

from __future__ import annotations

import pytest

from routilux_mp._core.effects import Unreadable
from routilux_mp._core.outstanding import outstanding
from routilux_mp._core.records import Failed
from routilux_mp._core.select import next_due_ns, wanted
from routilux_mp._core.stimuli import Failure, Tick
from routilux_mp._core.topology import ErrorSpec, PolicySpec
from tests.unit.core.core_bench import OnBench, revoked, routine

STALE = Failure("storage", "routilux_mp.errors.StorageError", "stale handle")
DAMAGED = STALE._replace(type_name="routilux_mp.errors.CheckpointDamaged", is_retryable=False)


@pytest.mark.parametrize("strategy", ["stop", "continue", "skip", "retry"])
@pytest.mark.parametrize("failure", [STALE, DAMAGED])
def test_no_strategy_gives_up_what_could_not_be_read(strategy: str, failure: Failure) -> None:
    bench = OnBench(routine("a"), routine("b", error=ErrorSpec(strategy)), edges=[(0, 0, 1, 0)]).submit()
    bench.run(0, emits={0: 5})
    work = bench.must_give(1)
    effects = bench.report(work, 2, failure=failure)
    assert [e.failure for e in effects if isinstance(e, Unreadable)] == [failure]
    assert revoked(effects), "its worker drops what it was given"
    assert not [r for r in bench.log if isinstance(r, Failed)]
    assert (bench.job.status, bench.job.activations) == ("running", 3)
    assert [owed.item.seq for owed in outstanding(bench.job)] == [2]


def test_it_is_tried_again_later_and_later() -> None:
    bench = OnBench(routine("a")).submit(3)
    pauses = []
    for _ in range(9):
        bench.report(bench.must_give(0), 0, failure=STALE)
        assert wanted(bench.job, bench.now) == []
        assert bench.give(0) is None
        due = next_due_ns(bench.job, bench.now)
        pauses.append((due - bench.now) / 1e9)
        bench.now = due
        bench.happen(Tick())
        assert wanted(bench.job, bench.now) == [0]
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10]
    bench.run(0, count=1)
    bench.report(bench.must_give(0), 0, failure=STALE)
    assert next_due_ns(bench.job, bench.now) - bench.now == 200_000_000, "it worked meanwhile"
    bench.now += 200_000_000
    bench.run(0)
    assert bench.job.status == "completed"


def test_an_attempt_that_was_not_made_is_not_counted() -> None:
    """Also of one that waits for its second attempt already."""
    bench = OnBench(routine("a", error=ErrorSpec("retry", 3, 0.0))).submit(1)
    bench.report(bench.must_give(0), 0, failure=Failure("error", "ValueError", "no"))
    bench.report(bench.must_give(0), 0, failure=STALE)
    bench.now += 200_000_000
    work = bench.must_give(0)
    assert work.attempt == 2
    bench.report(work)
    assert bench.job.status == "completed"


def test_a_policy_is_asked_again() -> None:
    bench = OnBench(routine("a"), routine("b", policy=PolicySpec("custom")), edges=[(0, 0, 1, 0)]).submit()
    bench.run(0, emits={0: 2})
    question = bench.must_give(1)
    assert question.question is not None
    bench.report(question, 0, failure=STALE)
    assert not [r for r in bench.log if isinstance(r, Failed)]
    assert bench.give(1) is None
    bench.now += 200_000_000
    again = bench.must_give(1)
    assert again.question == question.question
