"""What a worker does between two activations: it knows whether more waits, and looks at the page now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from routilux_mp import Routine
from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Part, Revoke, Work
from routilux_mp._core.stimuli import Completion
from routilux_mp._core.topology import RoutineSpec, Topology
from routilux_mp._serialization import batch
from routilux_mp._serialization.batch import encode_batch
from routilux_mp._serialization.packing import pack
from routilux_mp._worker import jobs, main, uncommitted
from routilux_mp._worker.liveness import INDEX, LOOK_NS, REVOKED, START_NS, Page
from routilux_mp._worker.main import _MANY, Worker
from routilux_mp._worker.transaction import BUSY_FLUSHES
from routilux_mp._worker.wire import JobInfo, Task


class Inbox:
    """Gives one message at each reading, as one that comes late; counts how often nobody would wait for it."""

    def __init__(self, *messages: Any) -> None:
        self.messages = list(messages)
        self.looks = 0
        self.sent: list[Completion] = []

    def read(self, *, wait: bool) -> Sequence[Any] | None:
        self.looks += not wait
        if self.messages:
            return [self.messages.pop(0)]
        return None if wait else ()

    def send(self, message: Any) -> None:
        self.sent.append(message.completion)


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
    seen: list[float] = []
    worker, inbox = begun(lambda x: seen.append(worker.transaction._flush_ns / 1e9), *counts)
    worker.serve()
    assert seen == [float(t) for count, t in zip(counts, times, strict=True) for _ in range(count)]
    assert inbox.looks <= len(counts)


def begun(handler: Callable[[Any], None], *counts: int, **info: Any) -> tuple[Worker, Inbox]:
    """A worker that knows a job of one routine, and has so many activations in front of it."""
    routine = Routine()
    routine.add_event("out")
    routine.add_slot("in", handler=handler)
    routine._incoming = {}  # type: ignore[attr-defined]
    topology = Topology("flow", "concurrent", (RoutineSpec("r", "Routine", ("in",), ("out",)),), ())
    info.setdefault("flush_ms", 1000.0)
    inbox = Inbox(JobInfo("job", "code", "flow", topology.to_plain(), **info))
    worker = Worker(inbox, Page(), Only(routine), may_wait=False)
    worker.take_messages(wait=True)
    inbox.messages += [task(number, count) for number, count in enumerate(counts, 1)]
    return worker, inbox


def spin(ns: int) -> None:
    until = time.monotonic_ns() + ns
    while time.monotonic_ns() < until:
        pass


def test_what_is_finished_goes_when_it_is_due_though_each_is_quick() -> None:
    worker, inbox = begun(lambda x: spin(LOOK_NS), 16, flush_ms=2.0)
    worker._sender.is_awake = True  # the second thread is not needed for that, and does not run
    worker.serve()
    assert len(inbox.sent) >= 3, "at least 16 ms, in reports of about 4"
    assert sum(report.done for report in inbox.sent) == 16


def test_what_is_finished_goes_when_it_is_many() -> None:
    worker, inbox = begun(lambda x: None, 25, batch_count_max=10)
    worker.serve()
    assert [report.done for report in inbox.sent] == [10, 10, 5]


@pytest.mark.parametrize("shape", [lambda n: n, lambda n: (n, {n})], ids=["plain", "marked"])
def test_a_large_batch_is_decoded_as_it_is_run(shape: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, each with its own number, and never more than a few in memory."""
    held: list[int] = []
    readers: set[Any] = set()
    seen: list[Any] = []
    keys: list[str] = []

    def handler(x: Any) -> None:
        seen.append(x)
        keys.append(worker.transaction.idempotency_key)

    worker, inbox = begun(handler)
    take = batch.PlainReader.take
    monkeypatch.setattr(batch.PlainReader, "take", lambda *a: readers.add(a[0]) or held.append(a[2]) or take(*a))
    count = 3 * jobs._AT_ONCE + 5
    data = encode_batch([{"x": shape(n)} for n in range(count)], None, b"").data
    parts = (Part(0, -1, Batch(count, data), 2, count - 2), Part(0, -1, Batch(count, data), 0, 2))
    inbox.messages.append(Task("job", Work(1, 1, 0, (7, 1000), parts)))
    worker.serve()
    assert seen == [shape(n) for n in (*range(2, count), 0, 1)]
    assert keys == [f"job/r/{n}" for n in (*range(7, 7 + count - 2), 1000, 1001)]
    assert max(held) == jobs._AT_ONCE
    assert len(readers) == 2, "the batch was not read from its beginning for each portion"
    assert sum(report.done for report in inbox.sent) == count


@pytest.mark.parametrize("at", [5, 200])
def test_what_cannot_be_read_fails_its_activation_and_none_before_it(at: int) -> None:
    """And no attempt afterwards gets what stands somewhere else."""
    seen: list[Any] = []
    worker, inbox = begun(lambda x: seen.append(x["n"]), batch_count_max=10_000)
    count = 3 * jobs._AT_ONCE
    items = [{"x": {"n": n}} for n in range(count)]
    data = bytearray(encode_batch(items, None, b"").data)
    here = len(encode_batch([0] * 300, None, b"").data) - 300 + sum(len(pack(item)) for item in items[:at])
    data[here] = 0xC1  # what MessagePack never uses
    for dispatch, start in ((1, 0), (2, 0), (3, jobs._AT_ONCE * (at // jobs._AT_ONCE))):
        part = Part(0, -1, Batch(count, bytes(data)), start, count - start)
        inbox.messages.append(Task("job", Work(dispatch, 1, 0, (start,), (part,))))
        inbox.messages.append(Revoke(1, dispatch))
    worker.serve()
    whole = at // jobs._AT_ONCE * jobs._AT_ONCE
    assert seen == [*range(whole), *range(whole)]
    assert [(r.done, r.failure.kind) for r in inbox.sent if r.failure] == [
        (whole, "storage"),
        (whole, "storage"),
        (0, "storage"),
    ]


def test_what_is_finished_goes_when_it_is_large() -> None:
    def emit(x: Any) -> None:
        worker.transaction.emit(None, "out", {"x": bytes(2000)})

    worker, inbox = begun(emit, 3, batch_bytes_max=1000)
    worker.serve()
    assert [report.done for report in inbox.sent] == [1, 1, 1]


def test_who_emits_for_long_without_committing_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (main, uncommitted):
        monkeypatch.setattr(module, "LONG_NS", LOOK_NS)

    def emit(x: Any) -> None:
        for _ in range(2):
            worker.transaction.emit(None, "out", {"x": x})
        spin(2 * LOOK_NS)

    worker, _ = begun(emit, 2)
    worker.serve()
    assert [record.getMessage()[:36] for record in caplog.records] == ["Routine 'r' has emitted 2 times in o"], "once"


def test_what_was_revoked_a_moment_ago_does_not_start() -> None:
    calls = []

    def revoke(x: Any) -> None:
        calls.append(x)
        worker.transaction._numbers[REVOKED] = 1
        spin(LOOK_NS + 1000)

    worker, inbox = begun(revoke, 5, 1)
    worker.serve()
    assert len(calls) == 2, "of the first dispatch one had begun; the second one is not revoked"
    assert [(c.done, c.is_last) for c in inbox.sent] == [(1, True), (1, True)]


def test_the_page_says_within_a_millisecond_when_the_running_one_began() -> None:
    behind: list[int] = []
    indices: list[int] = []

    def look(x: Any) -> None:
        behind.append(worker.transaction.started_ns - worker.transaction._numbers[START_NS])
        indices.append(worker.transaction._numbers[INDEX])

    worker, _ = begun(look, 5000, 1)
    worker.serve()
    assert indices == [*range(5000), 0]
    assert 0 <= min(behind) <= max(behind) <= LOOK_NS
    assert behind[0] == behind[-1] == 0
    assert len(set(behind)) > 5, "it is not written for each"
