"""When a worker knows that more work waits: its reports are rarer then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from routilux_mp import Routine
from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Part, Work
from routilux_mp._core.topology import RoutineSpec, Topology
from routilux_mp._serialization.batch import encode_batch
from routilux_mp._worker.liveness import Page
from routilux_mp._worker.main import _MANY, Worker
from routilux_mp._worker.transaction import BUSY_FLUSHES
from routilux_mp._worker.wire import JobInfo, Task


class Inbox:
    """Gives one message at each reading, as one that comes late; counts how often nobody would wait for it."""

    def __init__(self, *messages: Any) -> None:
        self.messages = list(messages)
        self.looks = 0

    def read(self, *, wait: bool) -> Sequence[Any] | None:
        self.looks += not wait
        if self.messages:
            return [self.messages.pop(0)]
        return None if wait else ()

    def send(self, message: Any) -> None:
        pass


class Only:
    def __init__(self, routine: Routine) -> None:
        self._routine = routine

    def routine(self, routine_id: str) -> Routine:
        return self._routine


def task(dispatch: int, count: int) -> Task:
    data = encode_batch([{"x": 1}] * count, None, b"").data
    return Task("job", Work(dispatch, 1, 0, (0,), (Part(0, -1, Batch(count, data), 0, count),)))


@pytest.mark.parametrize(
    ("counts", "times"),
    [
        ([1], [1]),
        ([1, 1], [BUSY_FLUSHES, 1]),
        ([_MANY], [1]),
        ([_MANY + 1], [BUSY_FLUSHES]),
        ([1, 1, 1], [BUSY_FLUSHES, BUSY_FLUSHES, 1]),
    ],
)
def test_reports_are_rarer_while_more_waits_than_a_few(counts: list[int], times: list[int]) -> None:
    routine = Routine()
    routine.add_event("out")
    seen: list[float] = []
    topology = Topology("flow", "concurrent", (RoutineSpec("r", "Routine", ("in",), ("out",)),), ())
    inbox = Inbox(JobInfo("job", "code", "flow", topology.to_plain(), flush_ms=1.0))
    worker = Worker(inbox, Page(), Only(routine), may_wait=False)
    routine.add_slot("in", handler=lambda x: seen.append(worker.transaction._flush_ns / 1e6))
    routine._incoming = {}  # type: ignore[attr-defined]
    worker.take_messages(wait=True)
    inbox.messages += [task(number, count) for number, count in enumerate(counts, 1)]
    worker.serve()
    assert seen == [float(t) for count, t in zip(counts, times, strict=True) for _ in range(count)]
    assert inbox.looks <= len(counts)
