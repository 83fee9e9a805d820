"""Records and folded jobs to bytes and back: the on-disk format, version 1.

A record is ``[tag, *fields]``. Fields may be appended in later versions and are ignored by
earlier ones only when ``format.json`` says so; an unknown tag is refused.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Iterator

from .._core.batch import Batch
from .._core.job import DeadLetter, Group, Item, Job, ListValue, RoutineState, Run, Special
from .._core.records import TAGS, Annotated, Completed, Durable, Failed, Posted, Submitted
from .._core.stimuli import Emit, Failure, StateOp
from .._core.topology import Topology
from .._serialization.packing import pack, unpack
from ..errors import CheckpointDamaged, CheckpointFormat

_KINDS = {tag: kind for kind, tag in TAGS.items()}
Ref = tuple[int, int, int, int]


# -- records ------------------------------------------------------------------------------------


def encode_record(record: Durable) -> bytes:
    kind = type(record)
    fields: Any = record
    if kind is Completed:
        emits = [[event, batch.count, batch.data] for event, batch in record.emits]  # type: ignore[union-attr]
        fields = (*fields[:3], emits, *fields[4:])
    elif kind is Submitted or kind is Posted:
        fields = [[f.count, f.data] if isinstance(f, Batch) else f for f in record]
    return pack((TAGS[kind], *fields))


def decode_record(data: bytes, place: tuple[int, int, int] | None = None) -> Durable:
    """The record of a frame; its batches remember ``place`` = (epoch, commit, frame).

    Raises:
        CheckpointFormat: a kind of record that this version does not know.
        CheckpointDamaged: not a record at all.
    """
    try:
        tag, *fields = unpack(data)
        kind: Any = _KINDS.get(tag)
        if kind is None:
            raise CheckpointFormat(f"a record of kind {tag!r} is not known to this version; use a newer routilux_mp")
        known = fields[: len(kind._fields)]
        return _BUILD.get(kind, lambda f, place: kind(*f))(known, place)  # type: ignore[no-any-return]
    except CheckpointFormat:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise CheckpointDamaged(f"record at {place}: {error}") from error


def _place(place: tuple[int, int, int] | None, number: int) -> Ref | None:
    return None if place is None else (*place, number)


def _submitted(f: list[Any], place: tuple[int, int, int] | None) -> Submitted:
    batch = None if f[5] is None else Batch(f[5][0], f[5][1], _place(place, 0))
    ops = tuple(StateOp(*op) for op in f[8]) if len(f) > 8 else ()
    return Submitted(f[0], f[1], f[2], f[3], f[4], batch, f[6], f[7], ops)


def _posted(f: list[Any], place: tuple[int, int, int] | None) -> Posted:
    return Posted(f[0], f[1], f[2], Batch(f[3][0], f[3][1], _place(place, 0)))


def _completed(f: list[Any], place: tuple[int, int, int] | None) -> Completed:
    emits = tuple(Emit(event, Batch(n, data, _place(place, i))) for i, (event, n, data) in enumerate(f[3]))
    return Completed(f[0], f[1], f[2], emits, tuple(StateOp(*op) for op in f[4]), *f[5:])


def _annotated(f: list[Any], place: tuple[int, int, int] | None) -> Annotated:
    return Annotated(f[0], tuple(StateOp(*op) for op in f[1]))


def _failed(f: list[Any], place: tuple[int, int, int] | None) -> Failed:
    return Failed(f[0], f[1], f[2], f[3], f[4], Failure(*f[5]), *f[6:])


_BUILD: dict[type, Any] = {
    Submitted: _submitted, Posted: _posted, Completed: _completed, Failed: _failed,
    Annotated: _annotated,
}  # fmt: skip


def batches_of(record: Durable) -> Iterator[Batch]:
    """The batches of a record, in the order that the last number of a reference counts."""
    if isinstance(record, Completed):
        for emit in record.emits:
            yield emit.batch
    elif isinstance(record, (Submitted, Posted)) and record.batch is not None:
        yield record.batch


# -- snapshots ----------------------------------------------------------------------------------


def encode_snapshot(job: Job) -> bytes:
    """What is needed to go on: queues as references into the log, never the finished past."""
    routines = [_routine_out(r) for r in job.routines]
    return pack(
        {
            "v": 1,
            "topology": job.topology.to_plain(),
            "status": job.status,
            "times": (job.created_ns, job.updated_ns, job.ends_after_ns),
            "entry": (job.entry, job.entry_slot, None if job.entry_batch is None else _batch_out(job.entry_batch)),
            "metadata": job.metadata,
            "is_open": job.is_open,
            "reason": job.reason,
            "framework": job.framework,
            "state": {scope: {k: _value_out(v) for k, v in values.items()} for scope, values in job.state.items()},
            "counts": (job.log_count, job.record_count, job.activations),
            "results": [(r, e, n) for (r, e), n in job.results.items()],
            "pauses": (job.pause_points, job.checkpoint),
            "dead": [(*d[:2], _item_out(d.item), tuple(d.failure), *d[4:]) for d in job.dead_letters],
            "asked": (job.is_offered, job.answered_low, job.answered),
            "closing": job.closing,
            "routines": routines,
        }
    )


def decode_snapshot(data: bytes, job: Job) -> None:
    """Fill a fresh ``job``. Raises :class:`CheckpointDamaged` when the bytes are not a snapshot."""
    try:
        s = unpack(data)
        if s["v"] != 1:
            raise CheckpointFormat(f"snapshot of format {s['v']!r}; use a newer routilux_mp")
        job.topology = Topology.from_plain(s["topology"])
        job.status, job.metadata, job.is_open = s["status"], s["metadata"], s["is_open"]
        job.created_ns, job.updated_ns, job.ends_after_ns = s["times"]
        job.entry, job.entry_slot, entry = s["entry"]
        job.entry_batch = None if entry is None else _batch_in(entry)
        job.reason, job.framework = s["reason"], s["framework"]
        job.state = {scope: {k: _value_in(v) for k, v in vs.items()} for scope, vs in s["state"].items()}
        job.log_count, job.record_count, job.activations = s["counts"]
        job.results = {(r, e): n for r, e, n in s["results"]}
        points, job.checkpoint = s["pauses"]
        job.pause_points = list(points)
        job.dead_letters = [DeadLetter(r, q, _item_in(i), Failure(*f), t, c) for r, q, i, f, t, c in s["dead"]]
        job.is_offered, job.answered_low, job.answered = s["asked"]
        job.closing = s["closing"]
        job.routines = [_routine_in(r) for r in s["routines"]]
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if isinstance(error, CheckpointFormat):
            raise
        raise CheckpointDamaged(f"snapshot: {error!r}") from error


_SCALARS = (
    "ready_count", "queued", "next_seq", "next_release", "has_fired", "has_run", "last_taken_ns", "failures",
    "last_failed", "done",
)  # fmt: skip


def _routine_out(r: RoutineState) -> dict[str, Any]:
    """With what is under way back in the queue: a snapshot knows nothing of workers."""
    items = sorted([*r.ready, *(i for d in r.dispatches.values() for i in d.items)], key=lambda item: item.seq)
    out: dict[str, Any] = {name: getattr(r, name) for name in _SCALARS}
    out["ready_count"] = sum(item.count for item in items)
    out["ready"] = [_item_out(item) for item in items]
    out["special"] = [(q, _item_out(s.item), s.attempt, s.crashes, s.due_ns, s.cursor) for q, s in r.special.items()]
    out["slots"] = [[_item_out(run) for run in queue] for queue in r.slots]
    out["held"] = [
        (first, count, [(e.event, *_batch_out(e.batch)) for e in emits])
        for first, (count, emits) in r.held_emits.items()
    ]
    return out


def _routine_in(data: dict[str, Any]) -> RoutineState:
    r = RoutineState(len(data["slots"]))
    for name in _SCALARS:
        setattr(r, name, data[name])
    r.queued = list(data["queued"])
    r.ready = deque(_item_in(item) for item in data["ready"])
    r.special = {q: Special(_item_in(i), a, c, d, cursor) for q, i, a, c, d, cursor in data["special"]}
    for slot, runs in enumerate(data["slots"]):
        r.slots[slot].extend(_run_in(run) for run in runs)
    for first, count, emits in data["held"]:
        r.held_emits[first] = (count, tuple(Emit(e, _batch_in(rest)) for e, *rest in emits))
    return r


def _batch_out(batch: Batch) -> tuple[Any, ...]:
    # Without a place in the log yet the bytes themselves go along.
    return (batch.count, batch.ref, batch.size, batch.data if batch.ref is None else None)


def _batch_in(data: Any) -> Batch:
    count, ref, size, inline = data
    return Batch(count, inline, ref, size)


def _item_out(item: Item) -> tuple[Any, ...]:
    if isinstance(item, Group):
        return (item.seq, tuple(_item_out(run) for run in item.runs), item.message)
    return (item.seq, item.slot, item.connection, item.start, item.count, _batch_out(item.batch))


def _item_in(data: Any) -> Item:
    if len(data) == 3:
        return Group(data[0], tuple(_run_in(run) for run in data[1]), data[2])
    return _run_in(data)


def _run_in(data: Any) -> Run:
    seq, slot, connection, start, count, batch = data
    return Run(seq, slot, connection, _batch_in(batch), start, count)


def _value_out(value: Any) -> Any:
    return (value.base, value.items) if isinstance(value, ListValue) else value


def _value_in(value: Any) -> Any:
    return ListValue(value[0], list(value[1])) if isinstance(value, tuple) else value



