"""Requests: obeyed once, answered in the same commit, and what they may do to dead letters and waiting retries."""

from __future__ import annotations

import pytest

from routilux_mp._core import apply
from routilux_mp._core.batch import Batch
from routilux_mp._core.job import Job
from routilux_mp._core.step import step
from routilux_mp._core.stimuli import Ask, Cancel, Pause, Post, Resume, Retry, Skip, Stimulus, WorkerLost, Yield
from routilux_mp._core.topology import ErrorSpec
from routilux_mp._storage.codec import decode_snapshot, encode_snapshot
from tests.unit.core.core_bench import CRASH, ERROR, SECOND, OnBench, retry, routine


def ask(bench: OnBench, wish: Stimulus | None, request_id: str = "01", refusal: str = "") -> list[str]:
    """Let it happen; kinds of the records that came of it."""
    before = len(bench.log)
    bench.happen(Ask(request_id, wish, refusal))  # type: ignore[arg-type]
    return bench.kinds()[before:]


def dead(count: int = 3, **spec: object) -> OnBench:
    """Activation 1 is a dead letter, the others are done or queued."""
    bench = OnBench(routine("a", error=ErrorSpec("continue"), **spec), max_crashes=1).submit(count)
    work = bench.must_give(0)
    bench.report(work, 1, is_last=False)
    bench.happen(WorkerLost(1, work.dispatch, 1, CRASH))
    assert [letter.seq for letter in bench.job.dead_letters] == [1]
    return bench


def waiting() -> OnBench:
    """Activation 0 waits an hour for its retry."""
    bench = OnBench(routine("a", error=retry(3, 3600.0))).submit(2)
    bench.report(bench.must_give(0, count=1), 0, failure=ERROR)
    assert bench.give(0, count=1) is not None, "the other one does not wait"
    return bench


def test_the_answer_is_in_the_commit_of_what_it_caused() -> None:
    bench = OnBench(routine("a")).submit(2)
    records, _ = step(bench.job, Ask("01", Pause("lunch")), bench.now, 7)
    assert [type(record).__name__ for record in records] == ["Answered", "PauseAsked", "Paused"]
    assert bench.job.answered == {"01": ""}


def test_the_same_request_has_an_effect_once_here_and_after_a_replay() -> None:
    bench = OnBench(routine("a")).submit(2)
    assert ask(bench, Pause("lunch")) == ["Answered", "PauseAsked", "Paused"]
    assert ask(bench, Pause("lunch")) == []
    successor = bench.replayed()
    assert step(successor, Ask("01", Pause("lunch")), bench.now)[0] == []
    assert len(successor.pause_points) == 1


def test_a_snapshot_remembers_what_was_answered() -> None:
    bench = OnBench(routine("a")).submit(2)
    ask(bench, Pause("", b"", True), "01")
    ask(bench, None, "02", "not for me")
    fresh = Job("j")
    decode_snapshot(encode_snapshot(bench.job), fresh)
    assert fresh.answered == {"01": "", "02": "not for me"}
    assert fresh.is_offered
    assert fresh.has_answered("02")


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (Resume(), "not paused"),
        (Retry(0, 0), "no dead letter"),
        (Skip(), "no dead letters"),
        (None, "because"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing_else(wish: Stimulus | None, why: str) -> None:
    bench = OnBench(routine("a")).submit(2)
    work = bench.must_give(0)
    assert ask(bench, wish, refusal="" if wish is not None else "because") == ["Answered"]
    assert why in bench.job.answered["01"]
    bench.report(work)
    assert bench.job.status == "completed"


def test_an_ended_job_takes_no_request() -> None:
    """That it has ended is the answer; whoever asked reads it from the SEAL."""
    bench = OnBench(routine("a")).submit(1)
    bench.run(0)
    for number, wish in enumerate((Pause(), Resume(), Cancel(), Retry(), Skip(), Post(0, 0, Batch(1, b"x")), Yield())):
        assert ask(bench, wish, f"0{number}") == []
    assert bench.job.answered == {}


def test_an_ending_job_is_not_paused_and_gets_no_more_data() -> None:
    bench = OnBench(routine("a")).submit(3)
    bench.must_give(0, count=1)
    assert ask(bench, Cancel("enough"), "01") == ["Answered", "StopAsked"]
    assert ask(bench, Pause(), "02") == ["Answered"]
    assert ask(bench, Post(0, 0, Batch(1, b"x")), "03") == ["Answered"]
    assert all("ending" in bench.job.answered[i] for i in ("02", "03"))


def test_a_yield_changes_nothing_in_the_job() -> None:
    bench = OnBench(routine("a")).submit(3)
    work = bench.must_give(0)
    assert ask(bench, Yield()) == ["Answered"]
    bench.report(work)
    assert bench.job.status == "completed"


def test_an_offer_ends_with_the_pause() -> None:
    bench = OnBench(routine("a")).submit(3)
    bench.happen(Pause("", b"", is_offer=True))
    assert bench.job.is_offered
    bench.happen(Resume())
    assert not bench.job.is_offered
    bench.happen(Pause())
    assert not bench.job.is_offered


def test_what_is_remembered_is_bounded_and_what_is_older_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "ANSWERED_MAX", 10)
    bench = OnBench(routine("a")).submit(3)
    bench.must_give(0)
    for number in range(25):
        ask(bench, None, f"{number:04}", "no")
        assert len(bench.job.answered) <= 10
    assert bench.job.answered_low == "0014"
    assert ask(bench, Cancel(), "0014") == []
    assert ask(bench, Cancel(), "0003") == []
    assert ask(bench, Cancel(), "0013z") == [], "below the mark, though never seen"
    assert bench.job.status == "running"
    assert (bench.replayed().answered, bench.replayed().answered_low) == (bench.job.answered, bench.job.answered_low)


def test_a_dead_letter_runs_again_when_it_is_asked_for() -> None:
    bench = dead()
    assert ask(bench, Retry(0, 1)) == ["Answered", "Revived"]
    assert bench.job.dead_letters == []
    work = bench.must_give(0, worker=2, count=1)
    assert (work.seqs, work.attempt) == ((1,), 1)
    bench.report(work)
    bench.run(0, worker=2)
    assert bench.job.status == "completed"
    assert bench.job.activations == 3
    assert bench.replayed().activations == 3


def test_a_revived_activation_goes_on_from_its_cursor() -> None:
    bench = OnBench(routine("a", error=ErrorSpec("continue")), max_crashes=1).submit(2)
    work = bench.must_give(0)
    bench.report(work, 0, cursor=b"half", is_last=False)
    bench.happen(WorkerLost(1, work.dispatch, 0, CRASH))
    ask(bench, Retry())
    again = bench.must_give(0, worker=2, count=1)
    assert (again.seqs, again.cursor) == ((0,), b"half")


def test_a_dead_letter_can_be_given_up() -> None:
    bench = dead()
    assert ask(bench, Skip(0, 1)) == ["Answered", "Skipped"]
    assert bench.job.dead_letters == []
    bench.run(0, worker=2)
    assert bench.job.status == "completed"
    assert bench.job.activations == 2


def test_only_the_one_that_is_named_is_revived() -> None:
    bench = OnBench(routine("a", error=ErrorSpec("continue")), max_crashes=1).submit(3)
    for seq in (0, 1):
        work = bench.must_give(0, worker=seq + 1)
        bench.happen(WorkerLost(seq + 1, work.dispatch, 0, CRASH))
    assert [letter.seq for letter in bench.job.dead_letters] == [0, 1]
    ask(bench, Retry(0, 1), "01")
    assert [letter.seq for letter in bench.job.dead_letters] == [0]
    ask(bench, Retry(0), "02")
    assert bench.job.dead_letters == []
    assert [bench.must_give(0, worker=9, count=1).seqs for _ in range(1)] == [(0,)]


def test_a_waiting_retry_is_run_at_once() -> None:
    bench = waiting()
    bench.hand_back()
    assert ask(bench, Retry()) == ["Answered", "Revived"]
    work = bench.must_give(0, count=1)
    assert (work.seqs, work.attempt) == ((0,), 2)


def test_a_waiting_retry_can_be_given_up() -> None:
    bench = waiting()
    bench.hand_back()
    assert ask(bench, Skip(0, 0)) == ["Answered", "Skipped"]
    assert bench.job.framework["a"]["status"] == "skipped"
    bench.run(0)
    assert bench.job.status == "completed"


def test_giving_up_the_last_one_ends_the_job() -> None:
    bench = OnBench(routine("a", error=retry(3, 3600.0))).submit(1)
    bench.report(bench.must_give(0), 0, failure=ERROR)
    assert ask(bench, Skip()) == ["Answered", "Skipped", "Ended"]
    assert bench.job.status == "completed"


def test_what_runs_is_neither_retried_nor_skipped() -> None:
    bench = OnBench(routine("a", error=retry(3, 1.0))).submit(1)
    bench.report(bench.must_give(0), 0, failure=ERROR)
    bench.now += 2 * SECOND
    bench.must_give(0)
    for number, wish in enumerate((Retry(0, 0), Skip(0, 0))):
        assert ask(bench, wish, f"0{number}") == ["Answered"]
        assert bench.job.answered[f"0{number}"]


def test_in_an_ordered_routine_a_revived_one_comes_late_and_holds_up_nobody() -> None:
    edges = [(0, 0, 1, 0)]
    bench = OnBench(
        routine("a", error=ErrorSpec("continue"), workers=2, is_ordered=True), routine("b"), edges=edges, max_crashes=1
    ).submit(3)
    work = bench.must_give(0)
    bench.happen(WorkerLost(1, work.dispatch, 0, CRASH))
    bench.run(0, worker=2, emits={0: 2})
    ask(bench, Retry())
    bench.run(0, worker=2, count=1, emits={0: 1})
    bench.run(1, worker=3)
    bench.run(1, worker=3) if bench.job.status == "running" else None
    assert bench.job.status == "completed"
    assert bench.job.routines[1].done == 3
