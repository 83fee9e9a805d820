"""put-if-absent where the file system's error for "exists" says less than that."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from routilux_mp._storage.path_files import PathFiles
from routilux_mp._storage.put import Method, Putter
from routilux_mp.errors import Fenced, OutcomeUnknown
from tests.support.memory import MemoryFiles
from tests.support.stores import JOB, committed, make_store, truth


class Sshfs(MemoryFiles):
    """`link` to a name that exists says "not permitted", as sshfs does when the name was made a moment ago."""

    is_refusing = False
    is_reply_lost = False

    def _link(self, node: Any, target: str, target_at: int) -> None:
        if self.is_refusing:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), target)
        try:
            super()._link(node, target, target_at)
        except FileExistsError:
            if target.startswith("c0"):  # the probe, whose names the client knows, is told the truth
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), target) from None
            raise
        if self.is_reply_lost:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), target)


def test_another_ones_file_that_is_seen_means_lost_and_not_unknown() -> None:
    disk = Sshfs()
    tenure = make_store(disk).create(JOB, b"{}")
    tenure.commit([b"1"])
    _, successor = make_store(disk, seed=2).take_over(JOB)
    with pytest.raises(Fenced):
        tenure.commit([b"late"])
    successor.commit([b"2"])
    assert truth(disk) == [b"1", b"2"]


def test_ones_own_file_that_is_seen_stands() -> None:
    disk = Sshfs()
    tenure = make_store(disk).create(JOB, b"{}")
    disk.is_reply_lost = True
    tenure.commit([b"1"])
    disk.is_reply_lost = False
    tenure.commit([b"2"])
    assert committed(make_store(disk, seed=3).read(JOB)) == [b"1", b"2"]


def test_where_nothing_is_seen_the_outcome_is_unknown() -> None:
    disk = Sshfs()
    tenure = make_store(disk).create(JOB, b"{}")
    disk.is_refusing = True
    with pytest.raises(OutcomeUnknown, match="may stand or not"):
        tenure.commit([b"1"])


class WindowsFiles(PathFiles):
    """As there on a disk without hard links: what Python has open cannot be renamed."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: dict[int, str] = {}

    def create(self, name: str, at: int) -> int:
        handle = super().create(name, at)
        self.opened[handle] = self._path(name, at)
        return handle

    def close(self, handle: int) -> None:
        self.opened.pop(handle, None)
        super().close(handle)

    def link(self, name: str, at: int, target: str, target_at: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links")

    def move(self, name: str, at: int, target: str, target_at: int) -> None:
        source, there = self._path(name, at), self._path(target, target_at)
        if source in self.opened.values():
            raise PermissionError(errno.EACCES, "being used by another process")
        if os.path.exists(there):
            raise FileExistsError(errno.EEXIST, "exists")
        os.rename(source, there)


def test_what_is_moved_is_not_open_any_more(tmp_path: Path) -> None:
    files = WindowsFiles()
    at = files.open_root(str(tmp_path), create=True)
    putter = Putter(files, b"owner")
    putter.probe(at, single_host=True, where="here")
    assert putter.method is Method.MOVED
    assert putter.put(at, at, "c", (b"1" * 200,), where="here")
    assert not putter.put(at, at, "c", (b"2" * 200,), where="here")
    assert (tmp_path / "c").read_bytes() == b"1" * 200
    assert os.listdir(tmp_path) == ["c"]
