"""Blobs on their way to the disk: handlers go on, reports wait, what the disk has lost is done again."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp._storage import files as storage_files
from routilux_mp._storage.blobs import put_blob_file
from routilux_mp._worker import files as worker_files
from routilux_mp._worker.files import Files, HandedBack
from routilux_mp._worker.spill import PayloadReader
from routilux_mp._worker.writing import Writers, Writing
from tests.unit.worker.test_transaction import Bench


def until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Info:
    """What :class:`Files` asks of a job."""

    is_durable = True

    def __init__(self, blob_dir: Path) -> None:
        self.blob_dir = str(blob_dir)


class Disk:
    """A disk that takes as long as the test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_finish = threading.Event()
        self.error: OSError | None = None
        self.synced = 0
        fsync = storage_files.RealFiles.fsync

        def slow(fs: Any, handle: int) -> None:
            assert self.may_finish.wait(30)
            if self.error is not None:
                raise self.error
            fsync(fs, handle)
            self.synced += 1

        monkeypatch.setattr(storage_files.RealFiles, "fsync", slow)
        monkeypatch.setattr(worker_files, "_BLOCKED_RETRY_S", 0.0)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, blobs: Path) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.may_finish.set()


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    folder = tmp_path / "job" / "blobs" / "e0000001"
    folder.mkdir(parents=True)
    put_blob_file(str(folder), "first", [b""])  # what the first one waits for besides, these tests are not about
    (folder / "first").unlink()
    return folder


@pytest.fixture
def files(disk: Disk) -> Iterator[Files]:
    files = Files(may_overlap=True)
    yield files
    disk.may_finish.set()
    files.close()


def put(files: Files, blobs: Path, content: bytes = b"x" * 5000) -> tuple[str, bytes]:
    """A blob of the running activation, as a transaction makes it."""
    placed = files.put(Info(blobs), [[content]], len(content), lambda: False)  # type: ignore[arg-type]
    assert placed is not None
    path, [reference] = placed
    files.add(path)
    return path, reference


def test_a_report_waits_for_its_blobs_and_the_handler_does_not(files: Files, disk: Disk, blobs: Path) -> None:
    put(files, blobs)  # returns, though the disk has not answered
    files.finish()
    assert files.is_writing
    assert not files.are_there
    sent: list[int] = []

    def report() -> None:
        files.give_away()
        sent.append(disk.synced)

    thread = threading.Thread(target=report)
    thread.start()
    thread.join(0.05)
    assert not sent
    disk.may_finish.set()
    thread.join(30)
    assert sent == [2], "the file and its directory were synced before the report went"
    assert not files.is_writing


def test_a_report_does_not_wait_for_what_the_running_activation_writes(files: Files, disk: Disk, blobs: Path) -> None:
    put(files, blobs)
    files.give_away()  # nothing finished: it would wait for ever
    assert not files.is_writing
    files.finish()
    assert files.is_writing


def test_what_was_written_earlier_can_go_while_the_latest_is_on_its_way(files: Files, disk: Disk, blobs: Path) -> None:
    disk.may_finish.set()
    put(files, blobs)
    files.finish()
    until(lambda: files.are_there)
    disk.may_finish.clear()
    put(files, blobs)
    assert files.are_there
    files.give_away()
    assert not files.are_there


def test_what_the_disk_has_lost_is_handed_back_and_nothing_is_left_of_it(files: Files, disk: Disk, blobs: Path) -> None:
    disk.error = OSError(errno.EIO, "lost")
    disk.may_finish.set()
    put(files, blobs)
    files.finish()
    for _ in range(2):  # by the second thread, then by the main one
        with pytest.raises(HandedBack):
            files.give_away()
    files.undo(with_finished=True)
    assert list(blobs.iterdir()) == []
    files.give_away()


def test_an_attempt_that_failed_is_not_waited_for(files: Files, disk: Disk, blobs: Path) -> None:
    path, _ = put(files, blobs)
    files.undo()
    files.give_away()
    disk.may_finish.set()
    files.close()
    assert not Path(path).exists()


def test_what_was_written_can_be_read_once_it_is_durable(files: Files, disk: Disk, blobs: Path) -> None:
    disk.may_finish.set()
    content = bytearray(b"before" * 1000)
    path, reference = put(files, blobs, content)  # type: ignore[arg-type]
    content[:6] = b"after!"  # the handler's own again
    files.finish()
    files.settle()
    files.give_away()
    assert bytes(PayloadReader(str(blobs)).open(reference)) == b"before" * 1000


def test_who_is_far_ahead_of_the_disk_waits() -> None:
    gate, writers = threading.Event(), Writers()
    made: list[Writing] = []

    def make() -> None:
        for _ in range(9):
            made.append(Writing(1, lambda: gate.wait(30) and None))
            writers.submit(made[-1])

    thread = threading.Thread(target=make)
    thread.start()
    until(lambda: len(made) == 9 and writers.is_behind)
    thread.join(0.05)
    assert thread.is_alive()
    gate.set()
    thread.join(30)
    assert not thread.is_alive()
    writers.close()
    assert all(writing.stands() for writing in made)


def test_what_was_committed_is_reported_while_the_next_is_written(files: Files, disk: Disk, blobs: Path) -> None:
    bench = Bench(blob_dir=str(blobs), payload_inline_bytes_max=1000, flush_ms=0)
    bench.transaction._files = files
    numpy = pytest.importorskip("numpy")
    bench.emit(data=numpy.full(100_000, 1.0))  # written as it is emitted
    bench.transaction.commit_cursor(1)
    assert bench.sent == [], "it is due, but it would have to wait for the disk"
    disk.may_finish.set()
    until(lambda: files.are_there)
    disk.may_finish.clear()
    bench.emit(data=numpy.full(100_000, 2.0))
    bench.transaction.commit_cursor(2)
    assert [bench.routine.decode_cursor(c.cursor) for c in bench.sent] == [1]
    disk.may_finish.set()
    bench.transaction.flush(is_last=True)
    assert [bench.values(c)[0]["data"][0] for c in bench.sent] == [1.0, 2.0]
    assert [len(bench.values(c)) for c in bench.sent] == [1, 1]
    assert bench.routine.decode_cursor(bench.sent[1].cursor) == 2
    bench.page.close()


def test_a_report_that_the_disk_has_lost_does_not_leave(files: Files, disk: Disk, blobs: Path) -> None:
    bench = Bench(blob_dir=str(blobs), payload_inline_bytes_max=1000, flush_ms=0)
    bench.transaction._files = files
    disk.error = OSError(errno.EIO, "lost")
    disk.may_finish.set()
    bench.emit(data=b"1" * 5000)
    bench.finish()
    with pytest.raises(HandedBack):
        bench.transaction.flush(is_last=True)
    bench.transaction.abandon()
    bench.transaction.flush(is_last=True)
    assert [(c.done, c.emits, c.is_last) for c in bench.sent] == [(0, (), True)], "all of it is handed back"
    assert list(blobs.iterdir()) == []
    bench.page.close()
