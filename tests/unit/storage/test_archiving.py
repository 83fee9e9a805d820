"""Archiving an ended epoch: in little memory, however large it is, and only what is the same when it is written."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

from routilux_mp._storage.store import Store
from routilux_mp.settings import Settings
from tests.support.faulty import FaultyFiles
from tests.support.memory import MemoryFiles
from tests.support.stores import BASE, JOB, make_store, truth

FRAME_BYTES = 100_000
COMMITS = 150


def test_an_epoch_is_archived_in_little_memory(tmp_path: Path) -> None:
    content = os.urandom(FRAME_BYTES)
    with Store(str(tmp_path), Settings()) as store:
        tenure = store.create(JOB, b"{}")
        for _ in range(COMMITS):
            tenure.commit([content])
        tenure.roll(b"state")
        tracemalloc.start()
        try:
            tenure.housekeep()
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        tenure.close()
    assert os.path.getsize(tmp_path / JOB / "archive" / "e0000001") > COMMITS * FRAME_BYTES
    assert most < 10 * FRAME_BYTES, f"{most} bytes for an epoch of {COMMITS * FRAME_BYTES}"


def test_what_changes_while_it_is_archived_is_not_archived() -> None:
    disk = MemoryFiles()
    commit = f"{BASE}/epochs/e0000001/c00000002"
    changed: list[bytes] = []

    def change() -> None:
        raw = disk.files(BASE)[commit]
        changed.append(raw)
        disk.set(commit, raw[:-1] + bytes([raw[-1] ^ 1]))

    files = FaultyFiles(disk)
    tenure = make_store(files).create(JOB, b"{}")
    tenure.commit([b"1"])
    tenure.roll(b"state")
    before = set(disk.handles)
    # The first file that housekeeping makes is the snapshot; by the second one the epoch has been read.
    is_made = lambda name, args: name == "create_unnamed"  # noqa: E731
    files.__init__(disk, 2, only=is_made, action=change)  # type: ignore[misc]
    tenure.housekeep()
    assert changed
    assert not [path for path in disk.files(BASE) if "/archive/" in path]
    assert set(disk.handles) <= before, "nothing is left open"
    disk.set(commit, changed[0])
    tenure.housekeep()
    assert f"{BASE}/archive/e0000001" in disk.files(BASE)
    assert truth(disk) == [b"1"]
