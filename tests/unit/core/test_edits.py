"""What a person changes in the list of what is still to be done; and failed jobs that may go on."""

from __future__ import annotations

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.plain import to_plain
from routilux_mp._core.retry import has_retries_left
from routilux_mp._core.stimuli import Capacity, Edit, Pause, Post, Resume, Submit, Tick
from routilux_mp._core.topology import ErrorSpec, PolicySpec
from tests.unit.core.core_bench import CRASH, ERROR, FATAL, SECOND, OnBench, retry, routine


def contents(bench: OnBench) -> list[bytes]:
    """The input of every activation that is queued, in order."""
    found = []
    for item in bench.job.routines[0].ready:
        assert item.batch.data is not None
        found += [item.batch.data[item.start + i : item.start + i + 1] for i in range(item.count)]
    return found


def paused(count: int = 4) -> OnBench:
    bench = OnBench(routine("a", error=retry(3, 3600.0)))
    bench.submit(0)
    bench.happen(Post(0, 0, Batch(count, bytes(range(count)))))
    bench.happen(Pause("p"))
    assert contents(bench) == [bytes((n,)) for n in range(count)]
    return bench


def test_another_input_in_the_same_place() -> None:
    bench = paused()
    bench.happen(Edit(inputs=((0, 1, Batch(1, b"x")), (0, 3, Batch(1, b"y")))))
    assert contents(bench) == [b"\0", b"x", b"\2", b"y"]
    assert bench.job.routines[0].ready_count == 4
    assert bench.job.routines[0].queued == [4]
    assert bench.kinds()[-2:] == ["Edited", "Edited"]
    assert to_plain(bench.replayed()) == to_plain(bench.job)


def test_what_has_run_or_runs_stays_as_it_was() -> None:
    bench = OnBench(routine("a")).submit(3)
    work = bench.must_give(0, count=2)
    bench.report(work, 1, is_last=False)
    before = len(bench.log)
    bench.happen(Edit(inputs=tuple((0, seq, Batch(1, b"x")) for seq in (0, 1, 9))))
    assert len(bench.log) == before
    bench.happen(Edit(inputs=((0, 2, Batch(1, b"x")),)))
    bench.report(work, 1)
    assert [part.batch.data for part in bench.must_give(0).parts] == [b"x"]


def test_an_input_of_what_waits_for_its_retry() -> None:
    bench = OnBench(routine("a", error=retry(3, 3600.0))).submit(1)
    bench.report(bench.must_give(0), 0, failure=ERROR)
    bench.happen(Edit(inputs=((0, 0, Batch(1, b"x")),)))
    assert bench.give(0) is None, "it still waits"
    bench.happen(Edit(due_now=((0, 0),)))
    work = bench.must_give(0)
    assert (work.attempt, work.parts[0].batch.data) == (2, b"x")
    assert to_plain(bench.replayed()) == to_plain(bench.job)


def test_priorities_move_inputs_and_keep_numbers() -> None:
    bench = paused(5)
    bench.happen(Edit(priorities=((0, 3, 2), (0, 4, 5), (0, 0, -1))))
    assert contents(bench) == [b"\4", b"\3", b"\1", b"\2", b"\0"]
    assert [item.seq for item in bench.job.routines[0].ready] == list(range(5))
    assert to_plain(bench.replayed()) == to_plain(bench.job)
    before = len(bench.log)
    bench.happen(Edit(priorities=((0, 0, 7),)))
    assert len(bench.log) == before, "it is the first already"


def test_one_more_with_a_priority_goes_first() -> None:
    bench = paused(2)
    bench.happen(Edit(posts=((0, 0, Batch(1, b"x"), 0), (0, 0, Batch(1, b"y"), 1))))
    assert contents(bench) == [b"y", b"\0", b"\1", b"x"]
    assert to_plain(bench.replayed()) == to_plain(bench.job)


def test_an_ended_job_is_not_changed() -> None:
    bench = OnBench(routine("a")).submit(1)
    bench.run(0)
    before = len(bench.log)
    bench.happen(Edit(posts=((0, 0, Batch(1, b"x"), 0),)))
    assert (bench.job.status, len(bench.log)) == ("completed", before)


# -- failed jobs ------------------------------------------------------------------------------------


def failed(error: ErrorSpec | None, failure: object = ERROR) -> OnBench:
    bench = OnBench(routine("a", error=error), max_crashes=1).submit(2)
    while bench.job.status == "running":
        bench.now += 10 * SECOND
        bench.report(bench.must_give(0, count=1), 0, failure=failure)  # type: ignore[arg-type]
    assert bench.job.status == "failed"
    return bench


@pytest.mark.parametrize(
    ("error", "failure", "now", "expected"),
    [
        (retry(1), ERROR, retry(1), False),
        (retry(1), ERROR, retry(2), True),
        (ErrorSpec("stop"), ERROR, retry(1), True),
        (ErrorSpec("stop"), ERROR, ErrorSpec("stop"), False),
        (None, ERROR, None, False),
        (retry(3), FATAL, retry(9), False),
        (retry(0), CRASH, retry(9), False),
    ],
)
def test_whether_a_failed_job_has_retries_left(
    error: ErrorSpec | None, failure: object, now: ErrorSpec | None, expected: bool
) -> None:
    assert has_retries_left(failed(error, failure).job, {"a": now}) is expected


def test_a_failed_job_goes_on_with_another_attempt() -> None:
    bench = failed(retry(1))
    before = len(bench.log)
    bench.happen(Resume())
    assert (bench.job.status, len(bench.log)) == ("failed", before), "its own rules allow no more"
    bench.job.topology = OnBench(routine("a", error=retry(2))).topology
    bench.happen(Resume())
    assert bench.job.status == "running"
    assert bench.must_give(0, count=1).attempt == 3
    assert to_plain(bench.replayed())["status"] == "running"


def test_a_job_that_ends_after_its_time_has_failed() -> None:
    bench = OnBench(routine("a"))
    batch = Batch(1, b"x")
    bench.happen(Submit("f", bench.topology.to_plain(), 0, 0, batch, limit_ns=SECOND))
    work = bench.must_give(0)
    bench.now += 2 * SECOND
    bench.report(work)
    assert (bench.job.status, bench.job.reason) == ("failed", "execution_timeout is over")
    bench.happen(Tick())
    assert bench.job.status == "failed"


def test_a_policy_asked_in_one_worker_only() -> None:
    bench = OnBench(routine("a", workers=2, policy=PolicySpec("custom"))).submit(1)
    assert not [e for e in bench.happen(Capacity(0, 2, 7, 10, False)) if type(e).__name__ == "Work"]
    work = bench.must_give(0, worker=1)
    assert work.question == (0, False)
