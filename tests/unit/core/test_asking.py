"""Custom policies in the core: who is asked what, and what an answer, a failure or a crash leads to."""

from __future__ import annotations

import pytest

from routilux_mp._core.effects import Work
from routilux_mp._core.job import Job
from routilux_mp._core.plain import fill, to_plain
from routilux_mp._core.records import Declined, Failed, Taken
from routilux_mp._core.select import next_due_ns, wanted
from routilux_mp._core.stimuli import Adopt, Answer, Completion, Failure, Pause, Resume, StateOp, WorkerLost
from routilux_mp._core.topology import ErrorSpec, PolicySpec
from routilux_mp._core.view import view_of
from tests.unit.core.core_bench import CRASH, ERROR, SECOND, TIMEOUT, OnBench, retry, routine

CUSTOM = PolicySpec("custom")


def fed(**fields: object) -> OnBench:
    """A source with two events that feed the two slots of a routine with a policy of the user's own."""
    return OnBench(
        routine("a", events=2),
        routine("b", slots=2, policy=CUSTOM, style="logic", **fields),
        edges=[(0, 0, 1, 0), (0, 1, 1, 1)],
    ).submit(3)


def answer(bench: OnBench, work: Work, *takes: tuple[int, int], failure: Failure | None = None) -> None:
    done = 0 if failure else 1
    answers = tuple(Answer(found, b"why") for found in takes)
    bench.happen(Completion(work.dispatch, done, failure=failure, answers=answers))


def asked(bench: OnBench) -> Work:
    work = bench.must_give(1)
    assert work.question is not None
    return work


def test_it_is_asked_about_what_has_arrived_and_once_more_at_the_end() -> None:
    bench = fed()
    bench.run(0, count=1, emits={0: 2, 1: 1})
    work = asked(bench)
    assert (work.question, work.seqs) == ((0, False), (0, 2))
    assert [(part.slot, part.count) for part in work.parts] == [(0, 2), (1, 1)]
    assert bench.give(1) is None, "one question at a time"
    bench.run(0, count=1, emits={0: 1})
    answer(bench, work)
    work = asked(bench)
    assert (work.question, [part.count for part in work.parts]) == ((3, False), [2, 1, 1])
    answer(bench, work, (2, 1))
    assert [r for r in bench.log if isinstance(r, Taken)] == [Taken(SECOND, 1, (2, 1), b"why")]
    group = bench.must_give(1)
    assert (group.question, group.is_group, group.message) == (None, True, b"why")
    bench.report(group)
    bench.run(0)
    assert bench.job.status == "running", "one is left, and the policy is asked for the last time"
    work = asked(bench)
    assert work.question == (4, True)
    answer(bench, work)
    assert bench.job.status == "completed"
    assert view_of(bench.job, 1).unconsumed == {"b": {"s0": 1}}
    assert bench.job.routines[1].queued == bench.replayed().routines[1].queued == [1, 0]


def test_only_what_is_durable_is_asked_about() -> None:
    bench = fed()
    bench.run(0, count=1, emits={0: 1})
    bench.auto = False
    bench.run(0, count=1, emits={0: 1, 1: 1})
    work = asked(bench)
    assert [(part.slot, part.count) for part in work.parts] == [(0, 1)]
    answer(bench, work)
    assert bench.give(1) is None
    bench.stand()
    assert asked(bench).question == (1, False)


def test_a_last_yes_without_taking_is_not_asked_again() -> None:
    bench = fed()
    bench.run(0, emits={0: 1})
    answer(bench, asked(bench), (0, 0))
    bench.run(1)
    answer(bench, asked(bench), (0, 0))
    bench.run(1)
    assert bench.job.status == "completed"


def test_a_failure_follows_the_error_strategy_and_its_input_stays() -> None:
    bench = fed(error=retry(2, 1.0))
    bench.run(0, emits={0: 2})
    answer(bench, asked(bench), failure=ERROR)
    assert bench.give(1) is None
    assert next_due_ns(bench.job, bench.now) == bench.now + SECOND
    bench.now += SECOND
    assert wanted(bench.job, bench.now) == [1]
    answer(bench, asked(bench), failure=ERROR)
    failures = [(r.attempt, r.action, r.seq) for r in bench.log if isinstance(r, Failed)]
    assert failures == [(1, "retry", -2), (2, "retry", -2)]
    assert bench.replayed().routines[1].ask_attempt == 3
    bench.now += 2 * SECOND
    answer(bench, asked(bench))
    assert any(isinstance(r, Declined) for r in bench.log), "its attempts begin anew"
    assert bench.replayed().routines[1].ask_attempt == bench.job.routines[1].ask_attempt == 1


@pytest.mark.parametrize(
    ("strategy", "status"), [("stop", "failed"), ("continue", "completed"), ("skip", "completed"), (None, "completed")]
)
def test_what_becomes_of_the_job(strategy: str | None, status: str) -> None:
    bench = fed(error=None if strategy is None else ErrorSpec(strategy))
    bench.run(0, emits={0: 1})
    answer(bench, asked(bench), failure=ERROR)
    if status == "completed":
        answer(bench, asked(bench), failure=ERROR)  # the last question fails too
    assert bench.job.status == status
    assert bench.job.routines[1].queued == [1, 0]
    assert bench.replayed().record_count == bench.job.record_count
    assert bench.replayed().framework == bench.job.framework


def test_a_crash_is_tried_again_a_timeout_is_a_failure() -> None:
    bench = fed()
    bench.run(0, emits={0: 1})
    for _ in range(3):
        work = asked(bench)
        bench.happen(WorkerLost(1, work.dispatch, 0, CRASH))
    assert [r.action for r in bench.log if isinstance(r, Failed)] == ["again", "again", "dead"]
    assert bench.job.dead_letters == []
    work = asked(bench)
    assert work.question == (1, True)
    bench.happen(WorkerLost(1, work.dispatch, 0, TIMEOUT))
    assert bench.job.status == "completed"


def test_an_unanswered_question_is_asked_again() -> None:
    bench = fed()
    bench.run(0, emits={0: 1})
    work = asked(bench)
    bench.happen(Completion(work.dispatch, 0))  # revoked before it began
    assert asked(bench).question == (0, False)
    bench.hand_back()
    work = asked(bench)
    bench.happen(Pause("now"))
    assert bench.job.status == "running", "the question is still out"
    answer(bench, work, (1, 0))
    assert bench.job.status == "paused"
    assert [r.takes for r in bench.log if isinstance(r, Taken)] == [(1, 0)]


def test_a_successor_asks_about_everything_that_was_not_taken() -> None:
    bench = fed()
    bench.run(0, count=1, emits={0: 3})
    answer(bench, asked(bench), (1, 0))
    heir = Job("j")
    fill(heir, to_plain(bench.job))
    replayed = bench.replayed()
    for job in (heir, replayed):
        state = job.routines[1]
        assert (state.asked, state.arrived, [run.seq for run in state.slots[0]]) == (0, 3, [1])


def test_deferred_events_wait_for_the_resumption_and_keep_the_job_alive() -> None:
    bench = OnBench(routine("a"), routine("b"), edges=[(0, 0, 1, 0)]).submit(1)
    bench.run(0, ops=[StateOp("defer", "a", "e0", b"later")])
    assert bench.job.status == "running"
    assert view_of(bench.job, 1).is_resting
    assert bench.give(1) is None
    assert bench.replayed().deferred[0].batch.data == b"later"
    bench.happen(Resume())
    assert bench.job.deferred == []
    assert bench.must_give(1).parts[0].batch.data == b"later"
    assert bench.replayed().record_count == bench.job.record_count == 3


def test_a_wish_of_a_handler_holds_with_its_commit() -> None:
    bench = OnBench(routine("a")).submit(2)
    bench.report(bench.must_give(0), 1, ops=[StateOp("pause", "", "tea", b"cp")], is_last=False)
    assert (bench.job.closing or ())[:2] == ("paused", "tea")
    bench.hand_back()
    assert (bench.job.status, bench.job.checkpoint) == ("paused", b"cp")
    bench.happen(Resume())
    bench.report(bench.must_give(0), ops=[StateOp("cancel", "", "enough")])
    assert (bench.job.status, bench.job.reason) == ("cancelled", "enough")


def test_an_adopted_job_goes_on_where_it_was() -> None:
    bench = fed(error=retry())
    bench.run(0, count=1, emits={0: 2, 1: 1})
    answer(bench, asked(bench), (1, 1))
    bench.happen(Pause("hand over"))
    heir = OnBench()
    heir.auto = False
    heir.happen(Adopt("f", to_plain(bench.job), b"past", (), (StateOp("set", "", "x", 1),)))
    assert heir.kinds() == ["Adopted", "Annotated", "Resumed"]
    assert heir.give(1) is None, "not before it is durable here"
    heir.stand()
    assert heir.job.state[""]["x"] == 1
    work = heir.must_give(1)
    assert (work.question, [part.count for part in work.parts]) == ((0, False), [1])
    assert heir.replayed().routines[1].ready_count == 1
