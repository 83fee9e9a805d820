"""Reading what a job has done: history, results, shared log and outputs, from its records.

Used by whoever holds the records: the supervisor's handles, readers of a directory, a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from .._core.batch import Batch
from .._core.history import HistoryFold
from .._core.records import Adopted, Completed, Durable, Resumed, Submitted
from .._core.release import ReleasedLater, is_in_order
from .._core.stimuli import Emit, StateOp
from .._core.topology import Topology
from .._serialization.places import emission_place, log_place, output_place, past_place, slot_place
from ..errors import BlobMissing
from .spill import describe_reference, is_reference

#: Decodes the emissions of a batch that belongs to a place.
Decode = Callable[[Batch, bytes], list[Any]]
#: Decodes one value that belongs to a place.
DecodeValue = Callable[[bytes, bytes], Any]


class HistoryItem(NamedTuple):
    routine_id: str
    event_name: str
    data: dict[str, Any]
    time_ns: int


class OutputItem(NamedTuple):
    routine_id: str
    output_type: str
    data: dict[str, Any]
    time_ns: int


def history_of(
    job_id: str, topology: Topology, records: Iterable[Durable], decode: Decode, decode_value: DecodeValue,
    entry: int = -1, slot: int = 0,
) -> Iterator[HistoryItem]:  # fmt: skip
    """One item per entry of the execution history, in commit order, decoded as they are asked for.

    ``entry``, ``slot``: the entry routine, for records that do not begin with the job's first.
    """
    fold = HistoryFold()
    fold.attach(topology, entry)
    for record in records:
        if isinstance(record, Submitted):
            slot = record.slot
        elif isinstance(record, Adopted):
            yield from (HistoryItem(*row) for row in past_of(job_id, record, decode_value)["history"])
        for found in fold.entries(record):
            spec = topology.routines[found.routine]
            if found.batch is None:
                yield HistoryItem(spec.routine_id, found.event, dict(found.error or {}), found.time_ns)
                continue
            if isinstance(record, Submitted):
                place = slot_place(job_id, spec.routine_id, spec.slots[slot])
            else:
                place = emission_place(job_id, spec.routine_id, found.event)
            if found.batch.count == 1 and found.batch.data is not None and is_reference(found.batch.data):
                # A large payload may be gone once it is consumed; the history keeps what it was.
                yield HistoryItem(spec.routine_id, found.event, describe_reference(found.batch.data), found.time_ns)
                continue
            for value in _values_or_stubs(found.batch, place, decode):
                yield HistoryItem(spec.routine_id, found.event, value, found.time_ns)


def _values_or_stubs(batch: Batch, place: bytes, decode: Decode) -> list[Any]:
    """The emissions of a batch; what they were, one for each, if they lay in a blob that is gone."""
    try:
        return decode(batch, place)
    except BlobMissing:
        if batch.data is None or not is_reference(batch.data):
            raise
        return [{**describe_reference(batch.data), "of": batch.count} for _ in range(batch.count)]


def past_of(job_id: str, record: Adopted, decode_value: DecodeValue) -> dict[str, list[Any]]:
    """What was recorded before the job came here: rows of ``history``, ``log`` and ``outputs``."""
    past: dict[str, list[Any]] = {"history": [], "log": [], "outputs": []}
    if record.past:
        past.update(decode_value(record.past, past_place(job_id)))
    return past


def results_of(
    job_id: str, topology: Topology, routine: int, event: int, records: Iterable[Durable], decode: Decode,
    decode_value: DecodeValue,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Every emission of one event, exactly once, in commit order; of an ordered routine in the order of its inputs."""
    spec = topology.routines[routine]
    emits_of = ReleasedLater(routine).feed if is_in_order(spec) else partial(_emits_of, routine)
    place = emission_place(job_id, spec.routine_id, spec.events[event])
    for record in records:
        if isinstance(record, Adopted):
            for row in past_of(job_id, record, decode_value)["history"]:
                if (row[0], row[1]) == (spec.routine_id, spec.events[event]):
                    yield row[2]
        for emit in emits_of(record):
            if emit.event == event:
                yield from decode(emit.batch, place)


def log_of(job_id: str, records: Iterable[Durable], decode_value: DecodeValue) -> Iterator[Any]:
    """The entries of the shared log."""
    place = log_place(job_id)
    for record in records:
        if isinstance(record, Adopted):
            yield from past_of(job_id, record, decode_value)["log"]
        for op in _ops_of(record, "log"):
            yield decode_value(op.value, place)  # type: ignore[arg-type]


def encoded_log_of(records: Iterable[Durable]) -> Iterator[bytes]:
    """The same, as they were written."""
    for record in records:
        for op in _ops_of(record, "log"):
            yield op.value  # type: ignore[misc]


def outputs_of(job_id: str, records: Iterable[Durable], decode_value: DecodeValue) -> Iterator[OutputItem]:
    """What routines sent with ``send_output``, in commit order."""
    for record in records:
        if isinstance(record, Adopted):
            yield from (OutputItem(*row) for row in past_of(job_id, record, decode_value)["outputs"])
        for op in _ops_of(record, "send"):
            data = decode_value(op.value, output_place(job_id, op.scope, op.key))  # type: ignore[arg-type]
            yield OutputItem(op.scope, op.key, data, record.time_ns)


def _emits_of(routine: int, record: Durable) -> Iterator[Emit]:
    if isinstance(record, Completed) and record.routine == routine:
        yield from record.emits
    elif isinstance(record, Resumed):
        yield from (emit for source, emit in record.deferred if source == routine)


def _ops_of(record: Durable, kind: str) -> Iterator[StateOp]:
    yield from (op for op in getattr(record, "ops", ()) if op.op == kind)
