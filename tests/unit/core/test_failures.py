"""Failures, crashes and cursors: who is charged, what is handed back, what goes on."""

from __future__ import annotations

import pytest

from routilux_mp._core.effects import Dropped
from routilux_mp._core.outstanding import outstanding
from routilux_mp._core.records import Failed
from routilux_mp._core.stimuli import WorkerLost
from routilux_mp._core.topology import ErrorSpec
from routilux_mp._core.view import view_of
from tests.unit.core.core_bench import CRASH, ERROR, TIMEOUT, OnBench, retry, revoked, routine


def _owed(bench: OnBench) -> list[int]:
    return [owed.item.seq + i for owed in outstanding(bench.job) for i in range(owed.item.count)]


def _actions(bench: OnBench) -> list[tuple[int, str, int]]:
    return [(r.seq, r.action, r.attempt) for r in bench.log if isinstance(r, Failed)]


def test_a_failure_commits_what_came_before_and_hands_back_what_comes_after() -> None:
    bench = OnBench(routine("a", error=ErrorSpec("continue"))).submit(10)
    work = bench.must_give(0, count=6)
    behind = bench.must_give(0, count=2)
    effects = bench.report(work, 3, failure=ERROR)
    assert [e.dispatch for e in revoked(effects)] == [0], "the shell hands back everything of this worker"
    assert bench.job.activations == 3
    assert _owed(bench) == [4, 5, 6, 7, 8, 9]
    assert bench.job.dispatches == {}
    dropped = [e for e in bench.report(behind, 2, emits={0: 2}) if isinstance(e, Dropped)]
    assert bench.job.activations == 3, "what was handed back counts nothing"
    assert [[batch.count for batch in e.batches] for e in dropped] == [[2]], "and its blobs can go"
    bench.run(0)
    assert bench.job.status == "completed"


@pytest.mark.parametrize("strategy", ["continue", "skip", None])
def test_after_a_failure_that_is_over_with_that_the_rest_stays_with_its_worker(strategy: str | None) -> None:
    error = None if strategy is None else ErrorSpec(strategy)
    bench = OnBench(routine("source"), routine("a", error=error), edges=[(0, 0, 1, 0)]).submit(1)
    bench.run(0, emits={0: 10})
    work, behind = bench.must_give(1, count=6), bench.must_give(1, count=2)
    assert work.is_tolerant
    assert revoked(bench.report(work, 3, failure=ERROR, is_last=False)) == []
    assert bench.job.routines[1].done == 3
    assert (view_of(bench.job, 1).progress["a"][:2], view_of(bench.job, 1).failed) == ((3, 6), {"a": 1})
    bench.report(work, 1, is_last=False)
    bench.happen(WorkerLost(1, work.dispatch, 5, CRASH))
    assert _actions(bench)[1:] == [(5, "again", 1)], "the failed one counts when it is looked which one ran"
    assert _owed(bench) == [5, 6, 7, 8, 9]
    bench.report(behind, 2)
    assert _owed(bench) == [5, 6, 7, 8, 9], "a crash hands all of it back"
    while bench.job.status == "running":
        bench.run(1, worker=2)
    assert bench.job.routines[1].done == 9
    assert view_of(bench.job, 1).failed == view_of(bench.replayed(), 1).failed == {"a": 1}


@pytest.mark.parametrize(
    "error", [ErrorSpec("stop"), ErrorSpec("retry", 3, 0.0), ErrorSpec("continue", is_critical=True), None]
)
def test_where_others_may_have_to_wait_for_it_all_of_it_is_handed_back(error: ErrorSpec | None) -> None:
    bench = OnBench(routine("a", error=error)).submit(6)
    work = bench.must_give(0)
    assert not work.is_tolerant
    effects = bench.report(work, 1, failure=ERROR, is_last=False)  # a worker that does not know better
    assert 0 in [e.dispatch for e in revoked(effects)]
    assert bench.job.dispatches == {}
    assert _owed(bench) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("strategy", ["continue", "skip", "retry", "stop"])
def test_a_timeout_in_the_middle_of_a_dispatch_takes_that_one_only(strategy: str) -> None:
    """What ran before it was not reported any more when its worker was killed: it is run again, uncharged."""
    bench = OnBench(routine("a", error=ErrorSpec(strategy, 1, 0.0), timeout_s=1.0)).submit(5)
    work = bench.must_give(0)
    bench.happen(WorkerLost(1, work.dispatch, 2, TIMEOUT))
    assert _actions(bench) == [(2, strategy, 1)]
    if strategy == "stop":
        assert (bench.job.status, _owed(bench)) == ("failed", [0, 1, 2, 3, 4])
        return
    assert _owed(bench) == ([0, 1, 2, 3, 4] if strategy == "retry" else [0, 1, 3, 4])
    while bench.job.status == "running":
        bench.run(0, worker=2)
    assert bench.job.activations == (5 if strategy == "retry" else 4)


def test_only_the_running_activation_is_charged_with_a_crash() -> None:
    bench = OnBench(routine("a")).submit(5)
    work = bench.must_give(0)
    bench.report(work, 2, is_last=False)
    bench.happen(WorkerLost(1, work.dispatch, 3, CRASH))
    assert _actions(bench) == [(3, "again", 1)]
    assert _owed(bench) == [2, 3, 4]


@pytest.mark.parametrize(
    "lost",
    [
        WorkerLost(1, 0, -1, CRASH),
        WorkerLost(1, 1, 0, None),
        WorkerLost(2, 1, 0, CRASH),
        WorkerLost(1, 99, 0, CRASH),
    ],
    ids=["it ran nothing", "nobody is to blame", "another worker", "a dispatch of long ago"],
)
def test_nobody_is_charged(lost: WorkerLost) -> None:
    bench = OnBench(routine("a")).submit(2)
    bench.must_give(0)
    bench.happen(lost)
    assert _actions(bench) == []


def test_poison_becomes_a_dead_letter_with_its_input() -> None:
    bench = OnBench(routine("a"), routine("b"), edges=[(0, 0, 1, 0)]).submit(1)
    bench.run(0, emits={0: 3})
    for _ in range(3):
        work = bench.must_give(1, worker=2)
        index = 0 if work.seqs == (1,) else 1
        bench.happen(WorkerLost(2, work.dispatch, index, CRASH))
        if bench.job.dead_letters:
            break
        bench.run(1, worker=2, count=1) if 0 in _owed(bench) else None
    [letter] = bench.job.dead_letters
    assert (letter.routine, letter.seq, letter.failure) == (1, 1, CRASH)
    assert view_of(bench.job, 1).failed == {"b": 1}
    bench.run(1, worker=3)
    assert bench.job.status == "completed"


def test_stop_keeps_what_is_queued_and_lets_what_runs_commit() -> None:
    bench = OnBench(routine("a", workers=2, error=ErrorSpec("stop"))).submit(6)
    first, second = bench.must_give(0, worker=1, count=2), bench.must_give(0, worker=2, count=2)
    effects = bench.report(first, 0, failure=ERROR)
    assert (2, second.dispatch) in [(e.worker, e.dispatch) for e in revoked(effects)]
    assert bench.job.status == "running"
    bench.report(second, 1)
    assert (bench.job.status, bench.job.activations) == ("failed", 1)
    assert bench.job.reason == "a: ValueError: no"
    assert _owed(bench) == [0, 1, 3, 4, 5]


def test_retries_are_counted_on_record() -> None:
    bench = OnBench(routine("a", error=retry(2, 0.0))).submit(1)
    for _ in range(3):
        bench.report(bench.must_give(0), 0, failure=ERROR)
    assert _actions(bench) == [(0, "retry", 1), (0, "retry", 2), (0, "stop", 3)]
    assert bench.job.status == "failed"


def test_a_cursor_is_where_the_next_attempt_begins_and_counts_begin_anew() -> None:
    bench = OnBench(routine("a", error=retry(1, 0.0))).submit(1)
    bench.report(bench.must_give(0), 0, failure=ERROR)
    work = bench.must_give(0)
    assert work.attempt == 2
    bench.report(work, 0, emits={0: 3}, cursor=b"3", is_last=False)
    bench.report(work, 0, failure=ERROR)
    work = bench.must_give(0)
    assert (work.cursor, work.attempt) == (b"3", 2)
    bench.report(work, emits={0: 1})
    assert (bench.job.status, bench.job.results) == ("completed", {(0, 0): 4})


def test_a_cursor_and_a_failure_in_one_report() -> None:
    bench = OnBench(routine("a", error=ErrorSpec("skip"))).submit(3)
    work = bench.must_give(0)
    bench.report(work, 1, emits={0: 5}, cursor=b"2", failure=ERROR)
    assert (bench.job.activations, bench.job.results) == (1, {(0, 0): 5})
    assert _actions(bench) == [(1, "skip", 1)]
    assert _owed(bench) == [2]


def test_ordered_emissions_wait_for_those_before_them() -> None:
    bench = OnBench(
        routine("a", workers=3, is_ordered=True, error=ErrorSpec("skip")), routine("b"), edges=[(0, 0, 1, 0)]
    ).submit(4)
    first, second, third = (bench.must_give(0, worker=w, count=1) for w in (1, 2, 3))
    bench.report(third, emits={0: 3})
    bench.report(second, 0, emits={0: 2}, cursor=b"2", is_last=False)
    assert bench.job.routines[1].queued == [0]
    bench.report(first, 0, failure=ERROR)
    assert bench.job.routines[1].queued == [2], (
        "a skipped one frees the place; a generator's cursor commits are released"
    )
    bench.report(second, emits={0: 1})
    assert bench.job.routines[1].queued == [6]
    assert [run.batch.count for run in bench.job.routines[1].ready] == [2, 1, 3]


@pytest.mark.parametrize("max_crashes", [1, 2])
def test_the_limit_of_crashes_is_a_setting(max_crashes: int) -> None:
    bench = OnBench(routine("a", error=ErrorSpec("continue")), max_crashes=max_crashes).submit(1)
    for n in range(max_crashes):
        work = bench.must_give(0, worker=n)
        bench.happen(WorkerLost(n, work.dispatch, 0, CRASH))
    assert len(bench.job.dead_letters) == 1
    assert bench.job.status == "completed"
