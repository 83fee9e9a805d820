"""Requests and answers as files: put once, never changed, deleted below the low-water mark only."""

from __future__ import annotations

import errno

import pytest

from routilux_mp._storage.control import Answer, Request, new_request_id
from routilux_mp._storage.layout import is_request_id
from routilux_mp._storage.lease import Heartbeats
from routilux_mp.errors import CheckpointDamaged, StorageError, UnknownName, UsageError
from tests.support.faulty import FaultyFiles
from tests.support.memory import MemoryFiles
from tests.support.stores import BASE, JOB, make_store


@pytest.fixture
def disk() -> MemoryFiles:
    disk = MemoryFiles()
    make_store(disk, seed=1).create(JOB, b"{}")
    return disk


def request(number: int = 1, kind: str = "pause", **arguments: object) -> Request:
    return Request(new_request_id(number * 1_000_000, bytes), kind, arguments, "a test")


def test_ids_sort_by_time_and_differ() -> None:
    ids = [new_request_id(n * 10**9) for n in range(1, 50)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(map(is_request_id, ids))
    assert new_request_id(1) != new_request_id(1)
    for name in ("", "8" + "0" * 25, "0" * 25, "0" * 25 + "U", "../x", "0" * 26 + ".answer"):
        assert not is_request_id(name)


def test_a_request_is_put_once_and_answered_once(disk: MemoryFiles) -> None:
    asker, owner = make_store(disk, seed=2).control(JOB), make_store(disk, seed=3).control(JOB)
    asked = request(reason="lunch")
    assert asker.answer(asked.request_id) is None
    asker.put(asked)
    asker.put(asked)
    assert owner.unanswered() == [asked.request_id]
    assert owner.read(asked.request_id) == asked
    owner.put_answer(Answer(asked.request_id, False, "no"))
    owner.put_answer(Answer(asked.request_id, True))  # too late: the first one stands
    assert asker.answer(asked.request_id) == Answer(asked.request_id, False, "no")
    assert owner.unanswered() == []


def test_requests_come_oldest_first_and_nothing_else_comes(disk: MemoryFiles) -> None:
    control = make_store(disk, seed=2).control(JOB)
    asked = [request(n) for n in (3, 1, 2)]
    for one in asked:
        control.put(one)
    disk.set(f"{BASE}/control/README", b"not a request")
    assert control.unanswered() == sorted(one.request_id for one in asked)


def test_only_what_is_below_the_mark_is_swept(disk: MemoryFiles) -> None:
    control = make_store(disk, seed=2).control(JOB)
    asked = [request(n) for n in (1, 2, 3)]
    for one in asked:
        control.put(one)
        control.put_answer(Answer(one.request_id, True))
    control.sweep(asked[1].request_id)
    left = {path.rpartition("/")[2] for path in disk.files(f"{BASE}/control")}
    assert left == {asked[2].request_id, f"{asked[2].request_id}.answer"}
    assert not control.stands(asked[0].request_id)
    assert control.stands(asked[2].request_id)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b'{"kind": "explode", "arguments": {}}', b'{"kind": 3}'])
def test_what_is_no_request_is_damage_and_not_obeyed(disk: MemoryFiles, raw: bytes) -> None:
    control = make_store(disk, seed=2).control(JOB)
    asked = request()
    control.put(asked)
    disk.set(f"{BASE}/control/{asked.request_id}", raw)
    with pytest.raises(CheckpointDamaged, match=asked.request_id):
        control.read(asked.request_id)


def test_wrong_requests_are_refused_before_anything_is_written(disk: MemoryFiles) -> None:
    control = make_store(disk, seed=2).control(JOB)
    with pytest.raises(UsageError, match="explode"):
        control.put(request(kind="explode"))
    with pytest.raises(UsageError, match="plain JSON"):
        control.put(request(data=object()))
    with pytest.raises(UsageError, match="more than"):
        control.put(request(data="x" * 2_000_000))
    with pytest.raises(UnknownName, match="no job 'nobody'"):
        make_store(disk, seed=3).control("nobody").put(request())
    assert control.unanswered() == []


def test_every_operation_of_a_request_may_fail(disk: MemoryFiles) -> None:
    """Whatever fails is named, and asking again makes it exactly one request."""
    for k in range(1, 100):
        fs = FaultyFiles(disk)
        control = make_store(fs, seed=100 + k).control(JOB)
        asked = request(1000 + k)
        fs.__init__(disk, k, error=errno.EIO)  # type: ignore[misc]
        said = ""
        try:
            control.put(asked)
        except StorageError as error:
            said = str(error)
        assert not said or JOB in said
        failed = fs.fired
        fs.heal()
        control.put(asked)
        assert control.unanswered().count(asked.request_id) == 1
        assert control.read(asked.request_id) == asked
        if failed is None:
            assert k > 5
            return
    raise AssertionError("it never ended")


def test_a_glance_sees_who_owns_and_whether_it_is_sealed(disk: MemoryFiles) -> None:
    store = make_store(disk, seed=4)
    first = store.glance(JOB)
    assert first is not None
    assert (first.epoch, first.number, first.seal_reason) == (1, 1, None)
    _, tenure = store.take_over(JOB)
    tenure.commit([b"x"])
    tenure.roll(b"state")
    found = store.glance(JOB)
    assert found is not None
    assert (found.epoch, found.number, found.seal_reason, found.owner) == (3, 1, None, store.owner)
    tenure.seal("handover")
    found = store.glance(JOB)
    assert found is not None
    assert (found.epoch, found.number, found.seal_reason) == (3, 2, "handover")
    assert store.glance("nobody") is None
    disk.set(f"{BASE}/epochs/e0000003/c00000002", b"\0" * 200)
    with pytest.raises(CheckpointDamaged):
        store.glance(JOB)


def test_a_frame_can_be_read_without_the_log(disk: MemoryFiles) -> None:
    store = make_store(disk, seed=4)
    _, tenure = store.take_over(JOB)
    tenure.commit([b"a", b"b"])
    assert store.read_frame(JOB, (tenure.epoch, 2, 1)) == b"b"  # type: ignore[arg-type]


def test_an_empty_commit_shows_whether_the_epoch_is_still_ours(disk: MemoryFiles) -> None:
    store = make_store(disk, seed=4)
    _, tenure = store.take_over(JOB)
    tenure.commit([])
    log = make_store(disk, seed=5).read(JOB)
    assert (log.epoch, log.commit) == (2, 2)
    assert list(log.frames()) == []


def test_a_reader_of_heartbeats_needs_no_right_to_write() -> None:
    disk = MemoryFiles()
    with make_store(disk, seed=1) as store:
        store.prepare()
        reader = Heartbeats(store._root, clock=lambda: 0.0)
        assert reader.look() == []
    assert ".owners" not in {path.split("/")[1] for path in disk.files()}
