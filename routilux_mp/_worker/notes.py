"""What a handler tells the job besides its state: log entries, outputs, deferred events, wishes.

Each is an operation that travels with the activation's completion and holds with its commit. The committed
past, history and shared log, is read from the job's log on disk when somebody asks for it, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .._core.stimuli import StateOp
from .._history import ExecutionRecord, History, Timestamp
from .._serialization.places import log_place, output_place, record_place
from ..errors import UsageError

SHARED = ""
#: The key under which the checkpoint of a pause is encoded.
CHECKPOINT_KEY = "__checkpoint__"


class NoteCodec(Protocol):
    """Encodes what is said for one job."""

    @property
    def metadata(self) -> dict[str, Any]: ...

    def encode_state(self, scope: str, key: str, value: Any) -> bytes: ...

    def encode_at(self, value: Any, place: bytes, where: str) -> bytes: ...

    def encode_deferred(self, routine_id: str, event: str, data: dict[str, Any]) -> bytes: ...


class Past(Protocol):
    """Reads what is committed."""

    def shared_log(self) -> list[dict[str, Any]]: ...

    def history(self) -> list[ExecutionRecord]: ...


class Nothing:
    """No past that could be read: nothing is kept on disk."""

    def shared_log(self) -> list[dict[str, Any]]:
        return []

    def history(self) -> list[ExecutionRecord]:
        return []


class Notes:
    """The part of ``job_state`` in a handler that is not state."""

    job_id: str
    current_routine_id: str
    is_touched: bool

    def __init__(self, codec: NoteCodec, past: Past) -> None:
        self._notes = codec
        self._past = past
        self._ops: list[StateOp] = []
        self._log: list[dict[str, Any]] = []
        #: Lazy: committed records, read when they are looked at.
        self.execution_history = History(past.history, object)  # never the same version: read anew every time

    def append_to_shared_log(self, entry: dict[str, Any]) -> None:
        """Add an entry to the log that all routines share; it gets a ``timestamp`` unless it has one."""
        if not isinstance(entry, dict):
            raise TypeError(f"an entry of the shared log is a dict, got {type(entry).__name__}")
        stamped = {"timestamp": Timestamp.of(None).isoformat(), **entry}
        encoded = self._notes.encode_at(stamped, log_place(self.job_id), "shared log")
        self.add_op(StateOp("log", SHARED, "", encoded))
        self._log.append(stamped)

    @property
    def shared_log(self) -> list[dict[str, Any]]:
        """Committed entries and those of this activation."""
        return self.get_shared_log()

    def get_shared_log(self, filter_func: Callable[[dict[str, Any]], bool] | None = None) -> list[dict[str, Any]]:
        """The entries, committed ones first, that ``filter_func`` accepts.

        With ``durability="none"`` those of this worker only; shared data is seen by all.
        """
        entries = [*self._past.shared_log(), *(dict(entry) for entry in self._log)]
        return [entry for entry in entries if filter_func is None or filter_func(entry)]

    def get_execution_history(self, routine_id: str | None = None) -> list[ExecutionRecord]:
        """Committed records, of all routines or of one."""
        return [record for record in self.execution_history if routine_id in (None, record.routine_id)]

    def record_execution(self, routine_id: str, event_name: str, data: dict[str, Any] | None = None) -> None:
        """Add a record of one's own to the execution history."""
        place = record_place(self.job_id, routine_id, event_name)
        encoded = self._notes.encode_at(data or {}, place, f"record '{routine_id}.{event_name}'")
        self.add_op(StateOp("record", routine_id, event_name, encoded))

    def send_output(self, routine_id: str, output_type: str, data: dict[str, Any]) -> None:
        """Send something to the caller: into the job's output log and to its output handler."""
        place = output_place(self.job_id, routine_id, output_type)
        encoded = self._notes.encode_at(data, place, f"output '{output_type}' of routine '{routine_id}'")
        self.add_op(StateOp("send", routine_id, output_type, encoded))

    def add_deferred_event(self, routine_id: str, event_name: str, data: dict[str, Any]) -> None:
        """Emit an event when the job is resumed, and not before."""
        encoded = self._notes.encode_deferred(routine_id, event_name, data)
        self.add_op(StateOp("defer", routine_id, event_name, encoded))

    def ask_to_pause(self, reason: str = "", checkpoint: Any = None) -> None:
        """Pause the job once this activation has committed. Returns at once."""
        encoded = None if checkpoint is None else self._notes.encode_state(SHARED, CHECKPOINT_KEY, checkpoint)
        self.add_op(StateOp("pause", SHARED, reason, encoded))

    def ask_to_cancel(self, reason: str = "") -> None:
        """Cancel the job once this activation has committed. Returns at once."""
        self.add_op(StateOp("cancel", SHARED, reason))

    def wait_for_completion(self, *_: Any, **__: Any) -> bool:
        """Refused: a job that waits for its own end never ends."""
        raise UsageError(f"routine '{self.current_routine_id}' waits for its own job, which would wait for it for ever")

    def _check_flow(self, flow: Any) -> None:
        raise UsageError(
            f"routine '{self.current_routine_id}' would wait for its own job, or resume it, from inside of it; a "
            f"handler can pause it and cancel it, and it is resumed from outside"
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """A copy of the caller's own dictionary, as it was when the job began."""
        return self._notes.metadata

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"job_state in a handler has no '{name}': it is the job's identity, history, metadata, shared data, shared "
            f"log and routine states; the rest is seen by whoever started the job"
        )

    # -- the worker's side ----------------------------------------------------------------------

    def add_op(self, op: StateOp) -> None:
        """An operation of the worker's own."""
        names: tuple[Any, ...] = (op.scope, op.key)  # handlers may pass anything
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"names and reasons are strings, got {op.scope!r} and {op.key!r}")
        self.is_touched = True
        self._ops.append(op)
