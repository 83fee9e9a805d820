"""Reading what a job has done: history, results and shared log, from its log or from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from .._core.batch import Batch
from .._core.history import HistoryFold
from .._core.records import Completed, Durable
from .._core.topology import Topology
from .._serialization.places import emission_place, log_place, slot_place
from .._worker.spill import describe_reference, is_reference
from ..errors import CheckpointDamaged

#: Decodes the emissions of a batch that belongs to a place.
Decode = Callable[[Batch, bytes], list[Any]]


class HistoryItem(NamedTuple):
    routine_id: str
    event_name: str
    data: dict[str, Any]
    time_ns: int


def history_of(job_id: str, topology: Topology, entry_slot: int, records: Iterable[Durable], decode: Decode) -> Iterator[HistoryItem]:
    """One item per entry of the execution history, in commit order, decoded as they are asked for."""
    fold = HistoryFold()
    for record in records:
        for found in fold.entries(record):
            spec = topology.routines[found.routine]
            if found.batch is None:
                yield HistoryItem(spec.routine_id, found.event, dict(found.error or {}), found.time_ns)
                continue
            if found.event == "start":
                place = slot_place(job_id, spec.routine_id, spec.slots[entry_slot])
            else:
                place = emission_place(job_id, spec.routine_id, found.event)
            if found.batch.count == 1 and found.batch.data is not None and is_reference(found.batch.data):
                # A large payload may be gone once it is consumed; the history keeps what it was.
                yield HistoryItem(spec.routine_id, found.event, describe_reference(found.batch.data), found.time_ns)
                continue
            try:
                values = decode(found.batch, place)
            except CheckpointDamaged:
                if found.batch.data is None or not is_reference(found.batch.data):
                    raise
                values = [describe_reference(found.batch.data)] * found.batch.count
            for value in values:
                yield HistoryItem(spec.routine_id, found.event, value, found.time_ns)


def results_of(
    job_id: str, topology: Topology, routine: int, event: int, records: Iterable[Durable], decode: Decode
) -> Iterator[dict[str, Any]]:
    """Every emission of one event, exactly once, in commit order."""
    spec = topology.routines[routine]
    place = emission_place(job_id, spec.routine_id, spec.events[event])
    for record in records:
        if isinstance(record, Completed) and record.routine == routine:
            for emit in record.emits:
                if emit.event == event:
                    yield from decode(emit.batch, place)


def log_of(job_id: str, records: Iterable[Durable], decode_value: Callable[[bytes, bytes], Any]) -> Iterator[Any]:
    """The entries of the shared log."""
    place = log_place(job_id)
    for record in records:
        if isinstance(record, Completed):
            for op in record.ops:
                if op.op == "log":
                    assert isinstance(op.value, bytes)
                    yield decode_value(op.value, place)
