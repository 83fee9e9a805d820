"""The state of one execution of a flow, as its caller sees it.

Returned by ``execute``, ``exec`` and ``resume`` a JobState is *live*: every attribute shows the newest
picture whose commit stands, and what is written to it is a command to the job. Made by hand or
deserialised it is *detached*: plain data, until it is resumed. It runs nothing itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ._documents import Behind, Document, document_from_json, document_to_json, read_json, write_json
from ._history import ExecutionRecord, History, Timestamp
from ._messages import Messages
from ._serialization.registry import Serializable, register_serializable
from ._waiting import Progress, wait_for_end, wait_until
from ._write_through import WriteThrough, replace_all
from .errors import DefinitionError, FlowMismatch, UsageError
from .output import OutputHandler
from .status import JobStatus

if TYPE_CHECKING:
    from ._live import LiveJob
    from ._serialization.signing import Signer
    from ._supervisor.handle import JobHandle

__all__ = ["ExecutionRecord", "JobState", "JobStatus"]


@register_serializable
class JobState(Messages, Serializable):
    """One job: its status, its history, its state, and what is still to be done."""

    def __init__(self, flow_id: str = "") -> None:
        super().__init__()
        self._behind = Behind(Document(flow_id=flow_id))
        self._output_handler: OutputHandler | None = None
        # Without this object: in a circle with it a job that nobody looks at any more would stay, with its payloads,
        # until the collector comes.
        self._history = History(self._behind.history, self._behind.version)
        self._lock = threading.RLock()

    @property
    def _source(self) -> Document | LiveJob:
        return self._behind.source

    # -- what it is -----------------------------------------------------------------------------

    @property
    def job_id(self) -> str:
        """Unique, and the same after resuming, on every host."""
        return self._source.job_id

    @job_id.setter
    def job_id(self, job_id: str) -> None:
        self._detached("job_id").job_id = job_id

    @property
    def flow_id(self) -> str:
        """Id of the flow that this is an execution of."""
        return self._source.flow_id

    @flow_id.setter
    def flow_id(self, flow_id: str) -> None:
        self._detached("flow_id").flow_id = flow_id

    @property
    def status(self) -> JobStatus:
        """``pending``, ``running``, ``paused``, ``completed``, ``failed`` or ``cancelled``; equal to its plain text."""
        return self._source.status

    @status.setter
    def status(self, status: str) -> None:
        document = self._detached("status")
        document.status = JobStatus(status)
        document.touch()

    @property
    def current_routine_id(self) -> str | None:
        """The routine dispatched last that still runs; None when nothing does."""
        return self._source.current_routine_id

    @current_routine_id.setter
    def current_routine_id(self, routine_id: str | None) -> None:
        self._detached("current_routine_id").current_routine_id = routine_id

    @property
    def created_at(self) -> datetime:
        """When the job was submitted, local time."""
        return self._source.created_at

    @property
    def updated_at(self) -> datetime:
        """When it last changed, local time."""
        return self._source.updated_at

    @property
    def error(self) -> str | None:
        """Why the job failed; None if it did not."""
        return self._source.error

    @property
    def blocked(self) -> dict[str, Any] | None:
        """Why nothing can be written at present, and since when; None in good times.

        What is written to the job then waits ten seconds for it and raises ``StorageBlocked``: it is kept, and holds
        as soon as it can be written.
        """
        return self._source.blocked

    @property
    def owner(self) -> dict[str, Any] | None:
        """Host and pid of the process that runs the job, as far as this one knows; None when nobody does."""
        return self._source.owner

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        """Activations that were given up after they had crashed their worker again and again."""
        return self._source.dead_letters

    @property
    def unconsumed(self) -> dict[str, dict[str, int]]:
        """Emissions that no activation policy took: routine id, slot, count."""
        return self._source.unconsumed

    @property
    def progress(self) -> dict[str, tuple[int, int, int]]:
        """Activations of each routine: (done, queued, workers that run it now)."""
        return self._source.progress

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's own dictionary; serialised with the state."""
        return self._source.metadata

    @metadata.setter
    def metadata(self, metadata: Mapping[str, Any]) -> None:
        self._source.metadata = dict(metadata)

    @property
    def checkpoint(self) -> Any:
        """What the last ``pause`` was given as ``checkpoint``."""
        return self._source.checkpoint

    @checkpoint.setter
    def checkpoint(self, checkpoint: Any) -> None:
        self._detached("checkpoint").checkpoint = checkpoint

    @property
    def pause_points(self) -> list[dict[str, Any]]:
        """One entry per pause: timestamp, reason, checkpoint, and what was pending."""
        return self._source.pause_points

    @property
    def pending_tasks(self) -> list[dict[str, Any]]:
        """What a paused job has still to do; filled in a serialised state too.

        In a deserialised state it may be changed before it is resumed: other ``data``; a ``priority`` above 0 to go
        first within its routine; ``not_before`` None to wait no longer; a task without ``activation_id`` to have one
        more. One that is taken out is still done.
        """
        return self._source.pending_tasks

    @pending_tasks.setter
    def pending_tasks(self, tasks: Iterable[dict[str, Any]]) -> None:
        self._detached("pending tasks").pending_tasks = list(tasks)

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
        """Add a record of the caller's own to what this object shows."""
        self._source.record(ExecutionRecord(routine_id, event_name, data))

    def results(self, routine_id: str, event: str) -> Iterator[dict[str, Any]]:
        """Emissions of an event that is connected to nothing, each exactly once, in order."""
        return self._source.results(routine_id, event)

    # -- state ----------------------------------------------------------------------------------

    @property
    def routine_states(self) -> WriteThrough:
        """State of every routine that has one. Setting an item writes that routine's state."""
        return WriteThrough(
            self._source.routine_states, self.update_routine_state, partial(self._write, "drop_routine_state")
        )

    @routine_states.setter
    def routine_states(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        replace_all(self.routine_states, states)

    def get_routine_state(self, routine_id: str, default: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """A copy of a routine's state; ``default`` for one that was never activated."""
        state = self._source.routine_state(routine_id)
        return default if state is None else state

    def update_routine_state(self, routine_id: str, state: Mapping[str, Any]) -> None:
        """Replace the user's keys of a routine's state. Allowed at any time, also on an ended job."""
        self._write("put_routine_state", routine_id, state)

    @property
    def shared_data(self) -> WriteThrough:
        """What all routines of the job share. Setting an item changes the job."""
        return WriteThrough(self._source.shared_data, self.update_shared_data, partial(self._write, "drop_shared"))

    @shared_data.setter
    def shared_data(self, content: Mapping[str, Any]) -> None:
        replace_all(self.shared_data, content)

    def get_shared_data(self, key: str, default: Any = None) -> Any:
        """A copy of one shared value."""
        return self._source.shared_data.get(key, default)

    def update_shared_data(self, key: str, value: Any) -> None:
        """Set one shared value."""
        self._write("put_shared", key, value)

    def increment(self, key: str, by: float = 1) -> None:
        """Add to a shared number, without losing what somebody else adds meanwhile."""
        self._write("increment", key, by)

    def append(self, key: str, item: Any) -> None:
        """Append to a shared list, without losing what somebody else appends meanwhile."""
        self._write("append", key, item)

    def _write(self, method: str, *arguments: Any) -> None:
        with self._lock:
            getattr(self._source, method)(*arguments)

    # -- documents ------------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Everything as JSON-able data, enough to resume the job on another host."""
        source = self._source
        if not isinstance(source, Document):
            return document_to_json(source.snapshot())
        with self._lock:  # plain data, which another thread may be writing
            return document_to_json(source)

    def _restore(self, data: dict[str, Any]) -> None:
        self._detached("content")
        self._behind.source = document_from_json(data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a JSON file, whole or not at all."""
        write_json(path, self.serialize())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> JobState:
        """Read a state that ``save`` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a job state.
        """
        data = read_json(path)
        if not isinstance(data, dict) or data.get("_type") != "JobState":
            found = data.get("_type") if isinstance(data, dict) else type(data).__name__
            raise DefinitionError(f"{os.fspath(path)} holds {found!r}, not a JobState")
        state = cls()
        state._restore(data)
        return state

    # -- waiting --------------------------------------------------------------------------------

    @staticmethod
    def wait_for_completion(
        flow: Any,
        job_state: JobState,
        timeout: float | None = None,
        stability_checks: int = 0,
        check_interval: float = 0.1,
        stability_delay: float = 0.0,
        progress_callback: Progress | None = None,
    ) -> bool:
        """Wait until the job has ended.

        Args:
            flow: the flow it belongs to.
            job_state: a live state.
            timeout: seconds; None waits for ever, but not for a paused job.
            stability_checks, stability_delay: accepted for compatibility; an end is an end here.
            check_interval: how often ``progress_callback`` is called, seconds.
            progress_callback: called in this thread with (queue_size, active_count, status).

        Returns:
            True when the job has ended, False on a timeout, or at once for a paused job without one.

        Raises:
            ValueError: the job belongs to another flow.
        """
        job_state._check_flow(flow)
        return wait_for_end(job_state, timeout, check_interval, progress_callback)

    @staticmethod
    def wait_until_condition(
        flow: Any,
        job_state: JobState,
        condition: Callable[[Any, JobState], bool],
        timeout: float | None = None,
        check_interval: float = 0.1,
    ) -> bool:
        """Wait until ``condition(flow, job_state)`` is true; False on a timeout, or when the job ends without it."""
        job_state._check_flow(flow)
        return wait_until(job_state, lambda: bool(condition(flow, job_state)), timeout, check_interval)

    # -- used by flow and runtime ---------------------------------------------------------------

    def _attach(self, handle: JobHandle, signer: Signer) -> None:
        """Become live; what was edited while detached is done to the job now."""
        from ._live import LiveJob  # while the first worker starts, and not before

        with self._lock:
            before = self._source
            notes = before if isinstance(before, Document) else before.notes
            own = Document(job_id=handle.job_id)
            own.metadata, own.output_log = before.metadata, before.output_log
            live = LiveJob(handle, signer, own)
            self._behind.source = live
            for method, arguments in notes.edits if notes is not None else ():
                getattr(live, method)(*arguments)
        self._deliver()

    def _forget_edits(self) -> None:
        """What was written while detached has gone into the job."""
        if isinstance(self._source, Document):
            self._source.edits.clear()

    def _mark_paused(self, reason: str, checkpoint: Any) -> None:
        document = self._detached("status")
        document.status = JobStatus.PAUSED
        document.checkpoint = checkpoint
        count = len(document.pending_tasks)
        point = {"timestamp": Timestamp.of(None), "reason": reason, "checkpoint": checkpoint}
        counts = {"pending_tasks_count": count, "active_tasks_count": 0, "queue_size": count}
        document.pause_points.append({**point, **counts, "current_routine_id": document.current_routine_id})
        document.touch()

    def _mark_cancelled(self, reason: str) -> None:
        document = self._detached("status")
        document.status = JobStatus.CANCELLED
        document.routine_states["_cancellation"] = {"reason": reason}
        document.touch()

    def _live_or_fail(self) -> LiveJob:
        assert not isinstance(self._source, Document), "a job that was just submitted is live"
        return self._source

    @property
    def _document(self) -> Document | None:
        return self._source if isinstance(self._source, Document) else None

    @property
    def _live(self) -> LiveJob | None:
        return None if isinstance(self._source, Document) else self._source

    def retry_count(self, routine_id: str) -> int:
        """Retries of the routine's latest failing activation."""
        return self._source.retry_count(routine_id)

    def _check_flow(self, flow: Any) -> None:
        if self.flow_id != flow.flow_id:
            raise FlowMismatch(
                f"JobState flow_id '{self.flow_id}' does not match Flow flow_id '{flow.flow_id}'"
            )  # fmt: skip

    def _detached(self, what: str) -> Document:
        if not isinstance(self._source, Document):
            raise UsageError(
                f"job '{self.job_id}' is live: its {what} cannot be set; use flow.pause, flow.resume or flow.cancel"
            )
        return self._source

    def __repr__(self) -> str:
        return f"JobState[{self.job_id}: {self.status}]"
