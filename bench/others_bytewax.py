"""The chain as a bytewax dataflow; ``others.py`` starts the two processes that run it."""

from __future__ import annotations

import os
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

_N = int(os.environ["BENCH_N"])
_BATCH = int(os.environ["BENCH_BATCH"])
_FOLDER = os.environ["BENCH_FOLDER"]


class _Numbers(StatefulSourcePartition):  # type: ignore[misc]
    def __init__(self, position: int) -> None:
        self.position = position

    def next_batch(self) -> list[tuple[str, dict[str, int]]]:
        """The next items, each with one of two keys: they alternate between the processes."""
        if self.position >= _N:
            raise StopIteration
        first, self.position = self.position, min(_N, self.position + _BATCH)
        return [(f"k{i & 1}", {"i": i}) for i in range(first, self.position)]

    def snapshot(self) -> int:
        """Where to go on."""
        return self.position


class _Source(FixedPartitionedSource):  # type: ignore[misc]
    def list_parts(self) -> list[str]:
        """One part."""
        return ["p"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Numbers:
        """From the beginning, or from where the snapshot was taken."""
        return _Numbers(resume_state or 0)


class _Count(StatelessSinkPartition):  # type: ignore[misc]
    def write_batch(self, items: list[Any]) -> None:
        """Says how many there were."""
        with open(f"{_FOLDER}/count{os.getpid()}", "a", encoding="ascii") as file:
            file.write(f"{len(items)}\n")


class _Sink(DynamicSink):  # type: ignore[misc]
    def build(self, *_: Any) -> _Count:
        """One per worker."""
        return _Count()


def _same(x: Any) -> Any:
    return x


flow = Dataflow("bench")
_stream = op.redistribute("to-a", op.input("source", flow, _Source()))
_stream = op.redistribute("to-b", op.map("a", _stream, _same))
op.output("sink", op.map("b", _stream, _same), _Sink())
