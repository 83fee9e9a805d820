"""A network client that answers "not there" from its cache: absence decides nothing (rule 6)."""

from __future__ import annotations

from typing import Any

import pytest

from routilux_mp._storage.put import LOOK_AGAIN_S, Putter
from routilux_mp.errors import OutcomeUnknown, RoutiluxError
from tests.support.memory import MemoryFiles
from tests.support.stores import JOB, committed, make_store, truth


class StaleFiles:
    """`disk` as a client sees it that has cached the absence of `hidden`.

    `link` is decided by the server, as on NFS. After it said EEXIST the name stays unseen for
    `looks` more looks.
    """

    has_paths = False

    def __init__(self, disk: MemoryFiles, hidden: str, looks: int) -> None:
        self._disk = disk
        self._hidden = hidden
        self._looks = looks
        self._told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def read(self, name: str, at: int, limit_bytes: int) -> bytes:
        self._look(name)
        return self._disk.read(name, at, limit_bytes)

    def read_range(self, name: str, at: int, offset: int, length: int) -> bytes:
        self._look(name)
        return self._disk.read_range(name, at, offset, length)

    def names(self, at: int) -> list[str]:
        return [name for name in self._disk.names(at) if name != self._hidden or self._looks == 0]

    def link_unnamed(self, handle: int, target: str, target_at: int) -> None:
        try:
            self._disk.link_unnamed(handle, target, target_at)
        except FileExistsError:
            self._told = self._told or target == self._hidden
            raise

    def _look(self, name: str) -> None:
        if name == self._hidden and self._looks:
            self._looks -= self._told
            raise FileNotFoundError(2, "No such file or directory", name)


def take_over_with_a_stale_view(looks: int) -> None:
    disk = MemoryFiles()
    owner = make_store(disk, seed=1).create(JOB, b"{}")
    owner.commit([b"1"])
    owner.commit([b"2"])  # c00000003: the successor's host does not see it
    log, tenure = make_store(StaleFiles(disk, "c00000003", looks), seed=2).take_over(JOB)
    assert committed(log) == [b"1", b"2"]
    tenure.commit([b"3"])
    assert truth(disk) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("looks", [1, 2, 5, len(LOOK_AGAIN_S)])
def test_a_commit_that_the_sealer_does_not_see(looks: int) -> None:
    take_over_with_a_stale_view(looks)


def test_one_that_is_never_seen_ends_in_a_named_error() -> None:
    with pytest.raises(OutcomeUnknown, match="may stand or not"):
        take_over_with_a_stale_view(1_000)


def test_mutant_a_sealer_that_does_not_look_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Putter, "read_standing", lambda self, at, read: read())
    with pytest.raises((AssertionError, RoutiluxError, OSError)):
        take_over_with_a_stale_view(5)


def test_an_open_that_a_reader_does_not_see_is_a_shorter_reading() -> None:
    """Never wrong, only older; and a take-over from it is fenced by the file that it cannot see."""
    disk = MemoryFiles()
    owner = make_store(disk, seed=1).create(JOB, b"{}")
    owner.commit([b"1"])
    owner.commit([b"2"])
    stale = make_store(StaleFiles(disk, "c00000003", 1_000), seed=2)
    assert committed(stale.read(JOB)) == [b"1"]
