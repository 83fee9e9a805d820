"""Records and snapshots to bytes and back; what cannot be read says so in one way only."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from routilux_mp._core import records as rec
from routilux_mp._core.apply import apply
from routilux_mp._core.batch import Batch
from routilux_mp._core.job import Job, ListValue
from routilux_mp._core.stimuli import Annotate, Emit, Pause, StateOp, WorkerLost
from routilux_mp._core.topology import ErrorSpec, PolicySpec, Topology
from routilux_mp._serialization.packing import pack
from routilux_mp._storage.codec import batches_of, decode_record, decode_snapshot, encode_record, encode_snapshot
from routilux_mp.errors import CheckpointDamaged, CheckpointFormat
from tests.unit.core.core_bench import CRASH, ERROR, OnBench, add, retry, routine, set_to

TOPOLOGY = OnBench(
    routine("a", slots=2, events=2, error=retry(), timeout_s=1.5, workers=0, is_ordered=True),
    routine("b", policy=PolicySpec("batch_size", 3), style="logic"),
    edges=[(0, 1, 1, 0)],
).topology.to_plain()
OPS = (
    set_to("x", b"\x00\xff"), add("n", 2, "a"), add("f", 0.5), StateOp("delete", "a", "y"),
    StateOp("append", "", "l", b"i"), StateOp("log", "", "", b"entry"),
    StateOp("output", "", "", ("/data/.x.part", "/data/x")),
)  # fmt: skip
RECORDS: list[rec.Durable] = [
    rec.Submitted(1, "f", TOPOLOGY, 0, 1, Batch(2, b"ab"), b"meta", (b"code",), OPS, 7),
    rec.Submitted(1, "f", TOPOLOGY, 0, 0, None),
    rec.Completed(2, 1, (0, 3, 7, 1), (Emit(0, Batch(3, b"xyz")), Emit(1, Batch(1, b""))), OPS, 8, b"cursor"),
    rec.Completed(2, 1, ()),
    rec.Failed(3, 0, 7, 2, "retry", ERROR, 99),
    rec.Failed(3, 0, 7, 1, "dead", CRASH),
    rec.Taken(4, 1, (3, 0), b"why"),
    rec.Posted(5, 0, 1, Batch(1, b"p")),
    rec.Annotated(6, OPS),
    rec.PauseAsked(7, "lunch", b"cp"),
    rec.Paused(8),
    rec.Resumed(9),
    rec.StopAsked(10, "cancelled", "enough"),
    rec.Closed(11),
    rec.Ended(12, "failed", "boom"),
    rec.Answered(13, "0001", "too late"),
    rec.Revived(14, 1, 3),
    rec.Skipped(15, 1, 3),
    rec.Declined(16, 1),
    rec.Adopted(17, "f", {"v": 1}, b"past", (b"code",)),
    rec.Postponed(18, 99),
    rec.Recoded(19, Batch(1, b"code")),
    rec.Edited(20, 1, 5, Batch(1, b"other")),
    rec.Reordered(21, 1, (7, 5, 6)),
    rec.Declined(16, 1),
    rec.Resumed(9, ((0, Emit(1, Batch(1, b"later"))),)),
    rec.Adopted(17, "f", {"topology": TOPOLOGY}, b"past", (b"code",)),
]


def _plain(value: object) -> object:
    """Comparable: batches have no equality, since they are shared and never compared."""
    if isinstance(value, Batch):
        return ("batch", value.count, value.data)
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("record", RECORDS, ids=[type(record).__name__ for record in RECORDS])
def test_a_record_comes_back_as_it_was(record: rec.Durable) -> None:
    back = decode_record(encode_record(record), (4, 5, 6))
    assert type(back) is type(record)
    assert _plain(back) == _plain(record)
    if isinstance(back, (rec.Completed, rec.Annotated, rec.Submitted)):
        assert all(type(op) is StateOp for op in back.ops)
    for number, batch in enumerate(batches_of(back)):
        assert batch.ref == (4, 5, 6, number)


def test_every_kind_of_record_is_tried() -> None:
    assert {type(record) for record in RECORDS} == set(get_args(rec.Durable)) == set(rec.TAGS)


def test_fields_that_a_later_version_appends_are_ignored() -> None:
    assert decode_record(pack((rec.TAGS[rec.Paused], 8, "new"))) == rec.Paused(8)


def test_a_kind_of_record_from_the_future_is_refused() -> None:
    with pytest.raises(CheckpointFormat, match="newer"):
        decode_record(pack((200, 1)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack(7),
        pack({}),
        pack(()),
        pack((2,)),
        pack((2, 1, 2)),
        pack((5, 1, 0, 0, 7)),
        pack(([], 1)),
        pack((1, 2, 3)),
    ],
)
def test_what_is_no_record_is_damage(data: bytes) -> None:
    with pytest.raises((CheckpointDamaged, CheckpointFormat)):
        decode_record(data)


def _busy_job() -> OnBench:
    """A job with something in every corner that a snapshot must keep."""
    bench = OnBench(
        routine("a", workers=2, is_ordered=True, error=retry(2)),
        routine("b", events=0, error=ErrorSpec("skip")),
        routine("c", slots=2, policy=PolicySpec("all_slots_ready")),
        edges=[(0, 0, 1, 0), (0, 0, 2, 0)],
        max_crashes=1,
    ).submit(9)
    first, second = bench.must_give(0, worker=1, count=2), bench.must_give(0, worker=2, count=2)
    bench.report(second, emits={0: 4}, ops=OPS)
    bench.report(first, 1, emits={0: 2}, failure=ERROR)
    bench.report(bench.must_give(0, worker=1, count=2), 1, cursor=b"c", emits={0: 1}, is_last=False)
    bench.happen(Annotate((set_to("z", 7, "c"),)))
    work = bench.must_give(1, worker=3, count=1)
    bench.happen(WorkerLost(3, work.dispatch, 0, CRASH))
    bench.happen(Pause("p", b"cp"))
    return bench


def _encoded(job: Job) -> bytes:
    for routine_state in job.routines:
        routine_state.queued = list(routine_state.queued)
    return encode_snapshot(job)


def test_a_snapshot_comes_back_as_it_was() -> None:
    bench = _busy_job()
    data = encode_snapshot(bench.job)
    job = Job("j", max_crashes=1)
    decode_snapshot(data, job)
    assert _encoded(job) == data
    assert job.topology == Topology.from_plain(bench.topology.to_plain())
    assert isinstance(job.state[""]["l"], ListValue)
    assert job.closing == bench.job.closing
    assert len(job.dead_letters) == 1
    assert job.routines[0].special
    assert job.routines[0].held_emits


def test_a_snapshot_is_what_replay_gives() -> None:
    bench = _busy_job()
    job = Job("j", max_crashes=1)
    decode_snapshot(encode_snapshot(bench.job), job)
    replayed = bench.replayed()
    assert [sum(i.count for i in r.ready) + len(r.special) for r in job.routines] == [
        sum(i.count for i in r.ready) + len(r.special) for r in replayed.routines
    ]
    for mine, theirs in zip(job.routines, replayed.routines, strict=True):
        assert (mine.queued, mine.next_seq, mine.next_release) == (theirs.queued, theirs.next_seq, theirs.next_release)
    assert job.framework == replayed.framework


@pytest.mark.parametrize("ref", [None, (3, 2, 0, 0)])
def test_a_snapshot_keeps_the_code_that_the_job_goes_on_with(ref: tuple[int, int, int, int] | None) -> None:
    bench = _busy_job()
    apply(bench.job, rec.Recoded(99, Batch(1, b"code", ref)))
    job = Job("j", max_crashes=1)
    decode_snapshot(encode_snapshot(bench.job), job)
    assert job.code is not None
    assert (job.code.ref, job.code.data) == (ref, b"code" if ref is None else None)
    decode_snapshot(encode_snapshot(_busy_job().job), job)
    assert job.code is None


def test_a_snapshot_from_the_future_is_refused() -> None:
    with pytest.raises(CheckpointFormat, match="newer"):
        decode_snapshot(pack({"v": 2}), Job("j"))


@pytest.mark.parametrize("data", [b"", b"\xc1", pack(1), pack({}), pack({"v": 1}), pack([1, 2]), pack(None)])
def test_what_is_no_snapshot_is_damage(data: bytes) -> None:
    with pytest.raises(CheckpointDamaged):
        decode_snapshot(data, Job("j"))


def test_a_damaged_snapshot_never_raises_anything_else() -> None:
    data = bytearray(encode_snapshot(_busy_job().job))
    chance = random.Random(7)
    refused = 0
    for _ in range(400):
        bad = bytearray(data)
        if chance.random() < 0.3:
            del bad[chance.randrange(len(bad)) :]
        else:
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        try:
            decode_snapshot(bytes(bad), Job("j"))
        except (CheckpointDamaged, CheckpointFormat):
            refused += 1
    assert refused > 100
