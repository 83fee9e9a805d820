"""Shared state: no lost update, whoever writes what while a worker's copy is old."""

from __future__ import annotations

from routilux_mp._core.effects import Work
from routilux_mp._core.job import ListValue
from routilux_mp._core.stimuli import Annotate, StateOp
from tests.unit.core.core_bench import ERROR, OnBench, add, retry, revoked, routine, set_to

K = ("", "k")


def _two_workers(count: int = 8, **fields: object) -> OnBench:
    return OnBench(routine("a", workers=2, **fields)).submit(count)


def _shipped(work: Work) -> dict[str, object]:
    return {key: value for _, key, value in work.state}


def test_a_read_that_is_out_of_date_runs_again_alone_and_holds_its_key() -> None:
    bench = _two_workers()
    mine, other = bench.must_give(0, worker=1, count=1), bench.must_give(0, worker=2, count=1)
    bench.report(other, ops=[set_to("k", 1)], reads=[K])
    effects = bench.report(mine, ops=[set_to("k", 1)], reads=[K])
    assert [e.dispatch for e in revoked(effects)] == [0]
    assert bench.job.state[""] == {"k": 1}
    again = bench.must_give(0, worker=1)
    assert (again.seqs, sum(p.count for p in again.parts), again.is_reset) == ((0,), 1, True)
    assert _shipped(again) == {"k": 1}
    rival = bench.must_give(0, worker=2, count=1)
    bench.report(rival, ops=[add("k", 5)])
    assert bench.job.state[""] == {"k": 1}, "the key is held: the other one loses"
    bench.report(again, ops=[set_to("k", 2)], reads=[K])
    assert bench.job.state[""] == {"k": 2}
    assert bench.job.holds == {}


def test_increments_and_appends_never_conflict() -> None:
    bench = _two_workers()
    one, two = bench.must_give(0, worker=1, count=1), bench.must_give(0, worker=2, count=1)
    bench.report(one, ops=[add("n", 2), StateOp("append", "", "l", b"x")])
    bench.report(two, ops=[add("n", 3), StateOp("append", "", "l", b"y")])
    assert bench.job.state[""] == {"n": 5, "l": ListValue(None, [b"x", b"y"])}


def test_own_changes_are_no_conflict() -> None:
    bench = _two_workers()
    work = bench.must_give(0, worker=1, count=3)
    for value in (1, 2, 3):
        assert not revoked(bench.report(work, 1, ops=[set_to("k", value)], reads=[K], is_last=value == 3))
    assert bench.job.state[""] == {"k": 3}


def test_an_increment_upon_anothers_change_does_not_hide_it() -> None:
    """Worker 1 has not seen what worker 2 added, whatever worker 1 itself adds afterwards."""
    bench = _two_workers()
    mine, other = bench.must_give(0, worker=1, count=2), bench.must_give(0, worker=2, count=1)
    bench.report(other, ops=[add("k", 10)])
    bench.report(mine, 1, ops=[add("k", 1)], is_last=False)
    assert revoked(bench.report(mine, 1, ops=[set_to("k", 2)], reads=[K])), "it read 1 where 11 stands"
    assert bench.job.state[""] == {"k": 11}


def test_a_value_sent_after_an_own_change_does_not_hide_that_change() -> None:
    """What worker 1 did in its first dispatch is not in the value that its second dispatch brought it."""
    bench = _two_workers()
    bench.run(0, worker=1, count=1)
    first = bench.must_give(0, worker=1, count=1)
    other = bench.must_give(0, worker=2, count=1)
    bench.report(other, ops=[add("k", 10)])
    second = bench.must_give(0, worker=1, count=1)
    assert _shipped(second) == {"k": 10}
    bench.report(first, ops=[add("k", 1)])
    assert revoked(bench.report(second, ops=[set_to("k", 11)], reads=[K])), "it read 10 where 11 stands"
    assert bench.job.state[""] == {"k": 11}


def test_a_worker_gets_only_what_it_has_not_seen() -> None:
    bench = _two_workers()
    bench.run(0, worker=2, count=1)
    first = bench.must_give(0, worker=1, count=1)
    assert (first.is_reset, first.state) == (True, ())
    bench.report(first, ops=[set_to("mine", 1)])
    bench.run(0, worker=2, count=1, ops=[set_to("other", 2)])
    second = bench.must_give(0, worker=1, count=1)
    assert (second.is_reset, _shipped(second)) == (False, {"other": 2})
    bench.report(second, ops=[StateOp("delete", "", "other")])
    third = bench.must_give(0, worker=2, count=1)
    assert _shipped(third) == {"other": None}, "the other key it got with its second dispatch"
    bench.report(third, ops=[set_to("mine", 2)])
    assert _shipped(bench.must_give(0, worker=2, count=1)) == {}


def test_many_changes_later_it_still_gets_all_of_them() -> None:
    bench = _two_workers(count=3)
    bench.run(0, worker=1, count=1)
    bench.run(0, worker=2, count=1, ops=[set_to(f"k{n}", n) for n in range(3000)])
    assert len(_shipped(bench.must_give(0, worker=1))) == 3000


def test_state_that_does_not_stand_is_shown_to_nobody_else() -> None:
    bench = _two_workers(count=3)
    bench.run(0, worker=1, count=1)
    bench.auto = False
    bench.run(0, worker=1, count=1, ops=[set_to("k", 1)])
    assert bench.give(0, worker=2) is None
    assert bench.give(0, worker=1), "whoever made it knows it anyway"
    bench.stand()


def test_what_a_failed_attempt_would_have_changed_is_not() -> None:
    bench = OnBench(routine("a", error=retry(1, 0.0))).submit(2)
    work = bench.must_give(0)
    bench.report(work, 1, ops=[add("n", 1)], failure=ERROR)
    assert bench.job.state[""] == {"n": 1}
    assert bench.must_give(0).is_reset, "its copy may hold more than that"


def test_a_caller_writes_too() -> None:
    bench = _two_workers()
    work = bench.must_give(0, worker=1, count=1)
    bench.happen(Annotate((set_to("k", 9),)))
    assert revoked(bench.report(work, ops=[set_to("k", 1)], reads=[K]))
    assert bench.job.state[""] == {"k": 9}


def test_what_conflicts_again_holds_all_the_keys_it_ever_read() -> None:
    """It goes another way the second time, and the first way the third: it cannot lose on either."""
    bench = _two_workers()
    mine, other = bench.must_give(0, worker=1, count=1), bench.must_give(0, worker=2, count=1)
    bench.report(other, ops=[set_to("k", 1), set_to("m", 1)])
    bench.report(mine, ops=[set_to("x", 1)], reads=[K])
    again, other = bench.must_give(0, worker=1, count=1), bench.must_give(0, worker=2, count=1)
    bench.report(other, ops=[set_to("m", 2)])
    bench.report(again, ops=[set_to("x", 1)], reads=[("", "m")])
    third, rival = bench.must_give(0, worker=1, count=1), bench.must_give(0, worker=2, count=1)
    bench.report(rival, ops=[set_to("k", 3)])
    assert bench.job.state[""]["k"] == 1, "the key of the first conflict is still held"
    assert not revoked(bench.report(third, ops=[set_to("x", 1)], reads=[K]))


def test_keys_that_were_written_long_ago_are_not_remembered() -> None:
    bench = _two_workers()
    bench.run(0, worker=2, count=1)
    work = bench.must_give(0, worker=1, count=2)
    for n in range(0, 20_000, 100):
        bench.happen(Annotate(tuple(set_to(f"k{n + i}", i) for i in range(100))))
        if n == 10_000:
            assert len(bench.job.changed) == n + 100, "what runs was given the state of before: all of it matters"
            assert not revoked(bench.report(work, 1, is_last=False))
            assert revoked(bench.report(work, 1, ops=[set_to("x", 1)], reads=[("", "k5")])), "and is not forgotten"
    assert len(bench.job.changed) < 10_000
    late = bench.must_give(0, worker=2, count=1)
    assert late.is_reset, "far behind: it is given everything"
    assert len(late.state) == 20_000
