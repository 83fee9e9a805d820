"""Reading what a job has done: history, results, shared log and outputs, from its records.

Used by whoever holds the records: the supervisor's handles, readers of a directory, a worker.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.batch import Batch
from .._core.history import HistoryEntry, HistoryFold, completes_entry
from .._core.records import Adopted, Completed, Durable, Resumed, Submitted
from .._core.release import ReleasedLater, is_in_order
from .._core.stimuli import Emit, StateOp
from .._core.topology import Topology
from .._serialization.batch import encode_value
from .._serialization.places import emission_place, log_place, output_place, past_place, record_place, slot_place
from ..errors import BlobMissing, CheckpointFormat
from .spill import describe_reference, is_reference

if TYPE_CHECKING:
    from .._serialization.signing import Signer

#: Decodes the emissions of a batch that belongs to a place.
Decode = Callable[[Batch, bytes], list[Any]]
#: Decodes one value that belongs to a place.
DecodeValue = Callable[[bytes, bytes], Any]


class HistoryItem(NamedTuple):
    routine_id: str
    event_name: str
    data: dict[str, Any]
    time_ns: int


class Ran(NamedTuple):
    """Activations of a routine that returned together; the history tells of the entry only."""

    routine_id: str
    count: int  # type: ignore[assignment]
    is_over: bool  # False: before what they have emitted


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
        entries = _decoded(job_id, fold.entries(record), decode_value)
        items = _items_of(job_id, topology, entries, decode, slot if isinstance(record, Submitted) else None)
        yield from _as_emitted(topology, record, items) if isinstance(record, Completed) and record.order else items


def told_of(
    job_id: str, topology: Topology, records: Iterable[Durable], decode: Decode, decode_value: DecodeValue,
    entry: int = -1, slot: int = 0,
) -> Iterator[HistoryItem | Ran]:  # fmt: skip
    """The history, and between its items which activations began and returned."""
    for record in records:
        items = history_of(job_id, topology, (record,), decode, decode_value, entry, slot)
        count = sum(record.ranges[1::2]) - completes_entry(entry, record) if isinstance(record, Completed) else 0
        if isinstance(record, Completed) and count:
            rid = topology.routines[record.routine].routine_id
            yield Ran(rid, count, False)
            yield from items
            yield Ran(rid, count, True)
        else:
            yield from items


def _decoded(
    job_id: str, entries: Iterable[HistoryEntry], decode_value: DecodeValue
) -> Iterator[HistoryEntry | HistoryItem]:
    """The entries, with those that handlers made read already."""
    for found in entries:
        if found.noted is None:
            yield found
        else:
            rid, data = found.noted
            value = decode_value(data, record_place(job_id, rid, found.event))
            yield HistoryItem(rid, found.event, value, found.time_ns)


def _items_of(
    job_id: str, topology: Topology, entries: Iterable[HistoryEntry | HistoryItem], decode: Decode, slot: int | None
) -> Iterator[HistoryItem]:
    """The items of one record's entries. ``slot``: what they were put into, if nobody has emitted them."""
    for found in entries:
        if isinstance(found, HistoryItem):
            yield found
            continue
        spec = topology.routines[found.routine]
        if found.batch is None:
            yield HistoryItem(spec.routine_id, found.event, dict(found.error or {}), found.time_ns)
            continue
        if slot is not None:
            place = slot_place(job_id, spec.routine_id, spec.slots[slot])
        else:
            place = emission_place(job_id, spec.routine_id, found.event)
        if found.batch.count == 1 and found.batch.data is not None and is_reference(found.batch.data):
            # A large payload may be gone once it is consumed; the history keeps what it was.
            yield HistoryItem(spec.routine_id, found.event, describe_reference(found.batch.data), found.time_ns)
            continue
        for value in _values_or_stubs(found.batch, place, decode):
            yield HistoryItem(spec.routine_id, found.event, value, found.time_ns)


def _as_emitted(topology: Topology, record: Completed, items: Iterator[HistoryItem]) -> Iterator[HistoryItem]:
    """What came grouped by event, in the order in which it was emitted."""
    events = topology.routines[record.routine].events
    counts: Counter[int] = Counter()
    for emit in record.emits:
        counts[emit.event] += emit.batch.count
    if counts == Counter(record.order):  # an emission that was refused when it was noted already may be too many
        emitted: dict[str, deque[HistoryItem]] = {event: deque() for event in events}
        for item in islice(items, len(record.order)):
            emitted[item.event_name].append(item)
        yield from (emitted[events[number]].popleft() for number in record.order)
    yield from items  # what is left: that the entry has returned


def _values_or_stubs(batch: Batch, place: bytes, decode: Decode) -> list[Any]:
    """The emissions of a batch; what they were, one for each, if they lay in a blob that is gone."""
    try:
        return decode(batch, place)
    except BlobMissing:
        if batch.data is None or not is_reference(batch.data):
            raise
        return [{**describe_reference(batch.data), "of": batch.count} for _ in range(batch.count)]


#: Of each kind of row that was recorded before a job came here, the column with a user's value; None: all of it.
_VALUES: Final = {"history": 2, "log": None, "outputs": 2}


def encode_past(past: Mapping[str, Sequence[Any]], job_id: str, signer: Signer) -> bytes:
    """What :func:`past_of` reads: every value by itself, so that one can be passed on without its neighbours."""
    place = past_place(job_id)

    def encoded(row: Any, column: int | None) -> Any:
        if column is None:
            return encode_value(row, signer, place)
        return [*row[:column], encode_value(row[column], signer, place), *row[column + 1 :]]

    rows = {name: [encoded(row, column) for row in past.get(name, ())] for name, column in _VALUES.items()}
    return encode_value({"format": 2, **rows}, None, place)


def past_of(job_id: str, record: Adopted, decode_value: DecodeValue) -> dict[str, list[Any]]:
    """What was recorded before the job came here: rows of ``history``, ``log`` and ``outputs``."""
    past: dict[str, list[Any]] = {"history": [], "log": [], "outputs": []}
    if not record.past:
        return past
    place = past_place(job_id)
    stored = decode_value(record.past, place)
    if type(stored) is not dict or not all(type(stored.get(name, [])) is list for name in past):
        raise CheckpointFormat(f"the past of job {job_id} holds objects in an old format: it can only be shown whole")
    if "format" not in stored:
        return {**past, **stored}
    for name, column in _VALUES.items():
        for row in stored[name]:
            if column is None:
                past[name].append(decode_value(row, place))
            else:
                past[name].append([*row[:column], decode_value(row[column], place), *row[column + 1 :]])
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
