"""Which activations may run, and who gets them."""

from __future__ import annotations

from routilux_mp._core.effects import GoOn
from routilux_mp._core.select import must_lift, next_due_ns, wanted
from routilux_mp._core.stimuli import Capacity, Pause, Resume, Tick, WorkerLost
from routilux_mp._core.topology import ErrorSpec, PolicySpec
from tests.unit.core.core_bench import CRASH, ERROR, SECOND, OnBench, retry, revoked, routine

CHAIN = [(0, 0, 1, 0)]


def test_nothing_starts_before_its_commit_stands() -> None:
    bench = OnBench(routine("a"), auto=False).submit()
    assert wanted(bench.job, bench.now) == []
    assert bench.give(0) is None
    bench.stand()
    assert wanted(bench.job, bench.now) == [0]
    assert bench.give(0) is not None


def test_the_routine_nearest_the_sink_goes_first() -> None:
    bench = OnBench(routine("a"), routine("b"), routine("c"), edges=[(0, 0, 1, 0), (1, 0, 2, 0)]).submit(3)
    bench.run(0, count=1, emits={0: 2})
    bench.run(1, count=1, emits={0: 1})
    assert wanted(bench.job, bench.now) == [2, 1, 0]


def test_a_routine_has_no_more_workers_than_it_may() -> None:
    bench = OnBench(routine("a", workers=2)).submit(9)
    assert bench.give(0, worker=1, count=3)
    assert bench.give(0, worker=2, count=3)
    assert bench.give(0, worker=3, count=3) is None
    assert bench.give(0, worker=2, count=3), "but more goes in front of those it has"


def test_auto_has_no_bound_of_its_own() -> None:
    bench = OnBench(routine("a", workers=0)).submit(9)
    assert all(bench.give(0, worker=n, count=1) for n in range(1, 6))


def test_a_sequential_job_does_one_thing_at_a_time() -> None:
    bench = OnBench(routine("a"), routine("b"), edges=CHAIN, strategy="sequential").submit(2)
    bench.run(0, count=1, emits={0: 1})
    work = bench.must_give(1, worker=2)
    assert wanted(bench.job, bench.now) == []
    assert bench.give(0, worker=1) is None
    bench.report(work)
    assert bench.give(0, worker=1)


def test_a_waiting_retry_does_not_block_what_comes_later() -> None:
    bench = OnBench(routine("a", error=retry())).submit(3)
    work = bench.must_give(0)
    bench.report(work, 1, failure=ERROR)
    assert bench.must_give(0).seqs == (2,)


def test_one_worker_keeps_the_order_of_arrival_when_it_crashes() -> None:
    bench = OnBench(routine("a")).submit(3)
    work = bench.must_give(0)
    bench.happen(WorkerLost(1, work.dispatch, 1, CRASH))
    assert [bench.run(0, worker=2, count=1).seqs for _ in range(3)] == [(0,), (1,), (2,)]


def test_a_special_activation_goes_alone() -> None:
    bench = OnBench(routine("a", error=retry(3, 0.0))).submit(3)
    work = bench.must_give(0)
    bench.report(work, 0, failure=ERROR)
    again = bench.must_give(0)
    assert (again.seqs, [p.count for p in again.parts], again.attempt) == ((0,), [1], 2)


def test_a_retry_runs_when_it_is_due() -> None:
    bench = OnBench(routine("a", error=retry(3, 2.0))).submit(1)
    bench.report(bench.must_give(0), 0, failure=ERROR)
    assert wanted(bench.job, bench.now) == []
    assert next_due_ns(bench.job, bench.now) == bench.now + 2 * SECOND
    bench.now += 2 * SECOND
    assert next_due_ns(bench.job, bench.now) == 0, "it needs a worker now, and no alarm clock"
    assert wanted(bench.job, bench.now) == [0]


def test_a_full_slot_holds_its_feeders() -> None:
    bench = OnBench(routine("a"), routine("b", queue_max=2), edges=CHAIN).submit(5)
    bench.run(0, count=1, emits={0: 2})
    running = bench.must_give(1, worker=2, count=1)
    assert wanted(bench.job, bench.now) == [1]
    assert bench.give(0) is None
    bench.report(running)
    assert wanted(bench.job, bench.now) == [1, 0]
    assert bench.give(0)


def test_a_full_cycle_lifts_the_bound_for_one() -> None:
    bench = OnBench(
        routine("a"),
        routine("b", queue_max=1),
        routine("c", queue_max=1),
        edges=[(0, 0, 1, 0), (1, 0, 2, 0), (2, 0, 1, 0)],
    ).submit(1)
    bench.run(0, emits={0: 3})
    bench.run(1, count=1, emits={0: 2})
    assert must_lift(bench.job, bench.now) is not None
    [lifted] = wanted(bench.job, bench.now)
    assert bench.give(lifted, worker=7, count=1)
    assert wanted(bench.job, bench.now) == [], "one at a time: it may make room"
    assert bench.give(3 - lifted, worker=8, count=1) is None


def test_what_waits_behind_a_held_generator_goes_on_no_more_than_that() -> None:
    bench = OnBench(routine("a", queue_max=1), routine("b", queue_max=1), edges=[(0, 0, 1, 0), (1, 0, 0, 0)]).submit(3)
    first, behind = bench.must_give(0, count=1), bench.must_give(0, count=1)
    effects = bench.report(first, 0, emits={0: 1}, cursor=b"1", is_last=False)
    goes_on = [e for e in effects if isinstance(e, GoOn)]
    assert goes_on or bench.give(1, worker=2) is not None, "only the bound keeps the job from going on"
    assert behind.dispatch in bench.job.dispatches


def test_a_waiting_retry_downstream_keeps_the_bound() -> None:
    bench = OnBench(
        routine("a"), routine("b", queue_max=1, workers=2, is_ordered=True, error=retry(1, 60.0)), edges=CHAIN,
        ordered_window_max=1,
    ).submit(9)  # fmt: skip
    bench.run(0, count=1, emits={0: 3})
    bench.report(bench.must_give(1, worker=2, count=1), 0, failure=ERROR)
    assert must_lift(bench.job, bench.now) is None, "the retry makes room when it is due"
    bench.now += 61 * SECOND
    bench.run(1, worker=2)
    assert bench.give(1, worker=2, count=1), "and then the queue moves on"


def test_a_held_generator_goes_on_when_there_is_room() -> None:
    bench = OnBench(routine("a"), routine("b", queue_max=2), edges=CHAIN).submit(1)
    source = bench.must_give(0)
    effects = bench.report(source, 0, emits={0: 2}, cursor=b"2", is_last=False)
    assert not any(isinstance(e, GoOn) for e in effects)
    consumer = bench.must_give(1, worker=2)
    effects = bench.report(consumer, 1, is_last=False)
    assert [e for e in effects if isinstance(e, GoOn)] == [GoOn(1, source.dispatch)]


def test_a_generator_of_a_sequential_job_makes_way() -> None:
    bench = OnBench(routine("a"), routine("b", queue_max=1), edges=CHAIN, strategy="sequential").submit(1)
    source = bench.must_give(0)
    effects = bench.report(source, 0, emits={0: 2}, cursor=b"2", is_last=False)
    assert [e.dispatch for e in revoked(effects)] == [source.dispatch]
    bench.report(source, 0)
    assert wanted(bench.job, bench.now) == [1]


def test_ordered_runs_no_further_ahead_than_its_window() -> None:
    bench = OnBench(routine("a", workers=2, is_ordered=True), ordered_window_max=3).submit(9)
    assert sum(p.count for p in bench.must_give(0, worker=1).parts) == 3
    assert bench.give(0, worker=2) is None


def test_nothing_is_given_out_while_pausing_or_before_the_resumption_stands() -> None:
    bench = OnBench(routine("a")).submit(4)
    work = bench.must_give(0, count=1)
    effects = bench.happen(Pause("why"))
    assert [e.dispatch for e in revoked(effects)] == [work.dispatch]
    assert wanted(bench.job, bench.now) == []
    bench.report(work, 1)
    assert bench.job.status == "paused"
    bench.auto = False
    bench.happen(Resume())
    assert wanted(bench.job, bench.now) == []
    bench.stand()
    assert wanted(bench.job, bench.now) == [0]


def test_the_policy_of_a_group_is_one_activation() -> None:
    bench = OnBench(routine("a"), routine("b", policy=PolicySpec("batch_size", 2)), edges=CHAIN).submit(1)
    bench.run(0, emits={0: 4})
    bench.run(1)
    assert bench.job.activations == 2


def test_capacity_of_a_held_worker_is_refused() -> None:
    bench = OnBench(routine("a"), routine("b", queue_max=1, error=ErrorSpec("skip")), edges=CHAIN).submit(3)
    source = bench.must_give(0, count=1)
    bench.report(source, 0, emits={0: 2}, cursor=b"2", is_last=False)
    assert bench.happen(Capacity(0, 1, 99, 5)) == []


def test_a_tick_for_nothing_changes_nothing() -> None:
    bench = OnBench(routine("a")).submit(1)
    before = list(bench.log)
    bench.happen(Tick())
    assert bench.log == before


def test_what_waits_for_the_end_of_everything_upstream_holds_nobody_up() -> None:
    """Its slot cannot drain before that: a bound in front of it would only make everything slow."""
    last = routine("b", policy=PolicySpec("upstream_done"), queue_max=2)
    bench = OnBench(routine("a", workers=2), last, edges=CHAIN).submit(20)
    bench.run(0, count=5, emits={0: 5})
    first = bench.give(0, worker=1, count=5)
    assert first is not None
    assert wanted(bench.job, bench.now) == [0]
    assert bench.give(0, worker=2, count=5), "although another one runs and the slot holds more than its bound"


def test_every_report_of_a_generator_that_was_held_is_answered() -> None:
    bench = OnBench(routine("a"), routine("b", queue_max=2), edges=CHAIN).submit(1)
    work = bench.must_give(0)
    effects = []
    for cursor in range(3):
        effects += bench.report(work, 0, emits={0: 2}, cursor=b"%d" % cursor, is_last=False)
    for _ in range(2):
        effects += bench.report(bench.must_give(1, worker=2, count=3))
    assert sum(isinstance(e, GoOn) for e in effects) == 3
    assert not bench.job.dispatches[work.dispatch].is_held
