"""Blobs that nobody names are found in the log, whatever became of its files; those that are named stay."""

from __future__ import annotations

import logging

import pytest

from routilux_mp._storage.leftovers import Sweep, may_be_left
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.reader import LogRef
from tests.support.memory import MemoryFiles
from tests.support.stores import BASE, JOB, make_store, truth


def _blobs(disk: MemoryFiles) -> set[str]:
    return {path.removeprefix(f"{BASE}/blobs/") for path in disk.files(BASE) if "/blobs/" in path}


def _put(tenure: Tenure, *names: str) -> list[bytes]:
    return [tenure.put_blob(name, [b"large"]).name.encode() for name in names]


def _sweep(tenure: Tenure, sweep: Sweep) -> list[tuple[LogRef, bytes]]:
    told: list[tuple[LogRef, bytes]] = []
    tenure.sweep_blobs(sweep, lambda ref, frame: told.append((ref, frame)))
    return told


def _left_behind() -> tuple[MemoryFiles, Tenure]:
    """A job whose first owner died: one of its blobs is named in epoch 1, one in epoch 2, two nowhere."""
    disk = MemoryFiles()
    tenure = make_store(disk).create(JOB, b"{}")
    first, _ = _put(tenure, "7.a-1", "7.a-2")
    tenure.commit([b"nothing", b"x" + first])
    tenure.roll(b"")
    second, _ = _put(tenure, "7.a-3", "8.b-1")
    tenure.commit([second])
    return disk, make_store(disk, seed=2).take_over(JOB)[1]


def test_a_successor_deletes_what_no_commit_names() -> None:
    disk, tenure = _left_behind()
    _put(tenure, "7.c-1")
    assert len(_blobs(disk)) == 5
    told = _sweep(tenure, Sweep(tenure.epoch, tenure.epoch))
    assert _blobs(disk) == {"e0000001/7.a-1", "e0000002/7.a-3", "e0000003/7.c-1"}
    assert told == [(LogRef(1, 2, 1), b"xe0000001/7.a-1"), (LogRef(2, 2, 0), b"e0000002/7.a-3")]


def test_the_archive_is_read_where_the_commits_are_gone() -> None:
    disk, tenure = _left_behind()
    for state in (b"4", b"5", b"6"):
        tenure.roll(state)
        tenure.housekeep()
    assert f"{BASE}/epochs/e0000001/c00000002" not in disk.files(BASE)
    _sweep(tenure, Sweep(tenure.epoch, 3))
    assert _blobs(disk) == {"e0000001/7.a-1", "e0000002/7.a-3"}


def test_nothing_is_deleted_when_the_log_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    disk, tenure = _left_behind()
    place = f"{BASE}/epochs/e0000001/c00000002"
    raw = disk.files(BASE)[place]
    disk.set(place, raw[:-1] + bytes([raw[-1] ^ 1]))
    with caplog.at_level(logging.WARNING):
        _sweep(tenure, Sweep(tenure.epoch, tenure.epoch))
    assert len(_blobs(disk)) == 4
    assert any("leftover" in record.getMessage() for record in caplog.records)


def test_what_was_released_is_nobodys_any_more() -> None:
    disk, tenure = _left_behind()
    tenure.release_blobs(["e0000001/7.a-1"])
    told = _sweep(tenure, Sweep(tenure.epoch, tenure.epoch))
    assert [ref for ref, _ in told] == [LogRef(2, 2, 0)]
    assert "e0000001/7.a-1" in _blobs(disk), "it goes when both kept snapshots are newer"


def test_a_sweep_that_nobody_wants_any_more_deletes_nothing() -> None:
    disk, tenure = _left_behind()
    tenure.sweep_blobs(Sweep(tenure.epoch, tenure.epoch), lambda ref, frame: None, lambda: True)
    assert len(_blobs(disk)) == 4
    assert truth(disk)


@pytest.mark.parametrize(
    ("name", "is_left"),
    [
        ("e0000001/9.x-1", True),  # of another owner
        ("e0000002/5.x-1", False),  # its writer lives
        ("e0000002/9.x-1", True),
        ("e0000002/x-1", False),  # of whom?
        ("e0000003/9.x-1", False),  # it may have reported after that epoch had ended
        ("e0000004/9.x-1", False),
    ],
)
def test_whose_blobs_are_looked_through(name: str, is_left: bool) -> None:
    assert may_be_left(name, Sweep(epoch=4, first_epoch=2, living={5})) is is_left
