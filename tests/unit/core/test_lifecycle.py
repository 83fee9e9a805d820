"""From pending to an end: pause, resume, cancel, fail, and what cannot follow what."""

from __future__ import annotations

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Ended, Kill
from routilux_mp._core.job import Job
from routilux_mp._core.lifecycle import JOB, JOB_MOVES
from routilux_mp._core.records import DURABLE
from routilux_mp._core.step import replay, step
from routilux_mp._core.stimuli import Annotate, Cancel, Close, Fail, Pause, Post, Resume, Stimulus, Tick
from routilux_mp._core.topology import ErrorSpec
from tests.unit.core.core_bench import ERROR, SECOND, OnBench, add, retry, routine


def test_a_job_ends_by_itself() -> None:
    bench = OnBench(routine("a")).submit()
    work = bench.must_give(0)
    effects = bench.report(work, emits={0: 2})
    assert any(isinstance(e, Ended) for e in effects)
    assert bench.kinds() == ["Submitted", "Completed", "Ended"]
    assert (bench.job.status, bench.job.record_count) == ("completed", 4)


def test_a_pause_waits_for_what_runs_and_keeps_the_rest() -> None:
    bench = OnBench(routine("a")).submit(4)
    work = bench.must_give(0, count=2)
    bench.happen(Pause("lunch", b"here"))
    assert bench.job.status == "running"
    bench.report(work, 1)
    assert bench.job.status == "paused"
    [point] = bench.job.pause_points
    assert (point["reason"], point["pending_count"], point["checkpoint"]) == ("lunch", 3, b"here")
    bench.happen(Resume())
    bench.run(0)
    bench.now += SECOND
    bench.happen(Tick())
    assert bench.job.status == "completed"


def test_a_resumed_job_with_nothing_left_is_running_for_a_moment() -> None:
    bench = OnBench(routine("a")).submit()
    bench.happen(Pause())
    bench.happen(Resume())
    bench.run(0)
    assert bench.job.status == "running"
    bench.now += SECOND
    bench.happen(Tick())
    assert bench.job.status == "completed"


@pytest.mark.parametrize(
    ("wishes", "status"),
    [
        ([Cancel("x")], "cancelled"),
        ([Fail("x")], "failed"),
        ([Cancel("x"), Pause()], "cancelled"),
        ([Cancel("x"), Resume()], "cancelled"),
        ([Cancel("x"), Fail("x")], "cancelled"),
        ([Fail("x"), Cancel("x")], "failed"),
        ([Pause(), Cancel("x")], "cancelled"),
        ([Pause(), Resume(), Fail("x")], "failed"),
        ([Pause(), Pause()], "paused"),
    ],
)
def test_the_first_wish_to_end_a_job_holds(wishes: list[Stimulus], status: str) -> None:
    bench = OnBench(routine("a")).submit(4)
    work = bench.must_give(0, count=2)
    for wish in wishes:
        bench.happen(wish)
    assert bench.job.status == "running"
    bench.report(work, 1)
    assert bench.job.status == status


def test_a_failure_while_cancelling_does_not_change_the_end() -> None:
    bench = OnBench(routine("a", error=ErrorSpec("stop"))).submit(2)
    work = bench.must_give(0)
    bench.happen(Cancel("enough"))
    bench.report(work, 0, failure=ERROR)
    assert (bench.job.status, bench.job.reason) == ("cancelled", "enough")
    assert bench.job.framework["_cancellation"] == {"reason": "enough"}


def test_a_conflict_while_pausing_does_not_hold_the_pause_up() -> None:
    bench = OnBench(routine("a", workers=2)).submit(4)
    one, two = bench.must_give(0, worker=1, count=1), bench.must_give(0, worker=2, count=1)
    bench.happen(Pause())
    bench.report(two, ops=[add("k", 1)])
    bench.report(one, ops=[add("k", 1)], reads=[("", "k")])
    assert bench.job.status == "paused"


def test_a_handler_that_outlives_the_grace_period_is_killed() -> None:
    bench = OnBench(routine("a"), grace_s=5.0).submit()
    bench.must_give(0, worker=3)
    bench.happen(Cancel())
    bench.now += 4 * SECOND
    assert Kill(3) not in bench.happen(Tick())
    bench.now += 2 * SECOND
    assert Kill(3) in bench.happen(Tick())


def test_an_ended_job_does_not_change() -> None:
    bench = OnBench(routine("a")).submit()
    bench.run(0)
    before = list(bench.log)
    for wish in (Pause(), Resume(), Cancel(), Fail("x"), Tick(), Close()):
        bench.happen(wish)
    assert bench.log == before


def test_an_open_job_waits_for_posts_until_it_is_closed() -> None:
    bench = OnBench(routine("a")).submit(0)
    bench.happen(Post(0, 0, Batch(2, b"..")))
    bench.run(0)
    assert bench.job.status == "running"
    bench.happen(Close())
    assert (bench.job.status, bench.job.activations) == ("completed", 2)


@pytest.mark.parametrize("wish", [Pause("why"), Cancel("why")], ids=["pause", "cancel"])
def test_a_successor_obeys_what_was_asked_of_the_owner_before_it(wish: Stimulus) -> None:
    """The wish stands, the owner died before what ran had ended: whoever comes next owes the end."""
    bench = OnBench(routine("a")).submit(2)
    bench.must_give(0)
    bench.happen(wish)
    job = bench.replayed()
    step(job, Tick(), bench.now)
    assert job.status == ("paused" if isinstance(wish, Pause) else "cancelled")


def test_resume_takes_a_pause_back_and_ends_what_is_ending() -> None:
    bench = OnBench(routine("a")).submit(2)
    bench.must_give(0)
    bench.happen(Pause())
    job = bench.replayed()
    step(job, Resume(), bench.now)
    assert (job.status, job.closing) == ("running", None)
    bench.happen(Resume())
    bench.happen(Cancel())
    job = bench.replayed()
    step(job, Resume(), bench.now)
    assert job.status == "cancelled"


def test_the_table_says_what_the_rules_do() -> None:
    """Every record of a varied job is one that the table allows, and moves the status as the table says."""
    bench = OnBench(routine("a", error=retry(1, 0.0)), routine("b"), edges=[(0, 0, 1, 0)]).submit(3)
    bench.report(bench.must_give(0, count=1), 0, failure=ERROR)
    bench.run(0, emits={0: 2})
    bench.happen(Pause())
    bench.happen(Pause())
    bench.happen(Resume())
    bench.run(1, worker=2)
    bench.happen(Cancel())
    job = Job("j")
    for record in bench.log:
        before = job.status
        assert type(record) in JOB[before]
        replay(job, [record])
        moved = JOB_MOVES.get((before, type(record).__name__))
        assert job.status in (moved or (before,))


def test_the_table_knows_every_record() -> None:
    assert frozenset().union(*JOB.values()) == DURABLE
    assert set(JOB) == {"pending", "running", "paused", "completed", "failed", "cancelled"}


def test_nothing_is_put_on_record_that_would_never_run() -> None:
    bench = OnBench(routine("a")).submit()
    bench.run(0)
    before = list(bench.log)
    bench.happen(Post(0, 0, Batch(1, b".")))
    bench.happen(Annotate((add("k", 1),)))
    assert bench.log == before


def test_nothing_is_posted_to_a_job_that_is_ending() -> None:
    """It would be on record, and never run."""
    bench = OnBench(routine("a")).submit(2)
    work = bench.must_give(0, count=1)
    bench.happen(Cancel("enough"))
    before = bench.kinds()
    bench.happen(Post(0, 0, Batch(1, b".")))
    assert bench.kinds() == before
    bench.report(work)
    assert (bench.job.status, bench.job.activation_count()) == ("cancelled", 1)
