"""Records and folded jobs to bytes and back: the on-disk format, version 1.

A record is ``[tag, *fields]``. Fields may be appended in later versions and are ignored by
earlier ones only when ``format.json`` says so; an unknown tag is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._core.batch import Batch
from .._core.job import Job
from .._core.plain import fill, to_plain
from .._core.records import (
    TAGS,
    Annotated,
    Completed,
    Durable,
    Edited,
    Failed,
    Posted,
    Recoded,
    Resumed,
    Submitted,
)  # fmt: skip
from .._core.stimuli import Emit, Failure, StateOp
from .._serialization.packing import pack, unpack
from ..errors import CheckpointDamaged, CheckpointFormat

#: Their one batch stands among their fields.
_WITH_ONE_BATCH = frozenset((Submitted, Posted, Recoded, Edited))
_KINDS = {tag: kind for kind, tag in TAGS.items()}
Ref = tuple[int, int, int, int]


# -- records ------------------------------------------------------------------------------------


def encode_record(record: Durable) -> bytes:
    kind = type(record)
    fields: Any = record
    if kind is Completed:
        emits = [[event, batch.count, batch.data] for event, batch in record.emits]  # type: ignore[union-attr]
        fields = (*fields[:3], emits, *fields[4:])
    elif kind in _WITH_ONE_BATCH:
        fields = [[f.count, f.data] if isinstance(f, Batch) else f for f in record]
    elif kind is Resumed and record.deferred:  # type: ignore[union-attr]
        deferred = record.deferred  # type: ignore[union-attr]
        fields = (fields[0], [[routine, e.event, e.batch.count, e.batch.data] for routine, e in deferred])
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
    return Submitted(f[0], f[1], f[2], f[3], f[4], batch, f[6], f[7], ops, *f[9:])


def _posted(f: list[Any], place: tuple[int, int, int] | None) -> Posted:
    return Posted(f[0], f[1], f[2], Batch(f[3][0], f[3][1], _place(place, 0)))


def _recoded(f: list[Any], place: tuple[int, int, int] | None) -> Recoded:
    return Recoded(f[0], Batch(f[1][0], f[1][1], _place(place, 0)))


def _completed(f: list[Any], place: tuple[int, int, int] | None) -> Completed:
    emits = tuple(Emit(event, Batch(n, data, _place(place, i))) for i, (event, n, data) in enumerate(f[3]))
    return Completed(f[0], f[1], f[2], emits, tuple(StateOp(*op) for op in f[4]), *f[5:])


def _annotated(f: list[Any], place: tuple[int, int, int] | None) -> Annotated:
    return Annotated(f[0], tuple(StateOp(*op) for op in f[1]))


def _failed(f: list[Any], place: tuple[int, int, int] | None) -> Failed:
    return Failed(f[0], f[1], f[2], f[3], f[4], Failure(*f[5]), *f[6:])


def _resumed(f: list[Any], place: tuple[int, int, int] | None) -> Resumed:
    deferred = f[1] if len(f) > 1 else ()
    emits = (Emit(event, Batch(n, data, _place(place, i))) for i, (_, event, n, data) in enumerate(deferred))
    return Resumed(f[0], tuple(zip((row[0] for row in deferred), emits, strict=True)))


def _edited(f: list[Any], place: tuple[int, int, int] | None) -> Edited:
    return Edited(f[0], f[1], f[2], Batch(f[3][0], f[3][1], _place(place, 0)))


_BUILD: dict[type, Any] = {
    Submitted: _submitted, Posted: _posted, Completed: _completed, Failed: _failed,
    Annotated: _annotated, Resumed: _resumed, Recoded: _recoded, Edited: _edited,
}  # fmt: skip


def batches_of(record: Durable) -> Iterator[Batch]:
    """The batches of a record, in the order that the last number of a reference counts."""
    if isinstance(record, Completed):
        for emit in record.emits:
            yield emit.batch
    elif isinstance(record, Resumed):
        for _, emit in record.deferred:
            yield emit.batch
    elif isinstance(record, (Submitted, Posted, Recoded, Edited)) and record.batch is not None:
        yield record.batch


# -- snapshots ----------------------------------------------------------------------------------


def encode_snapshot(job: Job) -> bytes:
    """What is needed to go on: queues as references into the log, never the finished past."""
    return pack({"v": 1, **to_plain(job)})


def decode_snapshot(data: bytes, job: Job) -> None:
    """Fill a fresh ``job``. Raises :class:`CheckpointDamaged` when the bytes are not a snapshot."""
    try:
        s = unpack(data)
        if s["v"] != 1:
            raise CheckpointFormat(f"snapshot of format {s['v']!r}; use a newer routilux_mp")
        fill(job, s)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if isinstance(error, CheckpointFormat):
            raise
        raise CheckpointDamaged(f"snapshot: {error!r}") from error
