"""Built-in policies: when a routine is activated, and with what."""

from __future__ import annotations

from routilux_mp._core.records import Taken
from routilux_mp._core.stimuli import Close, Tick
from routilux_mp._core.topology import PolicySpec
from tests.unit.core.core_bench import ERROR, SECOND, OnBench, retry, routine


def _fed(policy: PolicySpec, slots: int = 1, **fields: object) -> OnBench:
    """A source that feeds every slot of one routine with this policy."""
    edges = [(0, slot, 1, slot) for slot in range(slots)]
    return OnBench(
        routine("a", events=slots),
        routine("b", slots=slots, policy=policy, **fields),
        edges=edges,  # type: ignore[arg-type]
    ).submit(2)


def _takes(bench: OnBench) -> list[tuple[int, ...]]:
    return [record.takes for record in bench.log if isinstance(record, Taken)]


def test_a_batch_is_taken_when_it_is_full_and_the_rest_at_the_end() -> None:
    bench = _fed(PolicySpec("batch_size", 3))
    first = bench.must_give(0, count=1)
    bench.report(first, emits={0: 7}, is_last=True)
    assert _takes(bench) == [(3,), (3,)]
    bench.run(0)
    bench.run(1)
    bench.run(1)
    assert _takes(bench) == [(3,), (3,), (1,)]
    bench.run(1)
    assert bench.job.status == "completed"


def test_a_group_goes_alone() -> None:
    bench = _fed(PolicySpec("batch_size", 2))
    bench.run(0, count=1, emits={0: 4})
    work = bench.must_give(1)
    assert work.is_group
    assert [part.count for part in work.parts] == [2]


def test_all_slots_ready_takes_one_of_each() -> None:
    bench = _fed(PolicySpec("all_slots_ready"), slots=2)
    bench.run(0, count=1, emits={0: 3})
    assert _takes(bench) == []
    bench.run(0, emits={1: 2})
    assert _takes(bench) == [(1, 1), (1, 1)]
    bench.run(1)
    bench.run(1)
    assert bench.job.status == "completed"
    assert bench.job.routines[1].queued == [1, 0], "what nobody took stays, and is told"


def test_upstream_done_waits_for_retries_and_runs_once() -> None:
    bench = OnBench(
        routine("a"), routine("b", error=retry(1, 1.0)), routine("c", policy=PolicySpec("upstream_done")),
        edges=[(0, 0, 1, 0), (1, 0, 2, 0)],
    ).submit()  # fmt: skip
    bench.run(0, emits={0: 2})
    work = bench.must_give(1)
    bench.report(work, 1, emits={0: 1}, failure=ERROR)
    assert _takes(bench) == []
    bench.now += 2 * SECOND
    bench.happen(Tick())
    bench.run(1, emits={0: 1})
    assert _takes(bench) == [(2,)]
    bench.run(2)
    assert bench.job.status == "completed"


def test_upstream_done_runs_with_nothing_too() -> None:
    bench = _fed(PolicySpec("upstream_done"))
    bench.run(0)
    assert _takes(bench) == [(0,)]
    work = bench.must_give(1)
    assert (work.is_group, work.parts) == (True, ())
    bench.report(work)
    assert bench.job.status == "completed"


def test_one_aggregate_waits_for_another() -> None:
    last = PolicySpec("upstream_done")
    bench = OnBench(
        routine("a"), routine("b", policy=last), routine("c", policy=last), edges=[(0, 0, 1, 0), (1, 0, 2, 0)]
    ).submit()
    bench.run(0, emits={0: 5})
    assert _takes(bench) == [(5,)]
    bench.run(1, emits={0: 1})
    assert _takes(bench) == [(5,), (1,)]


def test_an_open_job_is_not_done() -> None:
    bench = _fed(PolicySpec("upstream_done"))
    bench = OnBench(routine("a"), routine("b", policy=PolicySpec("upstream_done")), edges=[(0, 0, 1, 0)]).submit(0)
    bench.happen(Tick())
    assert bench.job.status == "running"
    bench.happen(Close())
    assert bench.job.status == "completed"
    assert _takes(bench) == [], "nothing ever ran upstream of it"


def test_an_interval_takes_what_is_there() -> None:
    bench = _fed(PolicySpec("time_interval", 0, 10.0))
    bench.now = 100 * SECOND
    bench.run(0, count=1, emits={0: 2})
    assert _takes(bench) == [(2,)], "the first at once"
    bench.run(0, emits={0: 3})
    bench.happen(Tick())
    assert _takes(bench) == [(2,)]
    bench.now += 10 * SECOND
    bench.happen(Tick())
    assert _takes(bench) == [(2,), (3,)]
