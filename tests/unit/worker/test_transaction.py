"""Transactions without processes: what is in a report, and that a failed attempt is in none."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from routilux_mp import context
from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Part
from routilux_mp._core.stimuli import Completion
from routilux_mp._core.topology import RoutineSpec, Topology
from routilux_mp._serialization.batch import decode_batch, encode_batch
from routilux_mp._serialization.items import MARKED, PLAIN, WHOLE, ItemPacker, encode_item, join_items
from routilux_mp._serialization.packing import ExtType, Timestamp
from routilux_mp._worker import transaction
from routilux_mp._worker.failures import describe
from routilux_mp._worker.files import Files, HandedBack
from routilux_mp._worker.jobs import JobHere, RoutineHere
from routilux_mp._worker.late_sender import LateSender
from routilux_mp._worker.liveness import INDEX, LEASE_NS, Page
from routilux_mp._worker.spill import PayloadReader, is_reference, referred_blob
from routilux_mp._worker.transaction import BUSY_FLUSHES, Transaction
from routilux_mp._worker.wire import JobInfo
from routilux_mp.errors import (
    CheckpointDamaged,
    EmissionNotSerializable,
    KeyUnavailable,
    SignatureInvalid,
    StorageBlocked,
)
from routilux_mp.routine import Routine


class Own:
    """Gives out one routine object."""

    def __init__(self, routine: Routine) -> None:
        self._routine = routine

    def routine(self, routine_id: str) -> Routine:
        return self._routine


class Once(threading.Event):
    """Is set once; whoever waits for it again ends."""

    was_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if self.was_set:
            raise SystemExit
        self.was_set = True
        return True


class Bench:
    """A transaction in the middle of a dispatch."""

    def __init__(self, **info: Any) -> None:
        self.sent: list[Completion] = []
        self.page = Page()
        self.transaction = Transaction(
            lambda job_id, completion: self.sent.append(completion), self.page.numbers, self.wait
        )
        self.waits = 0
        topology = Topology("f", "concurrent", (RoutineSpec("r", "R", ("in",), ("a", "b")),), ())
        routine = Routine()
        routine.add_event("a")
        routine.add_event("b")
        info.setdefault("flush_ms", 1e6)
        self.job = JobHere(JobInfo("j", "c", "f", topology.to_plain(), **info), Own(routine))
        self.routine: RoutineHere = self.job.routine(0)
        self.transaction.open(self.job, self.routine, 1, 1000)

    def wait(self) -> None:
        self.waits += 1
        self.transaction.unanswered = 0

    def emit(self, event: str = "a", **values: Any) -> None:
        """As a handler does."""
        self.transaction.enter_handler()
        try:
            self.transaction.emit(self.routine.object, event, values)
        finally:
            self.transaction.leave_handler()

    def finish(self) -> None:
        self.transaction.succeed(time.monotonic_ns())

    def values(self, completion: Completion, event: int = 0) -> list[Any]:
        reader = PayloadReader(self.job.info.blob_dir)
        return [
            value for emit in completion.emits if emit.event == event
            for value in decode_batch(reader.open(emit.batch.data or b""), None, b"")
        ]  # fmt: skip


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.page.close()


def test_nothing_is_sent_before_it_is_finished(bench: Bench) -> None:
    bench.emit(n=1)
    bench.transaction.flush()
    assert bench.sent == []
    bench.finish()
    bench.transaction.flush()
    assert [(c.done, bench.values(c)) for c in bench.sent] == [(1, [{"n": 1}])]


def test_a_rolled_back_activation_is_in_no_report(bench: Bench) -> None:
    bench.emit(n=1)
    bench.finish()
    bench.emit(n=2)
    bench.emit("b", n=2)
    bench.transaction.job_state.increment("x")
    bench.transaction.rollback()
    bench.emit(n=3)
    bench.finish()
    bench.transaction.flush(is_last=True)
    [report] = bench.sent
    assert (report.done, report.ops, bench.values(report), bench.values(report, 1)) == (2, (), [{"n": 1}, {"n": 3}], [])


def test_without_the_rollback_it_would_be_there(bench: Bench) -> None:
    bench.emit(n=1)
    bench.finish()
    bench.emit("b", n=2)
    bench.transaction.job_state.increment("x")
    bench.finish()
    bench.transaction.flush(is_last=True)
    [report] = bench.sent
    assert bench.values(report, 1) == [{"n": 2}]
    assert [op.op for op in report.ops] == ["increment"]


def test_events_keep_their_own_order_and_kinds_mix(bench: Bench) -> None:
    values: list[dict[str, Any]] = [
        {"n": 1},
        {"n": [1]},
        {"n": (1, {2})},
        {"n": 1 << 80},
        {"n": "\ud800"},
        {},
        {"n": b"x"},
    ]
    for value in values:
        bench.emit("b", **value)
        bench.emit("a", x=1)
    bench.finish()
    bench.transaction.flush(is_last=True)
    assert bench.values(bench.sent[0], 1) == values
    assert bench.values(bench.sent[0], 0) == [{"x": 1}] * len(values)


def test_late_sending_takes_what_is_finished_and_leaves_the_rest(bench: Bench) -> None:
    bench.transaction._flush_ns = 0
    bench.emit(n=1)
    bench.finish()
    bench.transaction.enter_handler()
    bench.transaction.emit(bench.routine.object, "a", {"n": 2})
    bench.transaction.flush_finished()
    assert [bench.values(c) for c in bench.sent] == [[{"n": 1}]]
    bench.transaction.flush_finished()
    assert len(bench.sent) == 1  # there is nothing new
    bench.transaction.leave_handler()
    bench.finish()
    bench.transaction.flush(is_last=True)
    assert bench.values(bench.sent[-1]) == [{"n": 2}]


def test_what_was_not_due_when_the_second_thread_looked_is_sent_when_it_is(bench: Bench) -> None:
    """It looks once too early, and the handler that runs by then goes on for ever."""
    transaction = bench.transaction
    transaction.job.info = transaction.job.info._replace(flush_ms=1.0)
    bench.finish()
    transaction.deadline_ns = due_ns = time.monotonic_ns() + 100_000_000
    transaction.enter_handler()
    sender = LateSender(transaction, Files())
    sender._wanted = Once()
    with pytest.raises(SystemExit):
        sender._run()
    assert transaction._reported_ns >= due_ns
    assert [c.done for c in bench.sent] == [1]
    assert not sender.is_awake
    transaction.leave_handler()


@pytest.mark.parametrize(("is_busy", "times"), [(False, 1), (True, BUSY_FLUSHES)])
def test_while_more_work_waits_reports_are_rarer(is_busy: bool, times: int) -> None:
    bench = Bench(flush_ms=1000)
    bench.transaction.open(bench.job, bench.routine, 2, 1000, is_busy=is_busy)
    now = time.monotonic_ns()
    assert not bench.transaction.succeed(now)
    assert bench.transaction.deadline_ns == now + times * 1_000_000_000


def test_what_runs_still_is_not_the_time_of_what_is_finished(bench: Bench) -> None:
    bench.transaction._flush_ns = 0
    opened = bench.transaction._busy_since_ns
    bench.finish()
    bench.transaction.started_ns = started = time.monotonic_ns()
    bench.transaction.enter_handler()
    bench.transaction.flush_finished()
    running_since = time.monotonic_ns()
    bench.transaction.leave_handler()
    bench.finish()
    bench.transaction.flush(is_last=True)
    first, second = bench.sent
    assert (first.done, second.done) == (1, 1)
    assert first.busy_ns == started - opened
    assert second.busy_ns >= running_since - started


def test_a_cursor_makes_what_came_before_it_permanent(bench: Bench) -> None:
    bench.emit(n=1)
    bench.transaction.commit_cursor(7)
    bench.emit(n=2)
    bench.transaction.rollback()
    bench.transaction.flush(is_last=True)
    [report] = bench.sent
    assert (report.done, bench.values(report)) == (0, [{"n": 1}])
    assert bench.routine.decode_cursor(report.cursor) == 7


def test_a_cursor_is_not_reported_once_the_activation_has_returned(bench: Bench) -> None:
    bench.transaction.commit_cursor(7)
    bench.finish()
    bench.transaction.flush(is_last=True)
    assert [(c.done, c.cursor) for c in bench.sent] == [(1, None)]


def test_commit_in_a_plain_handler_waits_when_it_is_far_ahead() -> None:
    bench = Bench(flush_ms=0.0)
    bench.page.numbers[INDEX] = 5
    for cursor in range(8):
        bench.transaction.enter_handler()
        bench.transaction.commit(cursor)
        bench.transaction.leave_handler()
    assert bench.waits == 2
    assert bench.page.numbers[INDEX] == 5
    bench.page.close()


def test_the_page_is_idle_while_a_report_is_sent(bench: Bench) -> None:
    bench.page.numbers[INDEX] = 3
    bench.finish()
    bench.transaction.flush()
    assert bench.page.running() == (0, -1, 0)


def test_an_unknown_event_is_named(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"Event 'c' not found in routine 'r'.*'a', 'b'"):
        bench.emit("c", n=1)


def test_a_caught_encoding_error_still_fails_the_activation() -> None:
    bench = Bench(keys=(b"k" * 32,))
    with pytest.raises(EmissionNotSerializable):
        bench.emit(value=(i for i in ()))
    with pytest.raises(EmissionNotSerializable, match="Routine 'r', event 'a'"):
        bench.finish()
    bench.transaction.rollback()
    bench.finish()  # the next one is not touched by it
    bench.page.close()


def test_files_of_a_failed_activation_are_removed(bench: Bench, tmp_path: Path) -> None:
    temporary = tmp_path / "half"
    temporary.write_text("half")
    bench.transaction.add_output(str(temporary), str(tmp_path / "whole"))
    bench.transaction.rollback()
    assert list(tmp_path.iterdir()) == []
    bench.transaction.add_output(str(temporary), str(tmp_path / "whole"))
    bench.finish()
    bench.transaction.flush(is_last=True)
    assert [op.value for op in bench.sent[0].ops] == [(str(temporary), str(tmp_path / "whole"))]


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    folder = tmp_path / "job" / "blobs" / "e0000001"
    folder.mkdir(parents=True)
    return folder


def test_only_large_batches_are_spilled(blobs: Path) -> None:
    bench = Bench(blob_dir=str(blobs), payload_inline_bytes_max=1000, batch_bytes_max=500)
    for size in (10, 5000, 10):
        bench.emit(data=b"x" * size)
        bench.finish()
    bench.transaction.flush(is_last=True)
    kinds = [is_reference(emit.batch.data or b"") for c in bench.sent for emit in c.emits]
    assert kinds.count(True) == 1
    assert [len(v["data"]) for c in bench.sent for v in bench.values(c)] == [10, 5000, 10]
    [file] = blobs.iterdir()
    names = {referred_blob(emit.batch.data or b"") for c in bench.sent for emit in c.emits}
    assert names - {None} == {f"e0000001/{file.name}"}
    bench.page.close()


def test_a_damaged_or_missing_blob_is_an_error(blobs: Path) -> None:
    bench = Bench(blob_dir=str(blobs), payload_inline_bytes_max=1000)
    bench.emit(data=b"x" * 5000)
    bench.finish()
    bench.transaction.flush(is_last=True)
    reference = bench.sent[0].emits[0].batch.data or b""
    [file] = blobs.iterdir()
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointDamaged):
        PayloadReader(str(blobs)).open(reference)
    file.unlink()
    with pytest.raises(CheckpointDamaged, match="missing"):
        PayloadReader(str(blobs)).open(reference)
    with pytest.raises(CheckpointDamaged, match="no blobs"):
        PayloadReader(None).open(reference)
    bench.page.close()


def test_a_full_disk_is_waited_for_until_the_work_is_revoked(blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(blob_dir=str(blobs), payload_inline_bytes_max=1000)
    tries = []

    def put(*_: Any) -> Any:
        tries.append(1)
        if len(tries) == 2:
            bench.page.set_lease(1)
        raise StorageBlocked

    monkeypatch.setattr(bench.transaction._files._spiller, "put", put)
    monkeypatch.setattr("routilux_mp._worker.files._BLOCKED_RETRY_S", 0.0)
    monkeypatch.setattr("routilux_mp._worker.files._BLOCKED_HELD_MAX", 1000)
    bench.emit(data=b"x" * 5000)
    bench.finish()
    assert bench.page.numbers[LEASE_NS] == 0
    with pytest.raises(HandedBack):
        bench.transaction.flush()
    assert len(tries) == 2
    bench.transaction.discard()
    bench.transaction.flush(is_last=True)
    assert [(c.done, c.emits, c.is_last) for c in bench.sent] == [(0, (), True)]
    bench.page.close()


def test_on_a_full_disk_a_payload_stays_in_the_report_for_the_supervisor_to_be_blocked_by(
    blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(blob_dir=str(blobs), payload_inline_bytes_max=1000)

    def put(*_: Any) -> Any:
        raise StorageBlocked

    monkeypatch.setattr(bench.transaction._files._spiller, "put", put)
    bench.emit(data=b"x" * 5000)
    bench.finish()
    bench.transaction.flush(is_last=True)
    (completion,) = bench.sent
    data = completion.emits[0].batch.data
    assert data is not None
    assert not is_reference(data)
    assert len(data) > 5000
    bench.page.close()


def test_items_join_to_what_a_batch_would_be() -> None:
    pack = ItemPacker().pack
    assert decode_batch(join_items([pack({"n": n}) for n in range(3)], has_marks=False), None, b"") == [
        {"n": n} for n in range(3)
    ]
    for count in (0, 1, 15, 16, 300, 70_000):
        assert len(decode_batch(join_items([b"\x01"] * count, has_marks=False), None, b"")) == count
    assert encode_item({"a": [1]}, None, b"")[1] == PLAIN
    assert encode_item({"a": (1,)}, None, b"")[1] == MARKED
    numpy = pytest.importorskip("numpy")
    assert encode_item({"a": numpy.zeros(100_000)}, None, b"")[1] == WHOLE


@pytest.mark.parametrize(
    "nest", [lambda v: v, lambda v: {"in": v}, lambda v: [[[[[v]]]]]], ids=["bare", "dict", "deep"]
)
@pytest.mark.parametrize(
    "value",
    [
        *(bytearray(size) for size in (0, 1, 200, 300, 70_000)),
        *(ExtType(5, b"x" * size) for size in (1, 2, 3, 4, 8, 16, 300, 70_000)),
        *(Timestamp(seconds) for seconds in (1, 1 << 33, 1 << 60)), Timestamp(1, 5),
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:30]}",
)  # fmt: skip
def test_what_packs_like_another_type_stays_what_it_is(value: Any, nest: Callable[[Any], Any]) -> None:
    bench = Bench(keys=(b"k" * 32,))
    bench.emit(v=nest(value))
    bench.finish()
    bench.transaction.flush(is_last=True)
    [batch] = [emit.batch for c in bench.sent for emit in c.emits]
    [found] = decode_batch(batch.data or b"", bench.job.signer, bench.routine.place_of("a"))
    assert found == {"v": nest(value)}
    while not isinstance(found, type(value)):
        [found] = found.values() if type(found) is dict else found
    assert type(found) is type(value)
    bench.page.close()


@pytest.mark.parametrize("value", [(2,), Decimal("1.5")])
def test_what_goes_alone_because_of_what_it_read_is_what_was_emitted(value: Any) -> None:
    bench = Bench(keys=(b"k" * 32,))
    bench.emit(v=1)
    bench.finish()
    bench.emit(v=value)
    bench.routine.state.update_shared_data("k", bench.routine.state.get_shared_data("k", 1))
    bench.finish()
    bench.transaction.flush(is_last=True)
    batches = [emit.batch for c in bench.sent for emit in c.emits]
    place = bench.routine.place_of("a")
    assert [decode_batch(b.data or b"", bench.job.signer, place) for b in batches] == [[{"v": 1}], [{"v": value}]]
    bench.page.close()


def test_what_a_report_could_not_hold_for_want_of_memory_is_in_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.routine.state.increment("n", 3)
    bench.emit(v=1)
    bench.finish()

    def fail(*arguments: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(transaction, "Completion", fail)
        with pytest.raises(MemoryError):
            bench.transaction.flush()
    bench.transaction.flush(is_last=True)
    [completion] = bench.sent
    assert [(op.op, op.key, op.value) for op in completion.ops] == [("increment", "n", 3)]
    assert (completion.done, bench.values(completion)) == (1, [{"v": 1}])


def test_what_is_said_of_an_emission_is_only_what_is_wrong_with_it(bench: Bench) -> None:
    with pytest.raises((EmissionNotSerializable, KeyUnavailable)) as caught:
        bench.emit(v=(1, threading.Lock()))
    assert "not packed" not in "".join(traceback.format_exception(caught.value))


def test_what_a_report_counts_is_one_sum_without_what_failed(bench: Bench) -> None:
    state = bench.routine.state
    for amount, is_good in ((1, True), (10, False), (100, True), (1000, True)):
        state.increment("n", amount)
        if is_good:
            bench.finish()
        else:
            bench.transaction.rollback()
    assert state.get_shared_data("n") == 1101
    state.rollback()
    bench.transaction.flush()
    state.increment("n", 5)
    bench.finish()
    bench.transaction.flush(is_last=True)
    assert [[(op.op, op.key, op.value) for op in c.ops] for c in bench.sent] == [
        [("increment", "n", 1101)], [("increment", "n", 5)]
    ]  # fmt: skip


def test_objects_move_in_batches_too() -> None:
    bench = Bench(keys=(b"k" * 32,), batch_count_max=100)
    values: list[Any] = [1, complex, [2], Decimal("1.5"), (3,), UUID(int=7), "x", range(3)]
    for _ in range(50):
        for value in values:
            bench.emit(v=value)
    bench.finish()
    bench.transaction.flush(is_last=True)
    batches = [emit.batch for c in bench.sent for emit in c.emits]
    assert max(b.count for b in batches) <= 100
    assert len(batches) < 20
    place, signer = bench.routine.place_of("a"), bench.job.signer
    found = [item["v"] for b in batches for item in decode_batch(b.data or b"", signer, place)]
    assert found == values * 50
    data = batches[0].data or b""
    whole = decode_batch(data, signer, place)
    for start in range(batches[0].count - 2):
        assert decode_batch(data, signer, place, start, 3) == whole[start : start + 3]
    with pytest.raises(CheckpointDamaged):
        decode_batch(data, signer, place, batches[0].count, 1)
    with pytest.raises(SignatureInvalid):
        decode_batch(data, signer, b"elsewhere")
    for size in range(0, len(data), 7):
        with pytest.raises((CheckpointDamaged, SignatureInvalid)):
            decode_batch(data[:size], signer, place)
    bench.page.close()


def test_a_failure_is_text_only() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    def raise_odd() -> None:
        raise Odd

    try:
        raise_odd()
    except Odd as error:
        failure = describe(error, False)
    assert failure.type_name.endswith("Odd")
    assert "Odd" in failure.message
    assert not failure.is_retryable
    long = describe(ValueError("x" * 1_000_000), True)
    assert len(long.message) < 10_000
    assert len(long.traceback) < 100_000


def test_the_running_activation_is_found_by_its_thread(bench: Bench) -> None:
    assert context.current() is None
    token = context.enter(bench.transaction)
    assert context.current() is bench.transaction
    context.leave(token)
    assert context.current() is None


def test_a_batch_given_in_parts_gives_every_handler_values_of_its_own() -> None:
    bench = Bench()
    data = encode_batch([{"v": [n]} for n in range(6)], None, b"").data
    batch = Batch(6, data)

    def part(start: int, count: int) -> list[Any]:
        # As over the wire: equal bytes, another object.
        return bench.job.decode_part(
            bench.routine, Part(0, -1, Batch(6, bytes(bytearray(batch.data or b""))), start, count)
        )

    first = part(0, 2)
    assert first == [{"v": [0]}, {"v": [1]}]
    first[1]["v"].append("changed by a handler that failed")
    assert part(2, 1) == [{"v": [2]}]
    other = encode_batch([{"v": n} for n in range(6)], None, b"").data
    assert bench.job.decode_part(bench.routine, Part(0, -1, Batch(6, other), 3, 2)) == [{"v": 3}, {"v": 4}]
    assert part(3, 1) == [{"v": [3]}]
    assert part(1, 2) == [{"v": [1]}, {"v": [2]}]
    assert part(5, 1) == [{"v": [5]}]
    assert part(0, 6) == [{"v": [n]} for n in range(6)]
    with pytest.raises(CheckpointDamaged):
        part(5, 2)
    bench.page.close()


def test_no_file_is_left_of_work_that_was_handed_back(blobs: Path, tmp_path: Path) -> None:
    """Neither of the activation that ran nor of those that had returned and were not reported."""
    bench = Bench(blob_dir=str(blobs), payload_inline_bytes_max=1000, batch_bytes_max=20_000)
    reported, returned, running = (tmp_path / name for name in ("reported", "returned", "running"))
    for file, emissions in ((reported, 1), (returned, 5), (running, 1)):
        file.write_text("half")
        bench.transaction.add_output(str(file), str(tmp_path / "whole"))
        for _ in range(emissions):
            bench.emit(data=b"x" * 5000)
        if file is not running:
            bench.finish()
        if file is reported:
            bench.transaction.flush()
    before = len(list(blobs.iterdir()))
    bench.transaction.abandon()
    assert [reported.exists(), returned.exists(), running.exists()] == [True, False, False]
    named = {referred_blob(e.batch.data or b"") for c in bench.sent for e in c.emits} - {None}
    assert {f"e0000001/{file.name}" for file in blobs.iterdir()} == named
    assert before > len(named)
    bench.page.close()


def test_what_is_emitted_before_the_first_activation_is_not_taken_for_hours_of_work(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A policy that is asked runs before any activation has begun."""
    for n in range(2000):
        bench.emit(n=n, text="x" * 100)
    assert not caplog.records
