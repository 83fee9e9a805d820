"""A job that a supervisor of this process owns, or owned, as its JobState shows it."""

from __future__ import annotations

import base64
import os
import socket
import time
from collections.abc import Iterator, Mapping
from copy import copy
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ._core.stimuli import StateOp
from ._curtain import Curtain
from ._documents import ENGINE, ENGINE_OMITTED, Document, document_to_json, to_text
from ._history import ExecutionRecord, Timestamp, serialized
from ._serialization.batch import decode_value
from ._serialization.signing import Signer
from ._shown import framework_state, plain_times, records_of, rows_of, shown_output
from ._state_values import CHECKPOINT_KEY, HIDDEN, Values
from .errors import RoutiluxError, RuntimeClosed
from .status import JobStatus

if TYPE_CHECKING:
    from ._core.job import DeadLetter
    from ._core.view import JobView
    from ._supervisor.cut import Cut
    from ._supervisor.handle import JobHandle


class ViewLimits(NamedTuple):
    """Of the views that are written now and then: they are for people, and the log is there."""

    history_max: int
    bytes_max: int


class LiveJob:
    """Stands behind a live JobState.

    Reads the newest published view at every access; writes are commands while the job goes on, and
    annotations of this object once it has ended. Offers the same names as ``_documents.Document``.
    """

    def __init__(self, handle: JobHandle, signer: Signer, document: Document) -> None:
        self.handle = handle
        self.job_id = handle.job_id
        self.flow_id = handle.view.flow_id
        self.metadata = {**metadata_of(handle.view), **document.metadata}
        #: Outputs of before the log here begins, and what was sent after it ended.
        self._outputs = document.output_log
        #: Records of an earlier run or another host, and the caller's own: no log here has them.
        self.before = document.execution_history
        self.own_records: list[ExecutionRecord] = []
        #: What was written after the job had ended.
        self.notes: Document | None = None
        self.curtain = Curtain()
        self._values = Values(self.job_id, signer)

    # -- reading --------------------------------------------------------------------------------

    @property
    def status(self) -> JobStatus:
        return self.curtain.status or JobStatus(self.handle.view.status)

    @property
    def created_at(self) -> Timestamp:
        return Timestamp.of(self.handle.view.created_ns)

    @property
    def updated_at(self) -> Timestamp:
        return Timestamp.of(self.handle.view.updated_ns)

    @property
    def current_routine_id(self) -> str | None:
        return self.handle.view.current_routine

    @property
    def error(self) -> str | None:
        view = self.handle.view
        return (view.reason or None) if view.status == "failed" else None

    @property
    def blocked(self) -> dict[str, Any] | None:
        blocked = self.handle.view.blocked
        return None if blocked is None else {"reason": blocked[0], "since": Timestamp.of(blocked[1])}

    @property
    def owner(self) -> dict[str, Any] | None:
        is_ours = self.handle.lost is None and not self.handle.view.is_terminal
        return {"host": socket.gethostname(), "pid": os.getpid()} if is_ours else None

    @property
    def progress(self) -> dict[str, tuple[int, int, int]]:
        return dict(self.handle.view.progress)

    @property
    def unconsumed(self) -> dict[str, dict[str, int]]:
        return {rid: dict(slots) for rid, slots in self.handle.view.unconsumed.items()}

    @property
    def checkpoint(self) -> Any:
        points = self.pause_points
        return points[-1]["checkpoint"] if points else None

    @property
    def pause_points(self) -> list[dict[str, Any]]:
        return [*(self._pause_point(point) for point in self.handle.view.pause_points), *self.curtain.pause_points]

    @property
    def pending_tasks(self) -> list[dict[str, Any]]:
        return [self._task(task) for task in self.handle.pending()] if self.status == JobStatus.PAUSED else []

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        letters = []
        for letter in self.handle.view.dead_letters:
            shown = self._letter(letter)
            try:
                shown["slot_name"], shown["data"] = self.handle.input_of(letter)
            except RoutiluxError as error:
                shown["data_error"] = f"{type(error).__name__}: {error}"
            letters.append(shown)
        return letters

    def _letter(self, letter: DeadLetter) -> dict[str, Any]:
        """A dead letter without its input: opening that may be what killed the worker."""
        routine_id = list(self.handle.view.progress)[letter.routine]
        return {
            "activation_id": f"{self.job_id}/{routine_id}/{letter.seq}",
            "routine_id": routine_id,
            "error": letter.failure.message,
            "error_type": letter.failure.type_name,
            "traceback": letter.failure.traceback,
            "timestamp": Timestamp.of(letter.time_ns),
        }

    @property
    def shared_data(self) -> dict[str, Any]:
        if self.notes is not None:
            return self.notes.shared_data
        return {key: self._values.decode(value, "", key) for key, value in self.handle.view.shared.items()}

    @property
    def shared_log(self) -> list[dict[str, Any]]:
        logged = list(self.handle.shared_log()) if self.handle.view.log_count else []
        return logged if self.notes is None else [*logged, *self.notes.shared_log]

    @property
    def output_log(self) -> list[dict[str, Any]]:
        sent = self.handle.outputs() if self.handle.view.sent_count else ()
        return [*({"job_id": self.job_id, **shown_output(item)} for item in sent), *self._outputs]

    @property
    def deferred_events(self) -> list[dict[str, Any]]:
        return [
            {"routine_id": rid, "event_name": event, "data": self._values.decode_emission(data, rid, event)}
            for rid, event, data in self.handle.view.deferred
        ]

    @property
    def routine_states(self) -> dict[str, dict[str, Any]]:
        view = self.handle.view
        ids = {**view.framework_states, **view.routine_states, **self.curtain.routine_states}
        if self.notes is not None:
            ids |= self.notes.routine_states
        states = {rid: self.routine_state(rid) for rid in ids}
        return {rid: state for rid, state in states.items() if state is not None}

    def routine_state(self, routine_id: str) -> dict[str, Any] | None:
        """One routine's state, the user's keys over the framework's; None if there is none."""
        view = self.handle.view
        framework = self.curtain.routine_states.get(routine_id) or view.framework_states.get(routine_id)
        if self.notes is not None and routine_id in self.notes.routine_states:
            user = self.notes.routine_states[routine_id]
        else:
            user = {
                key: self._values.decode(value, routine_id, key)
                for key, value in view.routine_states.get(routine_id, {}).items()
                if not key.startswith(HIDDEN)
            }
        return None if framework is None and not user else {**framework_state(framework or {}), **user}

    def version(self) -> Any:
        return self.handle.view.history_count, len(self.own_records)

    def history(self) -> Iterator[ExecutionRecord]:
        """Every record: what came before, this job's as far as the view goes, the caller's own."""
        yield from self.before
        yield from records_of(islice(self.handle.history(), self.handle.view.history_count))
        yield from self.own_records

    def results(self, routine_id: str, event: str) -> Iterator[dict[str, Any]]:
        return self.handle.results(routine_id, event)

    def retry_count(self, routine_id: str) -> int:
        return self.handle.view.retry_counts.get(routine_id, 0)

    def wait_for_change(self, timeout_s: float) -> None:
        """Wait until the picture of the job is another one, at most ``timeout_s``."""
        seen = self.handle.view.version
        self.handle.wait(lambda view: view.version != seen, timeout_s)

    def wait(self, timeout_s: float | None, *, stops_when_paused: bool) -> bool:
        """Wait until the job shows an end (or a pause, which nobody may ever end); False after ``timeout_s``."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            if not self.handle.wait(lambda v: v.is_terminal or (stops_when_paused and v.is_resting), left_s):
                return False
            shown = self.status
            is_paused = shown == JobStatus.PAUSED or (self.handle.view.is_resting and not self.curtain.status)
            if shown.is_terminal or (stops_when_paused and is_paused):
                return self._has_delivered(deadline_s)
            if left_s == 0.0:
                return False
            # An ended job that shows "running" or "paused" for a while: see Curtain.
            time.sleep(min(self.curtain.left_s or 0.05, 0.05 if left_s is None else left_s))

    def _has_delivered(self, deadline_s: float | None) -> bool:
        """Whoever waits for a job finds its outputs with the handler."""
        if self.handle.delivery is not None:
            self.handle.delivery.flush(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))
        return True

    def _pause_point(self, point: Mapping[str, Any]) -> dict[str, Any]:
        checkpoint = point.get("checkpoint") or b""
        pending = point.get("pending_count", 0)
        return {
            "timestamp": Timestamp.of(point["time_ns"]),
            "reason": point.get("reason", ""),
            "checkpoint": self._values.decode(checkpoint, "", CHECKPOINT_KEY) if checkpoint else None,
            "pending_tasks_count": pending,
            # A pause waits for what runs, so nothing does when it is recorded.
            "active_tasks_count": 0,
            "queue_size": pending,
            "current_routine_id": None,
        }

    def _task(self, task: Mapping[str, Any]) -> dict[str, Any]:
        due_ns = task.get("not_before")
        return {**task, "not_before": Timestamp.of(due_ns).isoformat() if due_ns else None}

    # -- writing --------------------------------------------------------------------------------

    def encode_checkpoint(self, checkpoint: Any) -> bytes:
        """What is kept beside a pause, as the job keeps it."""
        return self._values.encode_bytes(checkpoint, "", CHECKPOINT_KEY)

    def put_routine_state(self, routine_id: str, state: Mapping[str, Any]) -> None:
        """Replace the user's keys; the framework's stay where they are not named."""
        old = self.handle.view.routine_states.get(routine_id, {})
        ops = [StateOp("delete", routine_id, key) for key in old if key not in state and not key.startswith(HIDDEN)]
        for key, value in state.items():
            ops.append(StateOp("set", routine_id, key, self._values.encode(value, routine_id, key)))
        self._write(ops, "put_routine_state", routine_id, state)

    def drop_routine_state(self, routine_id: str) -> None:
        self.put_routine_state(routine_id, {})

    def put_shared(self, key: str, value: Any) -> None:
        self._write([StateOp("set", "", key, self._values.encode(value, "", key))], "put_shared", key, value)

    def drop_shared(self, key: str) -> None:
        self._write([StateOp("delete", "", key)], "drop_shared", key)

    def increment(self, key: str, by: float) -> None:
        self._write([StateOp("increment", "", key, by)], "increment", key, by)

    def append(self, key: str, item: Any) -> None:
        self._write([StateOp("append", "", key, self._values.encode_bytes(item, "", key))], "append", key, item)

    def log(self, entry: dict[str, Any]) -> None:
        self._write([StateOp("log", "", "", self._values.encode_log(entry))], "log", entry)

    def defer(self, routine_id: str, event_name: str, data: dict[str, Any]) -> None:
        self.handle.check_event(routine_id, event_name)
        encoded = self._values.encode_emission(data, routine_id, event_name)
        self._write([StateOp("defer", routine_id, event_name, encoded)], "defer", routine_id, event_name, data)

    def send(self, routine_id: str, output_type: str, data: dict[str, Any]) -> bool:
        """Send an output. False: the job has ended, and nobody else will deliver it."""
        encoded = self._values.encode_output(data, routine_id, output_type)
        if self._told([StateOp("send", routine_id, output_type, encoded)]):
            return True
        kept = Document(job_id=self.job_id)
        kept.send(routine_id, output_type, data)
        self._outputs += kept.output_log
        return False

    def record(self, record: ExecutionRecord) -> None:
        self.own_records.append(record)

    def _write(self, ops: list[StateOp], method: str, *arguments: Any) -> None:
        if self._told(ops):
            return
        if self.notes is None:
            notes = Document()
            notes.shared_data = self.shared_data
            self.notes = notes
        getattr(self.notes, method)(*arguments)

    def _told(self, ops: list[StateOp]) -> bool:
        """Whether the job itself took it. If not, it stays with this object until the job is resumed."""
        if self.notes is not None or self.handle.view.is_terminal:
            return False
        try:
            self.handle.annotate(ops)
        except RuntimeClosed:
            return False
        return True

    # -- leaving --------------------------------------------------------------------------------

    def that_opens_nothing(self) -> LiveJob:
        """The same job, its users' objects left as they are stored."""
        other = copy(self)
        other.handle = self.handle.that_opens_nothing()
        other._values = Values(self.job_id, self._values.signer.that_opens_nothing())
        return other

    def snapshot(self) -> Document:
        """The job at one commit, whole and self-contained: enough to go on with it elsewhere."""
        cut = self.handle.cut(is_durable=True, bytes_max=None)
        still = self._still(cut)
        return still._document(cut, list(still.history()))

    def shown(self, limits: ViewLimits) -> dict[str, Any]:
        """The same for people, see ``to_text``: what is more than ``limits`` is left out, and nothing is waited for."""
        cut = self.handle.cut(is_durable=False, bytes_max=limits.bytes_max)
        count = cut.view.history_count
        is_long = count > limits.history_max or cut.logged_bytes > limits.bytes_max
        document = self._still(cut)._document(cut, self.own_records)
        if is_long:
            newest = cut.newest_history(*limits)
            document.unknown["execution_history_omitted"] = max(0, count - len(newest))
            rows = rows_of(newest)
        else:
            rows = chain(serialized(self.before), rows_of(cut.history()))
        data = document_to_json(document)
        data["execution_history"] = chain(rows, data["execution_history"])
        return data

    def _still(self, cut: Cut) -> LiveJob:
        still = copy(self)
        still.handle = cut  # type: ignore[assignment]  # it reads like the handle, but does not move
        return still

    def _document(self, cut: Cut, history: list[ExecutionRecord]) -> Document:
        unknown: dict[str, Any] = {
            "dead_letters": [plain_times(self._letter(letter)) for letter in cut.view.dead_letters]
        }
        if cut.is_whole:
            # Of an ended job too: it may show "paused", and be resumed elsewhere to show its end again.
            unknown[ENGINE] = base64.b64encode(cut.engine()).decode("ascii")
        else:
            unknown[ENGINE_OMITTED] = cut.size_bytes
        pending = [] if self.status.is_terminal else [self._task(task) for task in cut.pending()]
        document = Document(self.flow_id, self.job_id)
        document.status = self.status
        document.current_routine_id = None if self.status.is_terminal else self.current_routine_id
        document.routine_states = self.routine_states
        document.execution_history = history
        document.pending_tasks = pending
        document.pause_points = self.pause_points
        document.shared_data = self.shared_data
        document.shared_log = self.shared_log
        document.output_log = list(self.output_log)
        document.deferred_events = self.deferred_events
        document.metadata = dict(self.metadata)
        document.checkpoint = self.checkpoint
        document.created_at, document.updated_at = self.created_at, self.updated_at
        document.unknown = unknown
        return document


def describe(live: LiveJob, limits: ViewLimits) -> bytes:
    """``job_state.json`` of a job: what ``JobState.serialize`` gives.

    It is written by the process that owns the job, so users' objects are shown as signed text and not opened:
    that would run their code here.
    """
    try:
        return to_text(live.that_opens_nothing().shown(limits)).encode()
    except RoutiluxError as error:
        # The log is the truth; the view then says only what it can, and why.
        names = {"_type": "JobState", "job_id": live.job_id, "flow_id": live.flow_id}
        why = f"{type(error).__name__}: {error}"
        return to_text({**names, "status": live.handle.view.status, "incomplete": why}).encode()


def metadata_of(view: JobView) -> dict[str, Any]:
    """The dictionary that the job was submitted with."""
    if not view.metadata:
        return {}
    metadata: dict[str, Any] = decode_value(view.metadata, None, b"metadata")
    return metadata
