"""Every single wrong "does not exist" that a network client may give: nothing is concluded from it (rule 6).

Each file and each directory of a job that has been rolled, archived and collected is believed to be
missing in turn, until the directory that holds it is listed anew.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from routilux_mp._storage.place import Place
from routilux_mp.errors import CheckpointDamaged, Fenced, OutcomeUnknown
from tests.support.faulty import OPERATIONS, FaultyFiles
from tests.support.memory import Dir, MemoryFiles
from tests.support.stores import BASE, JOB, committed, make_store, truth


class ForgetfulFiles:
    """`disk`, with one path believed to be missing until its directory is listed."""

    def __init__(self, disk: MemoryFiles, path: str) -> None:
        self.has_paths = False
        self._disk = disk
        folder, _, self._name = path.rpartition("/")
        self._folder = disk.node(folder)
        self.has_lied = False
        self._believes = True

    def __getattr__(self, name: str) -> Any:
        if name not in OPERATIONS:
            raise AttributeError(name)
        return getattr(self._disk, name)

    def names(self, at: int) -> list[str]:
        if self._disk.handles[at] is self._folder:
            self._believes = False
        return self._disk.names(at)

    def open_dir(self, name: str, at: int) -> int:
        self._look_up(name, at)
        return self._disk.open_dir(name, at)

    def read(self, name: str, at: int, limit_bytes: int) -> bytes:
        self._look_up(name, at)
        return self._disk.read(name, at, limit_bytes)

    def read_range(self, name: str, at: int, offset: int, length: int) -> bytes:
        self._look_up(name, at)
        return self._disk.read_range(name, at, offset, length)

    def _look_up(self, name: str, at: int) -> None:
        if self._believes and name == self._name and self._disk.handles[at] is self._folder:
            self.has_lied = True
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def a_long_life() -> MemoryFiles:
    """Six epochs, the first three of them collected, the last one open."""
    disk = MemoryFiles()
    tenure = make_store(disk).create(JOB, b"{}")
    for epoch in range(1, 6):
        tenure.commit([b"%d" % epoch])
        tenure.roll(b"state at the end of %d" % epoch)
        tenure.housekeep()
    tenure.commit([b"6"])
    return disk


def paths(disk: MemoryFiles, at: str = BASE) -> list[str]:
    node = disk.node(at)
    if not isinstance(node, Dir):
        return [at]
    return [at, *(path for name in node.names for path in paths(disk, f"{at}/{name}"))]


#: What a reader of the log looks up; format.json is put before anything else and never replaced.
EVERYTHING = truth(a_long_life())
PATHS = [path for path in paths(a_long_life())[1:] if not path.endswith(".json")]


@pytest.mark.parametrize("path", PATHS)
def test_what_is_believed_missing_is_not_lost(path: str) -> None:
    disk = a_long_life()
    everything = truth(disk)
    forgetful = ForgetfulFiles(disk, path)
    log = make_store(forgetful, seed=1).read(JOB)
    read = committed(log)
    assert read == everything[: len(read)]
    try:
        log, tenure = make_store(ForgetfulFiles(disk, path), seed=2).take_over(JOB)
    except Fenced:
        assert truth(disk) == everything
        return
    assert committed(log) == everything
    tenure.commit([b"7"])
    assert truth(disk) == [*everything, b"7"]


def read_from_the_first_epoch(path: str) -> tuple[list[bytes], bool]:
    """What a reader that sees no snapshot reads, and whether it was lied to."""
    disk = a_long_life()
    folder = disk.node(f"{BASE}/snapshots")
    assert isinstance(folder, Dir)
    folder.names.clear()
    forgetful = ForgetfulFiles(disk, path)
    return committed(make_store(forgetful, seed=1).read(JOB)), forgetful.has_lied


@pytest.mark.parametrize("path", [path for path in PATHS if "/snapshots/" not in path])
def test_a_reader_that_begins_at_the_first_epoch(path: str) -> None:
    """As above: the newest snapshots are not listed yet."""
    read, _ = read_from_the_first_epoch(path)
    assert read == EVERYTHING[: len(read)]


def test_the_lies_are_told() -> None:
    """The tests above are not about nothing."""
    lied = [path for path in PATHS if read_from_the_first_epoch(path)[1]]
    assert len(lied) > 20, lied


def test_mutant_a_reader_that_concludes_from_absence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Place, "look_again", lambda self, wait_s, *folders: None)
    with pytest.raises(CheckpointDamaged):
        list(map(read_from_the_first_epoch, PATHS))


def others_go_on_at_operation(k: int) -> bool:
    """A standby's SEAL finds its place just taken; at its k-th operation from then on the owner rolls and collects.

    Whether the take-over had that many operations.
    """
    disk = MemoryFiles()
    owner = make_store(disk, seed=1).create(JOB, b"{}")
    acknowledged: list[bytes] = []
    reached = False

    def commit(data: bytes) -> None:
        owner.commit([data])
        acknowledged.append(data)

    def is_seal(name: str, args: tuple[Any, ...]) -> bool:
        return name.startswith("link") and args[-2] == "c00000002"

    def from_then_on(name: str, args: tuple[Any, ...]) -> bool:
        nonlocal reached
        reached = reached or is_seal(name, args)
        return reached

    def go_on() -> None:
        try:
            for epoch in range(3):
                commit(b"later %d" % epoch)
                owner.roll(b"state")
                owner.housekeep()
        except Fenced:
            pass  # the standby was quicker

    taken = FaultyFiles(disk, 1, only=is_seal, action=lambda: commit(b"1"))
    fs = FaultyFiles(taken, k, only=from_then_on, action=go_on)
    try:
        log, _ = make_store(fs, seed=3).take_over(JOB)
    except (Fenced, OutcomeUnknown):
        pass  # given up by name
    else:
        assert committed(log) == acknowledged
    assert truth(disk) == acknowledged
    return fs.fired is not None


def test_a_place_that_is_collected_while_a_standby_looks_at_it() -> None:
    """The COMMIT it found there may be gone for good before it can be read: others have gone on."""
    tried = next(k for k in range(1, 300) if not others_go_on_at_operation(k))
    assert tried > 30
