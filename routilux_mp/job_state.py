"""The state of one execution of a flow, as its caller sees it.

Returned by ``execute``, ``exec`` and ``resume`` a JobState is *live*: every attribute shows the newest
picture whose commit stands, and what is written to it is a command to the job. Made by hand or
deserialised it is *detached*: plain data, until it is resumed. It runs nothing itself.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from . import _live as live
from ._core.stimuli import StateOp
from ._core.view import JobView
from ._documents import Document, document_from_json, document_to_json, write_json
from ._history import ExecutionRecord, History, Timestamp
from ._serialization.registry import Serializable, register_serializable
from ._serialization.signing import Signer
from .errors import FlowMismatch, UsageError
from .output import OutputHandler
from .status import JobStatus

if TYPE_CHECKING:
    from ._supervisor.handle import JobHandle

__all__ = ["ExecutionRecord", "JobState", "JobStatus"]

_log = logging.getLogger(__name__)


@register_serializable
class JobState(Serializable):
    """One job: status, history, state and what is still to be done."""

    def __init__(self, flow_id: str = "") -> None:
        super().__init__()
        self._document = Document(flow_id=flow_id)
        self._handle: JobHandle | None = None
        self._values: live.Values | None = None
        #: Caller's records and log entries that no worker wrote; and an earlier run's history.
        self._before: list[ExecutionRecord] = []
        self._own_records: list[ExecutionRecord] = []
        self._edits: list[StateOp] = []
        self._output_handler: OutputHandler | None = None
        self._history = History(self._read_history, self._version)
        self._lock = threading.RLock()

    # -- what it is -----------------------------------------------------------------------------

    @property
    def job_id(self) -> str:
        """Unique; the same after resuming, on every host."""
        return self._document.job_id

    @job_id.setter
    def job_id(self, job_id: str) -> None:
        self._refuse_when_live("job_id")
        self._document.job_id = job_id

    @property
    def flow_id(self) -> str:
        """Id of the flow that this is an execution of."""
        return self._document.flow_id

    @flow_id.setter
    def flow_id(self, flow_id: str) -> None:
        self._refuse_when_live("flow_id")
        self._document.flow_id = flow_id

    @property
    def status(self) -> JobStatus:
        """``pending``, ``running``, ``paused``, ``completed``, ``failed`` or ``cancelled``; equal to its plain text."""
        view = self._view()
        return self._document.status if view is None else JobStatus(view.status)

    @status.setter
    def status(self, status: str) -> None:
        self._refuse_when_live("status")
        self._document.status = JobStatus(status)
        self._document.touch()

    @property
    def created_at(self) -> datetime:
        """When the job was submitted (or this object made), local time."""
        view = self._view()
        return self._document.created_at if view is None else Timestamp.of(view.created_ns)

    @property
    def updated_at(self) -> datetime:
        """When it last changed, local time."""
        view = self._view()
        return self._document.updated_at if view is None else Timestamp.of(view.updated_ns)

    @property
    def current_routine_id(self) -> str | None:
        """The routine dispatched last that still runs; None when nothing does."""
        view = self._view()
        return self._document.current_routine_id if view is None else view.current_routine

    @current_routine_id.setter
    def current_routine_id(self, routine_id: str | None) -> None:
        self._refuse_when_live("current_routine_id")
        self._document.current_routine_id = routine_id

    @property
    def error(self) -> str | None:
        """Why the job failed, or None."""
        view = self._view()
        if view is not None:
            return view.reason or None if view.status == "failed" else None
        errors = [s.get("error") for s in self._document.routine_states.values() if s.get("status") == "failed"]
        return errors[0] if errors and self.status == "failed" else None

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's own dictionary; serialised with the state."""
        return self._document.metadata

    @metadata.setter
    def metadata(self, metadata: Mapping[str, Any]) -> None:
        self._document.metadata = dict(metadata)

    @property
    def checkpoint(self) -> Any:
        """What the last ``pause`` was given as ``checkpoint``."""
        points = self.pause_points
        return points[-1]["checkpoint"] if points and self._view() is not None else self._document.checkpoint

    @checkpoint.setter
    def checkpoint(self, checkpoint: Any) -> None:
        self._refuse_when_live("checkpoint")
        self._document.checkpoint = checkpoint

    @property
    def pause_points(self) -> list[dict[str, Any]]:
        """One entry per pause: timestamp, reason, checkpoint, and what was pending."""
        view, values = self._view(), self._values
        if view is None or values is None:
            return self._document.pause_points
        decode = lambda data: values.decode(data, "", "checkpoint")  # noqa: E731 - one expression, used once
        return [live.pause_point_of(point, decode) for point in view.pause_points]

    @property
    def pending_tasks(self) -> list[dict[str, Any]]:
        """What a paused job has still to do; also filled in a serialised state."""
        view = self._view()
        if view is None or self._handle is None:
            return self._document.pending_tasks
        if view.status != "paused":
            return []
        return list(self._handle.document().get("pending_tasks", []))

    @property
    def deferred_events(self) -> list[dict[str, Any]]:
        """Emissions kept back until the job is resumed."""
        return self._document.deferred_events

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        """Activations that were given up after crashing their worker again and again."""
        view = self._view()
        if view is None or self._handle is None:
            return list(self._document.unknown.get("dead_letters", []))
        names = list(view.progress)
        return [
            {
                "activation_id": f"{self.job_id}/{names[letter.routine]}/{letter.seq}",
                "routine_id": names[letter.routine],
                "error": letter.failure.message,
                "error_type": letter.failure.type_name,
                "timestamp": Timestamp.of(letter.time_ns),
            }
            for letter in view.dead_letters
        ]

    @property
    def unconsumed(self) -> dict[str, dict[str, int]]:
        """Emissions that no activation policy took: routine id, slot, count."""
        view = self._view()
        return {} if view is None else {rid: dict(slots) for rid, slots in view.unconsumed.items()}

    @property
    def blocked(self) -> dict[str, Any] | None:
        """Why nothing can be written at present, and since when; None in good times."""
        view = self._view()
        if view is None or view.blocked is None:
            return None
        reason, since_ns = view.blocked
        return {"reason": reason, "since": Timestamp.of(since_ns)}

    # -- history and results --------------------------------------------------------------------

    @property
    def execution_history(self) -> History:
        """Everything that was recorded, in order: a sequence that reads lazily and stays up to date."""
        return self._history

    def get_execution_history(self, routine_id: str | None = None) -> list[ExecutionRecord]:
        """All records, or one routine's, sorted by time."""
        records = [r for r in self._history if routine_id is None or r.routine_id == routine_id]
        return sorted(records, key=lambda record: record.timestamp)

    def record_execution(self, routine_id: str, event_name: str, data: dict[str, Any] | None = None) -> None:
        """Add a record of the caller's own."""
        with self._lock:
            record = ExecutionRecord(routine_id, event_name, data)
            (self._document.execution_history if self._handle is None else self._own_records).append(record)
            self._document.touch()

    def results(self, routine_id: str, event: str) -> Iterator[dict[str, Any]]:
        """Emissions of an event that is connected to nothing, each exactly once, in order."""
        if self._handle is not None:
            return self._handle.results(routine_id, event)
        records = self._document.execution_history
        return (r.data for r in records if (r.routine_id, r.event_name) == (routine_id, event))

    def _read_history(self) -> Iterator[ExecutionRecord]:
        if self._handle is None:
            return iter(self._document.execution_history)
        own = sorted(self._own_records, key=lambda record: record.timestamp)
        return itertools.chain(self._before, self._live_records(), own)

    def _live_records(self) -> Iterator[ExecutionRecord]:
        assert self._handle is not None and self._values is not None
        limit = self._handle.view.history_count
        for item in itertools.islice(self._handle.history(), limit):
            data = item.data
            if isinstance(data, (bytes, memoryview)):
                data = self._values.decode(bytes(data), "", "history")
            yield ExecutionRecord(item.routine_id, item.event_name, data, Timestamp.of(item.time_ns))

    def _version(self) -> Any:
        if self._handle is None:
            return len(self._document.execution_history)
        return self._handle.view.history_count, len(self._own_records)

    # -- state ----------------------------------------------------------------------------------

    @property
    def routine_states(self) -> dict[str, dict[str, Any]]:
        """State of every routine that has one. Setting an item writes that routine's state."""
        view = self._view()
        if view is None or self._values is None:
            return live.WriteThrough(self._document.routine_states, self._put_routine_state, self._drop_routine_state)
        states = live.routine_states_of(view, self._values)
        return live.WriteThrough(states, self._put_routine_state, self._drop_routine_state)

    def get_routine_state(self, routine_id: str, default: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """A copy of a routine's state; ``default`` for one that was never activated."""
        view = self._view()
        if view is None or self._values is None:
            state = self._document.routine_states.get(routine_id)
            return default if state is None else dict(state)
        state = live.routine_state_of(view, self._values, routine_id)
        return default if state is None else state

    def update_routine_state(self, routine_id: str, state: Mapping[str, Any]) -> None:
        """Replace the user's keys of a routine's state. Allowed at any time, also on an ended job."""
        self._put_routine_state(routine_id, state)

    @property
    def shared_data(self) -> dict[str, Any]:
        """Data that all routines of the job share. Setting an item changes the job."""
        view, values = self._view(), self._values
        if view is None or values is None:
            content = self._document.shared_data
        else:
            content = {key: values.decode(value, "", key) for key, value in view.shared.items()}
        return live.WriteThrough(content, self.update_shared_data, self._drop_shared)

    def get_shared_data(self, key: str, default: Any = None) -> Any:
        """A copy of one shared value."""
        return self.shared_data.get(key, default)

    def update_shared_data(self, key: str, value: Any) -> None:
        """Set one shared value."""
        self._write([StateOp("set", "", key, self._codec().encode(value))])
        self._document.shared_data[key] = value

    def increment(self, key: str, by: float = 1) -> None:
        """Add to a shared number; never loses an addition of somebody else's."""
        self._write([StateOp("increment", "", key, by)])
        self._document.shared_data[key] = self._document.shared_data.get(key, 0) + by

    def append(self, key: str, item: Any) -> None:
        """Append to a shared list; never loses an item of somebody else's."""
        encoded = self._codec().encode_item(item)
        self._write([StateOp("append", "", key, encoded)])
        self._document.shared_data[key] = [*self._document.shared_data.get(key, []), item]

    @property
    def shared_log(self) -> list[dict[str, Any]]:
        """Everything that was appended to the shared log."""
        if self._handle is None:
            return self._document.shared_log
        return list(self._handle.document().get("shared_log", [])) + self._document.shared_log

    def append_to_shared_log(self, entry: dict[str, Any]) -> None:
        """Add an entry; a ``timestamp`` is added if it has none."""
        with self._lock:
            stamped = {"timestamp": Timestamp.of(None).isoformat(), **entry}
            self._document.shared_log.append(stamped)

    def get_shared_log(self, filter_func: Callable[[dict[str, Any]], bool] | None = None) -> list[dict[str, Any]]:
        """The shared log, or the entries that ``filter_func`` accepts."""
        return [entry for entry in self.shared_log if filter_func is None or filter_func(entry)]
