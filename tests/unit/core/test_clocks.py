"""Times on another host: its clock is another one, and nobody ran the job meanwhile."""

from __future__ import annotations

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.clocks import take_over
from routilux_mp._core.job import Job
from routilux_mp._core.plain import fill, to_plain
from routilux_mp._core.records import Durable
from routilux_mp._core.select import next_due_ns
from routilux_mp._core.step import replay, step
from routilux_mp._core.stimuli import Failure, Pause, Resume, Submit, Tick
from routilux_mp._core.topology import PolicySpec
from tests.unit.core.core_bench import ERROR, SECOND, OnBench, retry, routine

HOUR = 3600 * SECOND


def _elsewhere(bench: OnBench, now: int, *, by_snapshot: bool) -> Job:
    """The job on a host whose clock says ``now``."""
    job = bench.replayed()
    if by_snapshot:
        fill(copy := Job("j"), to_plain(job))
        job = copy
    take_over(job, now)
    return job


@pytest.mark.parametrize("by_snapshot", [False, True])
@pytest.mark.parametrize(("ahead", "left"), [(-HOUR, 8 * SECOND), (0, 8 * SECOND), (3 * SECOND, 5 * SECOND)])
def test_a_retry_waits_no_longer_than_it_was_to_wait(ahead: int, left: int, by_snapshot: bool) -> None:
    bench = OnBench(routine("a", error=retry(3, 8.0)))
    bench.now = 2 * HOUR
    bench.submit()
    bench.report(bench.must_give(0), 0, failure=ERROR)
    job = _elsewhere(bench, bench.now + ahead, by_snapshot=by_snapshot)
    assert next_due_ns(job, bench.now + ahead) == bench.now + ahead + left


def test_nor_does_a_policy_that_is_to_be_asked_again() -> None:
    policy = routine("b", policy=PolicySpec("custom"), error=retry(3, 8.0))
    bench = OnBench(routine("a"), policy, edges=[(0, 0, 1, 0)])
    bench.now = 2 * HOUR
    bench.submit().run(0, emits={0: 1})
    bench.report(bench.must_give(1), 0, failure=Failure("error", "ValueError", "no"))
    job = _elsewhere(bench, HOUR, by_snapshot=False)
    assert next_due_ns(job, HOUR) == HOUR + 8 * SECOND


def test_an_interval_that_begins_in_the_future_begins_now() -> None:
    timed = routine("b", policy=PolicySpec("time_interval", interval_s=5.0))
    bench = OnBench(routine("a"), timed, edges=[(0, 0, 1, 0)])
    bench.now = 2 * HOUR
    bench.submit().run(0, emits={0: 1})
    job = _elsewhere(bench, HOUR, by_snapshot=True)
    assert job.routines[1].last_taken_ns == HOUR


def _limited(limit_ns: int) -> OnBench:
    bench = OnBench(routine("a"))
    bench.now = HOUR
    bench.happen(Submit("f", bench.topology.to_plain(), 0, 0, Batch(3, b"..."), limit_ns=limit_ns))
    return bench


def test_a_limit_of_time_holds_for_the_next_owner_too() -> None:
    bench = _limited(10 * SECOND)
    bench.now += 4 * SECOND
    bench.run(0, count=1)
    job = _elsewhere(bench, 5 * HOUR, by_snapshot=False)
    log: list[Durable] = list(bench.log)
    records, _ = step(job, Tick(), 5 * HOUR)
    log += records  # type: ignore[arg-type]
    assert (job.status, next_due_ns(job, 5 * HOUR)) == ("running", 5 * HOUR + 6 * SECOND)
    again = Job("j")
    replay(again, log)  # type: ignore[arg-type]
    assert again.fails_at_ns == job.fails_at_ns
    step(job, Tick(), job.fails_at_ns)
    assert (job.status, job.reason) == ("failed", "execution_timeout is over")


def test_a_limit_of_time_does_not_run_while_the_job_is_paused() -> None:
    bench = _limited(10 * SECOND)
    bench.now += 4 * SECOND
    bench.happen(Pause())
    bench.now += HOUR
    bench.happen(Tick())
    assert bench.job.status == "paused"
    bench.happen(Resume())
    assert next_due_ns(bench.job, bench.now) == bench.now + 6 * SECOND
    assert bench.replayed().fails_at_ns == bench.job.fails_at_ns
    bench.now += 6 * SECOND
    bench.happen(Tick())
    assert bench.job.status == "failed"
