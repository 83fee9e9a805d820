"""Cycles, and diamonds whose join waits for the other side, end however small the queues are."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from routilux_mp._core.select import wanted
from routilux_mp._core.stimuli import Tick
from routilux_mp._core.topology import PolicySpec
from tests.unit.core.core_bench import SECOND, OnBench, routine

ROUNDS_MAX = 5_000
small = st.sampled_from((1, 2, 3))


def _run(bench: OnBench, draw: st.DrawFn, emit: Any) -> None:
    """A shell as simple as can be: give out what is wanted, report something that runs, until the job has ended."""
    running: deque[tuple[Any, int]] = deque()
    for _ in range(ROUNDS_MAX):
        if bench.job.is_terminal:
            return
        given = False
        for number in wanted(bench.job, bench.now):
            work = bench.give(number, worker=number + 1, count=draw(small))
            if work is not None:
                running.append((work, number))
                given = True
        if running:
            running.rotate(draw(st.integers(0, 2)))
            work, number = running.popleft()
            bench.report(work, emits=emit(work, number))
        else:
            assert given, f"stuck: {[(r.queued, len(r.ready)) for r in bench.job.routines]}"
        bench.now += SECOND
    raise AssertionError("it does not end")


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_diamond_with_a_join(data: st.DataObject) -> None:
    draw = data.draw
    policy = draw(
        st.sampled_from((PolicySpec("all_slots_ready"), PolicySpec("batch_size", 2), PolicySpec("upstream_done")))
    )
    bench = OnBench(
        routine("a"), routine("b", queue_max=draw(small)), routine("c", queue_max=draw(small)),
        routine("d", slots=2, policy=policy, queue_max=draw(small)),
        edges=[(0, 0, 1, 0), (0, 0, 2, 0), (1, 0, 3, 0), (2, 0, 3, 1)],
        strategy=draw(st.sampled_from(("concurrent", "sequential"))),
    ).submit(draw(st.integers(1, 6)))  # fmt: skip
    fans = [draw(st.integers(0, 3)) for _ in range(4)]

    def emit(work: Any, number: int) -> dict[int, int] | None:
        count = 1 if work.is_group else sum(part.count for part in work.parts)
        return {0: fans[number] * count} if fans[number] * count else None

    _run(bench, draw, emit)
    assert bench.job.status == "completed"


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_cycle(data: st.DataObject) -> None:
    """Everything goes round a few times, and more comes back than went in."""
    draw = data.draw
    bench = OnBench(
        routine("a"), routine("b", queue_max=draw(small), workers=draw(st.sampled_from((1, 2)))),
        routine("c", events=2, queue_max=draw(small)), edges=[(0, 0, 1, 0), (1, 0, 2, 0), (2, 0, 1, 0)],
        strategy=draw(st.sampled_from(("concurrent", "sequential"))),
    ).submit(draw(st.integers(1, 5)))  # fmt: skip
    fan, budget = draw(st.integers(1, 3)), [draw(st.integers(0, 40))]

    def emit(work: Any, number: int) -> dict[int, int] | None:
        count = sum(part.count for part in work.parts)
        if number < 2:
            return {0: count}
        again = min(budget[0], fan * count)
        budget[0] -= again
        return {0: again, 1: 1} if again else {1: 1}

    _run(bench, draw, emit)
    assert bench.job.status == "completed"
    assert budget[0] == 0 or fan * bench.job.routines[2].done >= 1


def test_nothing_is_wanted_of_an_ended_job() -> None:
    bench = OnBench(routine("a")).submit()
    bench.run(0)
    bench.happen(Tick())
    assert wanted(bench.job, bench.now) == []
