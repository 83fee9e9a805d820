"""Whose directories are read and written: one's own, and a group's where the operator has said so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._storage import blobs, files
from routilux_mp._storage.blobs import BlobRef, map_blob, put_blob_file
from routilux_mp._storage.files import FileTooLarge, ForeignOwner, RealFiles
from routilux_mp._storage.store import Store
from routilux_mp.cli.jobs import list_jobs
from routilux_mp.errors import CheckpointDamaged, StorageError
from routilux_mp.settings import Settings


class Say(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.say)

    def say(self, **data: object) -> None:
        self.set_config(said=data)


def say() -> Flow:
    flow = Flow(flow_id="say")
    flow.add_routine(Say(), "say")
    return flow


@pytest.fixture
def job(tmp_path: Path) -> JobState:
    with Runtime(1, checkpoint_dir=str(tmp_path / "root"), backend="inline") as runtime:
        return runtime.exec(say(), {})


def become_somebody_else(monkeypatch: pytest.MonkeyPatch, group: int | None = None) -> None:
    """What another user's process would see; it may or may not be in the group of this one."""
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    monkeypatch.setattr(os, "getegid", lambda: -2 if group is None else group)
    monkeypatch.setattr(os, "getgroups", list)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_root_of_somebody_else_is_refused(tmp_path: Path, job: JobState, monkeypatch: pytest.MonkeyPatch) -> None:
    before, root = contents(tmp_path), str(tmp_path / "root")
    become_somebody_else(monkeypatch)
    with Store(root, Settings()) as store:
        for use in (store.prepare, store.jobs, store.job_ids):
            with pytest.raises(StorageError, match=r"belongs to user .* group_shared"):
                use()
    with pytest.raises(StorageError, match="belongs to user"):
        list_jobs(root)
    with Runtime(1, checkpoint_dir=root, backend="inline") as runtime, pytest.raises(StorageError, match="belongs to"):
        runtime.exec(say(), {})
    monkeypatch.undo()
    assert contents(tmp_path) == before


def test_a_job_of_somebody_else_in_ones_own_root_is_refused(
    tmp_path: Path, job: JobState, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, real = str(tmp_path / "root"), os.fstat
    inode = (tmp_path / "root" / job.job_id).stat().st_ino

    def of_two_users(handle: int) -> os.stat_result:
        found = real(handle)
        if found.st_ino != inode:
            return found
        return os.stat_result((*found[:4], found.st_uid + 1, *found[5:]))

    monkeypatch.setattr(files.os, "fstat", of_two_users)
    with Store(root, Settings()) as store, pytest.raises(StorageError, match=r"belongs to user"):
        store.read(job.job_id)
    [listed] = list_jobs(root)
    assert "belongs to user" in listed.trouble
    with Runtime(1, checkpoint_dir=root, backend="inline") as runtime, pytest.raises(StorageError, match="belongs to"):
        runtime.resume_job(job.job_id, say())


def test_a_group_shares_a_root_when_the_operator_says_so(
    tmp_path: Path, job: JobState, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = (tmp_path / "root").stat().st_gid
    become_somebody_else(monkeypatch, group)
    with Store(str(tmp_path / "root"), Settings(group_shared=True)) as store:
        assert store.jobs() == [job.job_id]
        assert store.read(job.job_id).epoch == 1
    with Store(str(tmp_path / "root"), Settings()) as store, pytest.raises(StorageError):
        store.jobs()
    become_somebody_else(monkeypatch, group + 1)
    with (
        Store(str(tmp_path / "root"), Settings(group_shared=True)) as store,
        pytest.raises(StorageError, match="group"),
    ):
        store.jobs()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_is_shared_is_written_for_the_group(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        with Runtime(1, checkpoint_dir=str(tmp_path / "root"), backend="inline", group_shared=True) as runtime:
            state = runtime.exec(say(), {})
        job = tmp_path / "root" / state.job_id
        put_blob_file(str(job / "blobs" / "e0000001"), "b-1", [b"payload"])  # as a worker does, who knows only the path
    finally:
        os.umask(old)
    for path in (tmp_path / "root").rglob("*"):
        mode = path.stat().st_mode & 0o7777
        # The lock is a courtesy, and the private files of one process are nobody else's.
        if path.name != "lock" and path.parent.name != "tmp":
            assert mode == (0o2770 if path.is_dir() else 0o660), path


def test_a_foreign_directory_leaves_no_descriptor_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become_somebody_else(monkeypatch)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ForeignOwner) as found:
        RealFiles().open_root(str(tmp_path), create=False)
    assert found.value.errno == errno.EACCES
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_endless_listing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / str(number)).touch()
    fs = RealFiles()
    at = fs.open_root(str(tmp_path), create=False)
    try:
        monkeypatch.setattr(files, "LISTING_COUNT_MAX", 5)
        assert sorted(fs.names(at)) == list("01234")
        monkeypatch.setattr(files, "LISTING_COUNT_MAX", 4)
        with pytest.raises(FileTooLarge, match="more than 4 names"):
            fs.names(at)
    finally:
        fs.close(at)


def test_a_blob_of_another_size_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "job" / "blobs" / "e0000001"
    folder.parent.parent.mkdir(mode=0o700)
    ref = put_blob_file(str(folder), "b-1", [b"p" * 100_000])
    read = []
    real = blobs.crc32

    def counting(data: bytes, before: int = 0) -> int:
        read.append(len(data))
        return real(data, before)

    monkeypatch.setattr(blobs, "crc32", counting)
    with pytest.raises(CheckpointDamaged, match="not the one"):
        map_blob(str(folder / "b-1"), BlobRef(ref.name, 7, ref.crc32))
    assert max(read) < 100
    assert bytes(map_blob(str(folder / "b-1"), ref)) == b"p" * 100_000


@pytest.mark.parametrize("swapped", ["job", "job/blobs", "job/blobs/e0000001"])
def test_a_symbolic_link_on_the_way_to_a_blob_is_not_followed(tmp_path: Path, swapped: str) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    folder = root / "job" / "blobs" / "e0000001"
    (root / "job").mkdir(mode=0o700)
    ref = put_blob_file(str(folder), "b-1", [b"payload"])
    elsewhere = tmp_path / "elsewhere"
    (root / swapped).rename(elsewhere)
    (root / swapped).symlink_to(elsewhere)
    with pytest.raises(CheckpointDamaged, match="not a regular file"):
        map_blob(str(folder / "b-1"), ref)
    with pytest.raises(StorageError):
        put_blob_file(str(folder), "b-2", [b"payload"])
    assert sorted(path.name for path in elsewhere.rglob("b-*")) == ["b-1"]
