"""The store on a real directory: what is there afterwards, what is refused, what errors say."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp._storage import blobs, views
from routilux_mp._storage.files import RealFiles
from routilux_mp._storage.protocols import CommitRight, JobReading
from routilux_mp._storage.put import Method
from routilux_mp._storage.store import Store
from routilux_mp.errors import (
    CheckpointDamaged,
    Fenced,
    MultiHostUnsupported,
    StorageBlocked,
    StorageError,
    UnknownName,
    UsageError,
)
from routilux_mp.settings import Settings
from tests.support.faulty import READING, FaultyFiles
from tests.support.memory import Dir, MemoryFiles
from tests.support.stores import BASE, JOB, committed, make_store, truth


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "root"), Settings()) as store:
        yield store


def test_a_small_job_is_a_few_files(store: Store, tmp_path: Path) -> None:
    tenure = store.create("small", b'{"flow": "f"}')
    tenure.commit([b"1"])
    tenure.seal("ended")
    tenure.write_views(None, b'{"status": "completed"}')
    found = sorted(str(path.relative_to(tmp_path / "root/small")) for path in tmp_path.glob("root/small/**/*"))
    assert found == [
        "epochs",
        "epochs/e0000001",
        "epochs/e0000001/c00000001",
        "epochs/e0000001/c00000002",
        "epochs/e0000001/c00000003",
        "flow.json",
        "format.json",
        "job_state.json",
    ]
    assert (tmp_path / "root/small/format.json").read_text() == '{"format": 1, "min_reader": 1, "features": []}'
    shown = json.loads((tmp_path / "root/small/job_state.json").read_text())
    assert shown["status"] == "completed"
    assert shown["checkpoint"] == {"epoch": 1, "commit": 3}
    for path in tmp_path.glob("root/small/**/*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_whole_life_on_a_real_disk(store: Store) -> None:
    tenure: CommitRight = store.create("job", b"{}")
    expected = []
    for at in range(1, 7):
        tenure.commit([b"%d" % at, [b"in ", b"pieces"]])
        expected += [b"%d" % at, b"in pieces"]
        tenure.roll(b"state %d" % at)
        tenure.housekeep()
    reading: JobReading = store.read("job")
    assert reading.snapshot == b"state 6"
    assert list(reading.frames()) == []
    assert [data for _, data in reading.history()] == expected
    assert [tenure.read(ref) for ref, _ in reading.history()] == expected
    assert not reading.is_sealed
    assert reading.owner == store.owner
    tenure.close()
    with pytest.raises(Fenced, match="closed in this process"):
        tenure.commit([b"late"])
    log, successor = store.take_over("job", log=store.read("job"))
    assert (log.epoch, log.seal_reason, successor.epoch) == (7, "takeover", 8)
    successor.seal("handover")
    assert store.read("job").seal_reason == "handover"


def test_positions_and_refs(store: Store) -> None:
    tenure = store.create("job", b"{}")
    assert tenure.next_position() == (1, 2)
    tenure.commit([b"a", b"b"])
    assert tenure.next_position() == (1, 3)
    tenure.roll(b"s")
    assert tenure.next_position() == (2, 2)
    tenure.commit([b"c"])
    assert [tuple(ref) for ref, _ in store.read("job").history()] == [(1, 2, 0), (1, 2, 1), (2, 2, 0)]
    tenure.close()


def test_an_empty_commit_is_a_commit(store: Store) -> None:
    tenure = store.create("job", b"{}")
    tenure.commit([])
    tenure.commit([b""])
    assert committed(store.read("job")) == [b""]
    tenure.close()


def test_jobs_newest_first(store: Store, tmp_path: Path) -> None:
    assert store.jobs() == []
    for at, name in enumerate(("old", "new", "newest")):
        store.create(name, b"{}").close()
        os.utime(tmp_path / "root" / name, (at, at))
    (tmp_path / "root/README.md").write_text("not a job")
    assert store.jobs() == ["newest", "new", "old"]
    paths = store.view_paths("new")
    assert Path(paths.flow).exists()
    assert paths.job.endswith("/root/new")


def test_what_is_not_there(store: Store, tmp_path: Path) -> None:
    store.prepare()
    for use in (store.read, store.take_over):
        with pytest.raises(UnknownName, match="no job 'nothing' in"):
            use("nothing")
    (tmp_path / "root/other").mkdir()
    with pytest.raises(UnknownName):
        store.read("other")
    with pytest.raises(UnknownName):
        Store(str(tmp_path / "missing"), Settings()).read("job")
    assert not (tmp_path / "missing").exists(), "reading made something"


def test_reading_never_writes() -> None:
    disk = MemoryFiles()
    with make_store(disk) as store:
        tenure = store.create(JOB, b"{}")
        tenure.commit([b"1"])
        tenure.roll(b"state")
        tenure.housekeep()
        tenure.close()
    fs = FaultyFiles(disk)
    with make_store(fs) as reader:
        log = reader.read(JOB)
        list(log.history())
        reader.read_views(JOB)
        reader.jobs()
    assert set(fs.journal) <= READING


def test_no_handle_is_left_open() -> None:
    disk = MemoryFiles()
    with make_store(disk) as store:
        tenure = store.create(JOB, b"{}")
        for at in range(3):
            tenure.commit([b"1"])
            tenure.roll(b"%d" % at)
            tenure.housekeep()
        tenure.write_views(b"{}", b"{}")
        tenure.put_blob("b-1", [b"x"])
        list(store.read(JOB).history())
        store.take_over(JOB)[1].close()
        with pytest.raises(Fenced):
            tenure.commit([b"2"])
    assert disk.handles == {}
    assert disk.files("root/tmp") == {}


def test_a_job_of_views_only_can_be_taken_over(tmp_path: Path) -> None:
    """Copied from somewhere, or written by `job_state.save()`."""
    job = tmp_path / "root" / "copied"
    job.mkdir(parents=True)
    (job / "flow.json").write_text('{"flow_id": "f"}')
    (job / "job_state.json").write_text('{"status": "paused"}')
    with Store(str(tmp_path / "root"), Settings()) as store:
        assert store.read("copied").epoch == 0
        assert store.read_views("copied") == (b'{"flow_id": "f"}', b'{"status": "paused"}')
        log, tenure = store.take_over("copied")
        assert (log.epoch, log.owner, tenure.epoch) == (0, None, 1)
        tenure.commit([b"imported"])
        tenure.write_views(None, b'{"status": "running"}')
        assert committed(store.read("copied")) == [b"imported"]
        assert store.read_views("copied")[1] == b'{"status": "running"}'
        tenure.close()


def test_a_view_never_replaces_a_newer_one() -> None:
    disk = MemoryFiles()
    old = make_store(disk, seed=1).create(JOB, b"{}")
    new = make_store(disk, seed=2).take_over(JOB)[1]
    new.write_views(None, b'{"by": "new"}')
    old.write_views(None, b'{"by": "old"}')
    assert make_store(disk).read_views(JOB)[1] == b'{"by": "new"}'
    new.write_views(None, b'{"by": "new again"}', (2, 1))
    assert make_store(disk).read_views(JOB)[1] == b'{"by": "new again"}'


def test_mutant_views_that_do_not_look_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views.Views, "_look", lambda *args: views._FOREIGN)
    monkeypatch.setattr(views.Views, "_is_shown", lambda *args: True)
    with pytest.raises(AssertionError):
        test_a_view_never_replaces_a_newer_one()


@pytest.mark.parametrize("trouble", ["taken", "a directory"])
def test_views_are_written_when_the_lock_is_no_use(
    store: Store, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is politeness: whatever is wrong with it, the view is written."""
    from filelock import FileLock

    monkeypatch.setattr(views, "_LOCK_WAIT_S", 0.01)
    tenure = store.create("job", b"{}")
    tenure.write_views(None, b'{"status": "pending"}')  # the first one asks for no lock
    path = tmp_path / "root/job/lock"
    if trouble == "a directory":
        path.mkdir()
    with FileLock(tmp_path / "elsewhere" if trouble == "a directory" else path, is_singleton=False):
        tenure.write_views(None, b'{"status": "running"}')
    assert store.read_views("job")[1] == b'{"status": "running"}'
    tenure.close()


# -- preparing --------------------------------------------------------------------------------------


def test_the_probe_leaves_nothing_but_the_ballast(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"), Settings())
    assert not (tmp_path / "root").exists()
    store.prepare()
    store.prepare()
    assert [path.stat().st_size for path in (tmp_path / "root/tmp").iterdir()] == [64 * 1024]
    store.close()
    assert list((tmp_path / "root/tmp").iterdir()) == []


def test_the_probe_finds_the_best_way() -> None:
    for unnamed, link, expected in ((True, True, Method.UNNAMED), (False, True, Method.NAMED)):
        disk = MemoryFiles()
        disk.can_unnamed, disk.can_link = unnamed, link
        with make_store(disk) as store:
            tenure = store.create(JOB, b"{}")
            assert store._root.putter.method is expected
            tenure.commit([b"1"])
            tenure.close()
        assert truth(disk) == [b"1"]
        assert disk.files("root/tmp") == {}


def test_without_links_only_a_single_host_may_write() -> None:
    disk = MemoryFiles()
    disk.can_link = False
    with pytest.raises(MultiHostUnsupported, match=r"hard links do not work here.*single_host=True"):
        make_store(disk).create(JOB, b"{}")
    assert JOB not in disk.node("root").names  # type: ignore[union-attr]
    store = make_store(disk, single_host=True)
    tenure = store.create(JOB, b"{}")
    tenure.commit([b"1"])
    log, successor = make_store(disk, seed=2, single_host=True).take_over(JOB)
    with pytest.raises(Fenced):
        tenure.commit([b"late"])
    successor.commit([b"2"])
    assert committed(make_store(disk, seed=3).read(JOB)) == [b"1", b"2"]


def test_a_link_that_overwrites_is_found_by_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose link(2) replaces would give two owners."""

    def overwrite(self: MemoryFiles, node: Any, target: str, target_at: int) -> None:
        self._add(target_at, target, node)

    monkeypatch.setattr(MemoryFiles, "_link", overwrite)
    with pytest.raises(MultiHostUnsupported, match="second link to the same name did not fail"):
        make_store(MemoryFiles()).prepare()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_an_unwritable_root_names_the_path_and_the_cure(number: int) -> None:
    fs = FaultyFiles(MemoryFiles(), 1, error=number, lasts=True, only=lambda name, args: name.startswith("create"))
    with pytest.raises(StorageError, match=rf"/root cannot be used: {os.strerror(number)}.*ROUTILUX_MP_CHECKPOINT_DIR"):
        make_store(fs).create(JOB, b"{}")
    assert JOB not in fs.inner.node("root").names


def test_a_file_in_the_roots_place(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file")
    with pytest.raises(StorageError, match="cannot be used: Not a directory"):
        Store(str(tmp_path / "root"), Settings()).prepare()


def test_old_private_files_are_swept(tmp_path: Path) -> None:
    (tmp_path / "root/tmp").mkdir(parents=True)
    for name, age_s in (("stale", 2 * 24 * 3600), ("recent", 3600)):
        path = tmp_path / "root/tmp" / name
        path.touch()
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    with Store(str(tmp_path / "root"), Settings()) as store:
        store.prepare()
    assert [path.name for path in (tmp_path / "root/tmp").iterdir()] == ["recent"]


def test_a_creator_that_died_before_its_open_is_succeeded() -> None:
    disk = MemoryFiles()
    disk.open_root(f"/{BASE}/epochs/e0000001", create=True)
    tenure = make_store(disk).create(JOB, b"{}")
    tenure.commit([b"1"])
    assert truth(disk) == [b"1"]


def test_a_refused_job_id_touches_nothing(store: Store, tmp_path: Path) -> None:
    for use in (lambda: store.create("../x", b"{}"), lambda: store.read("a/b"), lambda: store.take_over("")):
        with pytest.raises(UsageError):
            use()
    assert list(tmp_path.iterdir()) == []


def test_many_jobs_need_few_descriptors(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Store(str(tmp_path / "root"), Settings()) as store:
        tenures = [store.create(f"job-{at}", b"{}") for at in range(140)]
        for tenure in tenures:
            tenure.commit([b"1"])
        assert len(os.listdir("/proc/self/fd")) - before < 135
        for tenure in tenures:
            tenure.commit([b"2"])
            tenure.close()
        assert committed(store.read("job-3")) == [b"1", b"2"]


# -- blobs ---------------------------------------------------------------------------------------


def test_blobs_are_mapped_and_checked(store: Store) -> None:
    tenure = store.create("job", b"{}")
    ref = blobs.put_blob_file(tenure.blob_dir(), "w1-1", [b"large ", bytearray(b"pay"), memoryview(b"load")])  # type: ignore[list-item]
    assert ref.name == "e0000001/w1-1"
    assert ref.size_bytes == 13
    path = tenure.blob_path(ref.name)
    payload = blobs.map_blob(path, ref)
    assert payload == b"large payload"
    assert payload.readonly
    with pytest.raises(UsageError, match="blob names are used once"):
        tenure.put_blob("w1-1", [b"other"])
    with pytest.raises(CheckpointDamaged, match="not the one that the log names"):
        blobs.map_blob(path, ref._replace(crc32=ref.crc32 ^ 1))
    with pytest.raises(CheckpointDamaged, match="is missing"):
        blobs.map_blob(path + "x", ref)
    for bad in ("e0000001/../../format.json", "format.json", "e0000001/.."):
        with pytest.raises(CheckpointDamaged):
            tenure.blob_path(bad)
    tenure.close()


def test_the_blob_directory_follows_the_epoch(store: Store) -> None:
    tenure = store.create("job", b"{}")
    first = tenure.blob_dir()
    tenure.roll(b"state")
    assert (first[-8:], tenure.blob_dir()[-8:]) == ("e0000001", "e0000002")
    tenure.close()


def test_a_blob_that_does_not_fit_leaves_nothing() -> None:
    disk = MemoryFiles()
    disk.open_root("/root/job/blobs/e0000001", create=True)
    fs = FaultyFiles(disk, 2, error=errno.ENOSPC, only=lambda name, args: name == "write")
    with pytest.raises(StorageBlocked, match="No space left"):
        blobs.put_blob_file("/root/job/blobs/e0000001", "w-1", [b"a", b"b"], fs)  # type: ignore[arg-type]
    assert disk.files("root") == {}
    folder = disk.node("root/job/blobs/e0000001")
    assert isinstance(folder, Dir)


def test_a_real_directory_is_not_reached_through_a_link(store: Store, tmp_path: Path) -> None:
    store.create("job", b"{}").close()
    (tmp_path / "root/alias").symlink_to("job")
    for use in (store.read, store.take_over):
        with pytest.raises(StorageError, match="symbolic link"):
            use("alias")
    with pytest.raises(StorageError):
        store.create("alias", b"{}")
    assert RealFiles.has_paths
