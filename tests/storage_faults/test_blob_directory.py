"""What a commit names is there after a power cut, also when the fsync of a blob or of a directory has failed once.

A failed fsync says that something was not written, and the next one, which succeeds, does not say that it was
written since: the kernel has dropped it. So nothing that it was for may be relied upon.
"""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.job import Job
from routilux_mp._core.records import Completed
from routilux_mp._core.stimuli import Emit
from routilux_mp._core.topology import Topology
from routilux_mp._serialization.packing import pack
from routilux_mp._storage.blobs import BlobRef, map_blob, put_blob_file
from routilux_mp._storage.files import RealFiles
from routilux_mp._storage.log import Tenure
from routilux_mp._supervisor.blob_uses import BlobUses
from routilux_mp._supervisor.clock import SystemClock
from routilux_mp._supervisor.commits import Commit
from routilux_mp._worker.spill import REFERENCE
from routilux_mp.errors import CheckpointDamaged, OutcomeUnknown, StorageBlocked, StorageError
from tests.support.faulty import FaultyFiles
from tests.support.memory import Dir, File, MemoryFiles, Node
from tests.support.stores import BASE, JOB, ROOT, committed, make_store


class ForgetfulFiles(MemoryFiles):
    """The k-th fsync fails, and what it was for never comes to the disk, whatever is fsynced later."""

    fails_at = 0
    count = 0

    def __init__(self, root: Dir | None = None) -> None:
        super().__init__(root)
        self._forgotten: list[tuple[Node, str]] = []

    def fsync(self, handle: int) -> None:
        node = self.handles[handle]
        kept = dict(node.durable) if isinstance(node, Dir) else node.durable if isinstance(node, File) else None
        self.count += 1
        if self.count == self.fails_at:
            if isinstance(node, Dir):
                self._forgotten += [(node, name) for name in node.names if name not in node.durable]
            else:
                self._forgotten.append((node, ""))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fsync(handle)
        for forgotten, name in self._forgotten:
            if forgotten is node and isinstance(node, Dir):
                node.durable.pop(name, None)
            elif forgotten is node and isinstance(node, File):
                assert isinstance(kept, bytes)
                node.durable = kept


def put_again(disk: ForgetfulFiles, tenure: Tenure, numbers: itertools.count[int]) -> BlobRef:
    """As a worker does: what is blocked is put again, under another name."""
    folder = f"{ROOT}/{JOB}/blobs/e{tenure.epoch:07d}"
    while True:
        try:
            return put_blob_file(folder, f"w-{next(numbers)}", [b"payload"], fs=disk)
        except StorageBlocked:
            continue


def a_life(disk: ForgetfulFiles, acknowledged: list[BlobRef]) -> None:
    """Commits, each of which names a blob that a worker has put, in two epochs."""
    tenure = make_store(disk).create(JOB, b"{}")
    numbers = itertools.count()
    for number in range(4):
        ref = put_again(disk, tenure, numbers)
        while True:
            try:
                Commit(tenure, [[ref.name.encode()]], None, [], [], None, SystemClock(), [ref.name.partition("/")[0]])()
            except StorageBlocked:
                continue
            break
        acknowledged.append(ref)
        if number == 1:
            tenure.roll(b"state")


def test_a_failed_fsync_is_never_relied_upon() -> None:
    ended = 0
    for k in itertools.count(1):
        disk, acknowledged = ForgetfulFiles(), list[BlobRef]()
        disk.fails_at = k
        try:
            a_life(disk, acknowledged)
        except StorageError:
            ended += 1
        after = disk.after_power_cut()
        named = [] if not acknowledged else [name.decode() for name in committed(make_store(after, seed=1).read(JOB))]
        assert set(named) >= {ref.name for ref in acknowledged}, "an acknowledged commit is lost"
        for ref in acknowledged:
            path = f"{BASE}/blobs/{ref.name}"
            assert path in after.files(BASE), f"the blob of an acknowledged commit is lost (fsync {k} failed)"
            assert bytes(map_blob(f"/{path}", ref, fs=after)) == b"payload"
        if disk.count < k:
            assert len(acknowledged) == 4
            assert ended > 8
            return


def test_who_owns_the_job_gives_it_up_when_a_directory_of_blobs_may_be_lost() -> None:
    disk = MemoryFiles()
    files = FaultyFiles(disk)
    tenure = make_store(files).create(JOB, b"{}")
    files.__init__(disk, 1, error=errno.EIO, only=lambda operation, args: operation == "fsync")  # type: ignore[misc]
    with pytest.raises(OutcomeUnknown, match=r"blobs/e0000001.*gives the job up"):
        tenure.secure_blobs(["e0000001"])
    with pytest.raises(OutcomeUnknown):
        tenure.commit([b"names a blob"])
    successor = make_store(disk, seed=2).take_over(JOB)[1]
    successor.secure_blobs(["e0000002"])
    successor.commit([b"1"])


def test_one_that_cannot_be_made_is_made_later() -> None:
    disk = MemoryFiles()
    files = FaultyFiles(disk)
    tenure = make_store(files).create(JOB, b"{}")
    files.__init__(disk, 1, error=errno.ENOSPC, only=lambda operation, args: operation == "make_dir")  # type: ignore[misc]
    with pytest.raises(StorageBlocked):
        tenure.secure_blobs(["e0000001"])
    tenure.secure_blobs(["e0000001"])
    tenure.commit([b"1"])


def test_it_is_made_durable_once() -> None:
    disk = MemoryFiles()
    files = FaultyFiles(disk)
    tenure = make_store(files).create(JOB, b"{}")
    files.journal.clear()
    for _ in range(3):
        tenure.secure_blobs(["e0000001"])
    assert files.journal.count("fsync") == 2, "blobs/ in the job's directory, and the epoch's in that"


@pytest.mark.parametrize("nth", [1, 2])
def test_a_blob_that_may_be_lost_is_removed(nth: int, tmp_path: Path) -> None:
    """Its content, or its name in its directory: nobody names it, and the next attempt has another name."""
    job = tmp_path / "job"
    job.mkdir()
    folder = f"{job}/blobs/e0000001"
    files = FaultyFiles(RealFiles(), nth, error=errno.EIO, only=lambda operation, args: operation == "fsync")
    with pytest.raises(StorageBlocked, match="Input/output error"):
        put_blob_file(folder, "a-1", [b"payload"], fs=files)
    assert os.listdir(folder) == []
    put_blob_file(folder, "a-2", [b"payload"], fs=files)
    assert bytes(map_blob(f"{folder}/a-2")) == b"payload"
    with pytest.raises(CheckpointDamaged):
        map_blob(f"{folder}/a-1")


def test_which_directories_a_commit_has_to_see_to() -> None:
    uses, job = BlobUses(keeps_results=False), Job("j")
    job.topology = Topology("f", "concurrent", (), ())
    for name in ("e0000001/a-1", "e0000001/a-2", "e0000003/a-3"):
        reference = REFERENCE + pack((name, 7, 0, 0, 7))
        uses.note(job, Completed(1, 0, (0, 1), (Emit(0, Batch(1, reference)), Emit(0, Batch(1, b"plain")))))
    assert uses.take_folders() == {"e0000001", "e0000003"}
    assert uses.take_folders() == set()
