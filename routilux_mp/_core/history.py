"""The execution history, derived from the records: who did what, in commit order.

History rule (spec/api.md): the entry activation records ``start`` and ``completed``; every
emission records its event; a failed attempt records ``error`` (``error_continued`` under
CONTINUE). Nothing else is recorded, but what a handler records itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .batch import Batch
from .records import Adopted, Completed, Failed, Record, Resumed, Submitted
from .topology import Topology


class HistoryEntry(NamedTuple):
    """One entry, or all the entries of one batch when ``batch`` holds more than one emission."""

    routine: int
    event: str
    time_ns: int
    batch: Batch | None = None
    error: dict[str, object] | None = None
    #: A handler's own entry, of whichever routine it said: (routine id, encoded data).
    noted: tuple[str, bytes] | None = None


class HistoryFold:
    """Turns records, in order, into history entries."""

    def __init__(self) -> None:
        self.topology: Topology | None = None
        self._entry = -1

    def attach(self, topology: Topology, entry: int) -> None:
        """The flow is known, and so is where it was entered: after a snapshot, or from the job itself."""
        self.topology, self._entry = topology, entry

    def entries(self, record: Record) -> Iterator[HistoryEntry]:
        if isinstance(record, Submitted):
            self.topology = self.topology or Topology.from_plain(record.topology)
            self._entry = record.entry
            if record.batch is not None:
                yield HistoryEntry(record.entry, "start", record.time_ns, record.batch)
        elif isinstance(record, Adopted):
            # What was before is no part of this log: whoever reads it finds it in the record.
            self.topology = Topology.from_plain(record.snapshot["topology"])  # type: ignore[arg-type]
            self._entry = record.snapshot["entry"][0]  # type: ignore[index]
        elif isinstance(record, Resumed):
            assert self.topology is not None
            for routine, emit in record.deferred:
                event = self.topology.routines[routine].events[emit.event]
                yield HistoryEntry(routine, event, record.time_ns, emit.batch)
        elif isinstance(record, Completed):
            assert self.topology is not None
            events = self.topology.routines[record.routine].events
            for emit in record.emits:
                yield HistoryEntry(record.routine, events[emit.event], record.time_ns, emit.batch)
            for op, scope, key, value in record.ops:
                if op == "record":
                    assert isinstance(value, bytes)
                    yield HistoryEntry(record.routine, key, record.time_ns, noted=(scope, value))
            if completes_entry(self._entry, record):
                yield HistoryEntry(record.routine, "completed", record.time_ns)
        elif isinstance(record, Failed):
            failure = record.failure
            event = "error_continued" if record.action == "continue" else "error"
            data: dict[str, object] = {"error": failure.message, "error_type": failure.type_name}
            if event == "error":
                data["attempt"] = record.attempt
            yield HistoryEntry(record.routine, event, record.time_ns, error=data)


def completes_entry(entry: int, record: Completed) -> bool:
    """Whether the entry activation (number 0 of the entry routine) returned with this record."""
    return record.routine == entry and bool(record.ranges) and record.ranges[0] == 0
