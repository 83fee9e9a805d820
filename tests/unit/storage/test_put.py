"""put-if-absent where the file system's error for "exists" says less than that."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

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
