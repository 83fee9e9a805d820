"""How much lies in front of a worker: measured by what it reported, however it came to be reported."""

from __future__ import annotations

import pytest

from routilux_mp._supervisor.placement import AHEAD_DISPATCHES_MAX, Placement, WorkerSlot

MS = 1_000_000


class Bench:
    def __init__(self, cores: int = 2, ahead_ms: float = 20.0) -> None:
        self.placement = Placement(4, ahead_ms=ahead_ms, cores=cores)
        self.dispatch = 0

    def worker(self, routine: str = "r") -> WorkerSlot:
        return self.placement.new("code", routine, 0)

    def give(self, slot: WorkerSlot, count: int = 1) -> int:
        self.dispatch += 1
        self.placement.gave(slot, self.dispatch, "job", count, 0)
        return self.dispatch

    def work(self, slot: WorkerSlot, count: int, busy_ns: int) -> None:
        """All of a dispatch at once."""
        self.placement.reported(slot, self.give(slot, count), count, True, busy_ns, 0)

    def warm(self, pace_ns: int) -> WorkerSlot:
        """A worker that has reported often enough to be believed."""
        slot = self.worker()
        self.work(slot, 1, 500 * MS)
        self.work(slot, 10, 10 * pace_ns)
        return slot


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_who_is_told_to_begin_nothing_more_gets_nothing_before_that_is_back() -> None:
    bench = Bench(ahead_ms=60.0)
    slot = bench.warm(MS)
    first, second = bench.give(slot, 4), bench.give(slot, 4)
    assert bench.placement.room(slot) > 0
    bench.placement.recall(slot, second)
    bench.placement.recall(slot, first)
    assert bench.placement.room(slot) == 0
    bench.placement.reported(slot, first, 4, True, 4 * MS, 0)
    assert bench.placement.room(slot) == 0, "what comes back of the other one is older than all that could be given"
    bench.placement.reported(slot, second, 1, False, MS, 0)
    assert bench.placement.room(slot) == 0
    bench.placement.reported(slot, second, 0, True, 0, 0)
    assert bench.placement.room(slot) > 0
    bench.give(slot, 1)
    assert bench.placement.room(slot) > 0, "what it was given since is not concerned"


def test_who_has_given_everything_back_is_given_little_at_first() -> None:
    bench = Bench(ahead_ms=60.0)
    slot = bench.warm(MS // 100)
    assert bench.placement.room(slot) > 1000
    bench.give(slot, 500)
    bench.placement.handed_back(slot, 0)
    assert bench.placement.room(slot) == 8
    bench.work(slot, 8, 8 * MS // 100)
    assert bench.placement.room(slot) == 24
    bench.give(slot, 12)
    bench.placement.handed_back(slot, 0)
    assert bench.placement.room(slot) == 8, "again"
    for _ in range(10):
        bench.work(slot, bench.placement.room(slot), MS)
    assert bench.placement.room(slot) > 1000
    slow = Bench(ahead_ms=60.0)
    slot = slow.warm(30 * MS)
    slow.placement.handed_back(slot, 0)
    assert slow.placement.room(slot) == 3, "never more than its time allows"


def test_what_goes_singly_is_bounded_in_number() -> None:
    bench = Bench(ahead_ms=60.0)
    slot = bench.warm(MS // 100)
    dispatches = []
    while bench.placement.room(slot):
        dispatches.append(bench.give(slot, 1))
    assert len(dispatches) == AHEAD_DISPATCHES_MAX
    bench.placement.reported(slot, dispatches[0], 1, True, MS // 100, 0)
    assert bench.placement.room(slot) > 0


def test_one_runs_and_what_waits_behind_it_is_no_more_than_its_time() -> None:
    bench = Bench(ahead_ms=60.0)
    slot = bench.warm(25 * MS)
    assert bench.placement.room(slot) == 3
    bench.give(slot, 2)
    assert bench.placement.room(slot) == 1
    bench.give(slot, 1)
    assert bench.placement.room(slot) == 0


def test_short_ones_come_in_few_large_portions(bench: Bench) -> None:
    slot = bench.warm(MS)
    room = bench.placement.room(slot)
    dispatch = bench.give(slot, room)
    bench.placement.reported(slot, dispatch, 5, False, 5 * MS, 0)
    assert bench.placement.room(slot) == 0
    bench.placement.reported(slot, dispatch, room // 2 - 5, False, (room // 2 - 5) * MS, 0)
    assert bench.placement.room(slot) == 0
    bench.placement.reported(slot, dispatch, 1, False, MS, 0)
    assert bench.placement.room(slot) == room // 2 + 1


def test_the_next_portion_comes_when_half_is_left(bench: Bench) -> None:
    slot = bench.warm(9 * MS)
    assert bench.placement.room(slot) == 3
    dispatch = bench.give(slot, 3)
    bench.placement.reported(slot, dispatch, 1, False, 9 * MS, 0)
    assert bench.placement.room(slot) == 0
    bench.placement.reported(slot, dispatch, 1, False, 9 * MS, 0)
    assert bench.placement.room(slot) == 2


def test_long_ones_go_singly(bench: Bench) -> None:
    slot = bench.warm(50 * MS)
    assert bench.placement.room(slot) == 1
    bench.give(slot)
    assert bench.placement.room(slot) == 0


def test_nobody_knows_how_long_the_first_one_takes(bench: Bench) -> None:
    slot = bench.worker()
    assert bench.placement.room(slot) == 1
    bench.give(slot)
    assert bench.placement.room(slot) == 0


def test_a_slow_first_call_is_forgotten_with_the_second(bench: Bench) -> None:
    slot = bench.worker()
    bench.work(slot, 1, 500 * MS)
    assert bench.placement.room(slot) == 1
    bench.work(slot, 1, MS // 10)
    assert bench.placement.room(slot) > 100


def test_the_first_call_of_another_worker_changes_nothing(bench: Bench) -> None:
    slot, other = bench.warm(MS // 10), bench.worker()
    before = bench.placement.room(slot)
    bench.work(other, 1, 500 * MS)
    assert bench.placement.room(slot) == before


def test_one_quick_report_among_slow_ones_does_not_heap_work_on_a_worker(bench: Bench) -> None:
    slot = bench.warm(10 * MS)
    bench.work(slot, 1, MS // 100)
    assert bench.placement.room(slot) <= 5


def test_many_quick_ones_are_believed_at_once(bench: Bench) -> None:
    slot = bench.warm(10 * MS)
    bench.work(slot, 100, MS)
    assert bench.placement.room(slot) > 1000


def test_a_short_call_after_a_pause_is_no_reason_to_give_less(bench: Bench) -> None:
    slot = bench.warm(2_000)
    before = bench.placement.room(slot)
    for _ in range(10):
        bench.work(slot, 1, MS // 5)
    assert bench.placement.room(slot) == before


def test_longer_ones_are_noticed(bench: Bench) -> None:
    slot = bench.warm(2_000)
    for _ in range(3):
        bench.work(slot, 1, 10 * MS)
    assert bench.placement.room(slot) <= 3


def test_few_long_ones_are_shared_out(bench: Bench) -> None:
    first, second = bench.warm(9 * MS), bench.worker()
    assert bench.placement.share(first, 2) == bench.placement.share(second, 2) == 1
    assert bench.placement.share(first, 3) == 2
    assert bench.placement.share(first, 100) == bench.placement.room(first) == 3
    assert bench.placement.share(first, 0) >= 1  # a special one, which is not among those that wait


def test_what_others_have_in_front_of_them_is_counted(bench: Bench) -> None:
    first, second = bench.warm(9 * MS), bench.worker()
    bench.give(second, 3)
    assert bench.placement.share(first, 2) >= 2  # the other one has three
    bench.give(first, 1)
    assert bench.placement.share(first, 2) == 2
    bench.placement.handed_back(second, 0)
    assert bench.placement.share(first, 2) == 1
    assert bench.placement.share(second, 2) == 2


def test_few_short_ones_wake_nobody_else(bench: Bench) -> None:
    slot, _ = bench.warm(2_000), bench.worker()
    assert bench.placement.share(slot, 100) >= 100


def test_all_cores_are_busy_when_as_many_workers_have_enough_to_do(bench: Bench) -> None:
    first, second = bench.warm(10 * MS), bench.worker()
    both = {first.worker, second.worker}
    bench.give(first, 2)
    assert not bench.placement.are_busy(both, 5 * MS)
    bench.give(second)
    assert bench.placement.are_busy(both, 5 * MS)
    assert not bench.placement.are_busy(both, 15 * MS)
    assert not bench.placement.are_busy({first.worker}, 5 * MS)
