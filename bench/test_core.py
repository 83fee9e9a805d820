"""What the supervisor pays per completion: the core alone, on batches of 256 and of one.

    python -m pytest bench/test_core.py --benchmark-only

One cycle is what every batch of a chain goes through: a report of a worker with one batch of
emissions, the commit that stands, and the next dispatch of the same routine and of the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Work
from routilux_mp._core.job import Job
from routilux_mp._core.select import wanted
from routilux_mp._core.step import replay, step
from routilux_mp._core.stimuli import Capacity, Completion, Emit, Stands, StateOp, Submit
from routilux_mp._core.topology import ConnectionSpec, RoutineSpec, Topology
from routilux_mp._storage.codec import decode_record, encode_record

CYCLES = 200
DATA = bytes(4096)


class Chain:
    """source → a → b, always with work queued for ``a``, no disk and no worker."""

    def __init__(self, count: int, ops: tuple[StateOp, ...] = ()) -> None:
        routines = (
            RoutineSpec("source", "S", ("in",), ("out",)),
            RoutineSpec("a", "A", ("in",), ("out",), queue_max=10**9),
            RoutineSpec("b", "B", ("in",), ("out",), queue_max=10**9),
        )
        topology = Topology("f", "concurrent", routines, (ConnectionSpec(0, 0, 1, 0), ConnectionSpec(1, 0, 2, 0)))
        self.job = Job("bench")
        self.count, self.ops = count, ops
        self.commit, self.number, self.now = 1, 0, 1
        self.records: list[Any] = []
        self.happen(Submit("f", topology.to_plain(), 0, 0, Batch(10**6, b"")))
        self.stand()
        work = self.give(0, 1, 1)
        self.happen(Completion(work.dispatch, 1, tuple(Emit(0, Batch(count, DATA)) for _ in range(4)), is_last=False))
        self.stand()
        self.held = self.give(1, 2, count)

    def happen(self, stimulus: Any) -> list[Any]:
        records, effects = step(self.job, stimulus, self.now, self.commit)
        self.records += records
        return effects

    def stand(self) -> None:
        step(self.job, Stands(self.commit), self.now)
        self.commit += 1

    def give(self, routine: int, worker: int, count: int) -> Work:
        self.number += 1
        [work] = [e for e in self.happen(Capacity(routine, worker, self.number, count)) if type(e) is Work]
        return work

    def cycle(self) -> None:
        """``a`` reports a batch and gets the next; ``b`` gets what ``a`` emitted; the source fills up again."""
        self.now += 1
        done = Completion(self.held.dispatch, self.count, (Emit(0, Batch(self.count, DATA)),), self.ops)
        self.happen(done)
        self.happen(Completion(1, 0, (Emit(0, Batch(self.count, DATA)),), is_last=False))
        self.stand()
        wanted(self.job, self.now)
        sink = self.give(2, 3, self.count)
        self.held = self.give(1, 2, self.count)
        self.happen(Completion(sink.dispatch, self.count))
        self.stand()


def _cycles(chain: Chain) -> None:
    for _ in range(CYCLES):
        chain.cycle()


@pytest.mark.bench
@pytest.mark.parametrize("count", [256, 1])
def test_completion_cycle(benchmark: Any, noted: Callable[..., None], count: int) -> None:
    """Two hops: three completions, two dispatches, two commits that stand."""
    chain = Chain(count)
    benchmark.pedantic(_cycles, (chain,), rounds=10, warmup_rounds=2)
    noted("us per cycle", 1e6 / CYCLES)


@pytest.mark.bench
def test_completion_cycle_with_state(benchmark: Any) -> None:
    chain = Chain(256, (StateOp("set", "a", "count", 7), StateOp("increment", "", "total", 1)))
    benchmark.pedantic(_cycles, (chain,), rounds=10, warmup_rounds=2)


@pytest.mark.bench
def test_encode_and_replay(benchmark: Any) -> None:
    """What recovery pays per record."""
    chain = Chain(256)
    _cycles(chain)
    encoded = [encode_record(record) for record in chain.records]

    def fold() -> Job:
        job = Job("bench")
        replay(job, [decode_record(data) for data in encoded])  # type: ignore[misc]
        return job

    assert benchmark(fold).activations == chain.job.activations
    benchmark.extra_info["records"] = len(encoded)
