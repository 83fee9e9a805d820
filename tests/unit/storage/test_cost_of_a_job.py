"""What a small job costs the disk: a thousand of them are made of this."""

from __future__ import annotations

import pytest

from routilux_mp._storage import place
from routilux_mp._storage.store import Store
from tests.support.memory import File, MemoryFiles
from tests.support.stores import ROOT, make_store, truth


class CountingFiles(MemoryFiles):
    """Counts what waits for a disk."""

    syncs = 0

    def fsync(self, handle: int) -> None:
        self.syncs += 1
        super().fsync(handle)

    def taken(self) -> int:
        """How many there were since the last question."""
        found, self.syncs = self.syncs, 0
        return found


@pytest.fixture
def disk() -> CountingFiles:
    return CountingFiles()


def begin(store: Store, job_id: str) -> None:
    tenure = store.create(job_id, None)
    tenure.commit([job_id.encode()])
    tenure.close()


def format_of(disk: MemoryFiles, job_id: str) -> File:
    found = disk.node(f"{ROOT}/{job_id}/format.json")
    assert isinstance(found, File)
    return found


def test_how_often_a_job_waits_for_the_disk(disk: CountingFiles) -> None:
    store = make_store(disk)
    begin(store, "first")
    disk.taken()
    tenure = store.create("second", None)
    assert disk.taken() == 5, "the OPEN, three directories above it, its own"
    tenure.write_flow_view(b"{}")
    assert disk.taken() == 1
    tenure.commit([b"1"])
    assert disk.taken() == 2
    tenure.seal("ended")
    assert disk.taken() == 2
    store.close()
    assert not disk.handles


def test_what_a_job_begins_with_costs_nothing_more(disk: CountingFiles) -> None:
    store = make_store(disk)
    begin(store, "first")
    disk.taken()
    tenure = store.create("second", None, [b"1", b"2"])
    assert disk.taken() == 5
    tenure.close()
    assert truth(disk, "second") == [b"1", b"2"]


def test_the_format_is_one_file_for_a_number_of_jobs(disk: CountingFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "FORMAT_LINKS_MAX", 2)
    store = make_store(disk)
    for job_id in "abcd":
        begin(store, job_id)
    formats = [format_of(disk, job_id) for job_id in "abcd"]
    assert formats[0] is formats[1] is formats[2]
    assert formats[3] is not formats[0]
    assert {bytes(found.data) for found in formats} == {bytes(formats[0].data)}
    assert [truth(disk, job_id) for job_id in "abcd"] == [[b"a"], [b"b"], [b"c"], [b"d"]]


def test_a_job_whose_format_is_linked_into_others_can_be_deleted(disk: CountingFiles) -> None:
    store = make_store(disk)
    begin(store, "a")
    root = disk.open_root(ROOT, create=False)
    disk.unlink("a", root)
    disk.close(root)
    begin(store, "b")
    begin(store, "c")
    assert truth(disk, "b") == [b"b"]
    assert truth(disk, "c") == [b"c"]


def test_without_links_every_job_has_a_format_of_its_own(disk: CountingFiles) -> None:
    disk.can_unnamed = disk.can_link = False
    store = make_store(disk, single_host=True)
    for job_id in "ab":
        begin(store, job_id)
        assert truth_of_single_host(disk, job_id) == [job_id.encode()]
    assert format_of(disk, "a") is not format_of(disk, "b")


def truth_of_single_host(disk: MemoryFiles, job_id: str) -> list[bytes]:
    with make_store(disk, seed=999, single_host=True) as store:
        return [data for _, data in store.read(job_id).history()]


def test_a_format_that_a_dead_creator_left_is_found(disk: CountingFiles) -> None:
    store = make_store(disk)
    begin(store, "a")
    with make_store(disk, seed=2) as other:
        begin(other, "b")
    root = disk.open_root(f"{ROOT}/b", create=False)
    disk.unlink("epochs", root)
    disk.close(root)
    begin(store, "b")
    begin(store, "c")
    assert truth(disk, "b") == [b"b"]
    assert truth(disk, "c") == [b"c"]
