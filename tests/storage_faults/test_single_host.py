"""A root without hard links, which one host has to itself: files get their names by a rename that replaces nothing.

So there is never a half of one: what a killed writer leaves under a name is whole, or is not there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from routilux_mp._storage import frames
from routilux_mp._storage.files import RealFiles
from routilux_mp._storage.put import Method
from routilux_mp._storage.store import Store
from routilux_mp.errors import Fenced, MultiHostUnsupported, RoutiluxError, StorageError
from routilux_mp.settings import Settings
from tests.support.faulty import Crashed, FaultyFiles
from tests.support.memory import MemoryFiles
from tests.support.stores import BASE, JOB, committed, make_store

K_MAX = 400


def a_disk() -> MemoryFiles:
    disk = MemoryFiles()
    disk.can_unnamed = disk.can_link = False
    return disk


def store_on(fs: object, seed: int = 0) -> Store:
    return make_store(fs, seed, single_host=True)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [None, errno.EIO, errno.ENOSPC], ids=["killed", "EIO", "ENOSPC"])
def test_a_life_with_one_fault(error: int | None, when: str) -> None:
    for k in range(1, K_MAX):
        disk, acknowledged = a_disk(), list[bytes]()
        fs = FaultyFiles(disk, k, error=error, when=when)  # type: ignore[arg-type]
        try:
            tenure = store_on(fs).create(JOB, b"{}")
            for data in (b"1", b"2"):
                tenure.commit([data])
                acknowledged.append(data)
            tenure.roll(b"state")
            tenure.commit([b"3"])
            acknowledged.append(b"3")
            tenure.write_views(None, b'{"status": "completed"}')
            tenure.seal("ended")
        except (RoutiluxError, Crashed):
            assert fs.fired is not None
        for path, raw in disk.files().items():
            if path.startswith(f"{BASE}/epochs/"):
                frames.decode(raw, path)
        try:
            log, successor = store_on(disk, 2).take_over(JOB)
        except RoutiluxError:
            assert not acknowledged
        else:
            assert committed(log)[: len(acknowledged)] == acknowledged
            successor.commit([b"4"])
            assert committed(store_on(disk, 3).read(JOB)) == [*committed(log), b"4"]
        if fs.fired is None:
            assert k > 60
            return
    raise AssertionError(f"still failing after {K_MAX} operations")


def test_a_commit_against_a_take_over_at_every_operation() -> None:
    outcomes = set()
    for k in range(1, K_MAX):
        disk = a_disk()
        fs = FaultyFiles(disk)
        owner = store_on(fs, 1).create(JOB, b"{}")
        seen: list[list[bytes]] = []

        def rival(disk: MemoryFiles = disk, seen: list[list[bytes]] = seen) -> None:
            log, tenure = store_on(disk, 2).take_over(JOB)
            seen.append(committed(log))
            tenure.commit([b"rival"])

        fs.__init__(disk, k, action=rival)  # type: ignore[misc]
        try:
            owner.commit([b"1"])
            is_acknowledged = True
        except Fenced:
            is_acknowledged = False
        if fs.fired is None:
            break
        outcomes.add(is_acknowledged)
        assert seen[0] == ([b"1"] if is_acknowledged else [])
    assert outcomes == {True, False}


class Linkless(RealFiles):
    """As exFAT: names cannot be linked."""

    def create_unnamed(self, at: int) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def link(self, name: str, at: int, target: str, target_at: int) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[Store]]:
    stores = [Store(str(tmp_path / "root"), Settings(single_host=True), fs=Linkless()) for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


def test_on_a_real_disk(stores: list[Store], tmp_path: Path) -> None:
    first, second = stores
    tenure = first.create("job", b"{}")
    assert first._root.putter.method is Method.MOVED
    tenure.commit([b"1"])
    log, successor = second.take_over("job")
    with pytest.raises(Fenced):
        tenure.commit([b"late"])
    successor.commit([b"2"])
    successor.write_views(None, b'{"by": "successor"}')
    tenure.write_views(None, b'{"by": "old"}')
    assert committed(first.read("job")) == [b"1", b"2"]
    assert first.read_views("job")[1] == b'{"by": "successor"}'
    assert log.seal_reason == "takeover"
    assert len(os.listdir(tmp_path / "root/tmp")) == 2, "the ballasts"
    for each in (tenure, successor):
        each.close()


def test_a_move_replaces_nothing(tmp_path: Path) -> None:
    files = RealFiles()
    at = files.open_root(str(tmp_path), create=False)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(FileExistsError):
        files.move("a", at, "b", at)
    assert (tmp_path / "b").read_text() == "b"
    with pytest.raises(FileNotFoundError):
        files.move("c", at, "d", at)
    files.move("a", at, "c", at)
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]
    assert (tmp_path / "c").read_text() == "a"
    files.close(at)


def test_where_several_hosts_may_come_it_is_refused() -> None:
    with pytest.raises(MultiHostUnsupported, match="single_host=True"):
        make_store(a_disk()).prepare()


def test_where_a_rename_replaces_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFiles, "move", MemoryFiles.replace)
    with pytest.raises(StorageError, match=r"a second link to the same name did not fail.*another file system"):
        store_on(a_disk()).prepare()


def test_where_there_is_no_such_rename_it_is_refused() -> None:
    disk = a_disk()
    disk.can_move = False
    with pytest.raises(StorageError, match=r"neither hard links nor renames.*Invalid argument.*another file system"):
        store_on(disk).create(JOB, b"{}")
    assert disk.files("root") == {}
