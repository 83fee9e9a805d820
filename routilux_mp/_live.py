"""Between a job's view and the caller's values: decodes what a view shows, encodes what a caller writes.

A view's values are opaque bytes to the supervisor; this is the one place in the caller's process
that opens them. The rule owned here: what is handed out is a copy, and writing to it is a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from ._core.job import ListValue, Value
from ._core.stimuli import StateOp
from ._documents import Document
from ._history import ExecutionRecord, Timestamp
from ._serialization.batch import decode_value, encode_value
from ._serialization.places import log_place, state_place
from ._serialization.signing import Signer
from .status import JobStatus

if TYPE_CHECKING:
    from ._supervisor.handle import JobHandle

#: Keys of a routine's state that are the engine's own: slot accumulators and serialisable fields.
_RESERVED_PREFIX = "__"


class Values:
    """Encodes and decodes the state values of one job."""

    def __init__(self, job_id: str, signer: Signer) -> None:
        self.job_id = job_id
        self.signer = signer

    def decode(self, value: Value, scope: str, key: str) -> Any:
        """The value as the user wrote it; a fresh copy at every call."""
        if isinstance(value, ListValue):
            base = [] if value.base is None else self.decode(value.base, scope, key)
            items = [self.decode(item, scope, key) for item in value.items]
            return [*base, *items] if isinstance(base, (list, tuple)) else [base, *items]
        if isinstance(value, (bytes, memoryview)):
            return decode_value(value, self.signer, state_place(self.job_id, scope, key))
        return value

    def encode(self, value: Any, scope: str, key: str) -> bytes | int | float:
        """The value as the core keeps it: numbers as they are, so that they can be added to."""
        if type(value) in (int, float):
            return value  # type: ignore[no-any-return]
        return self.encode_bytes(value, scope, key)

    def encode_bytes(self, value: Any, scope: str, key: str) -> bytes:
        """The value as bytes, also a number."""
        return encode_value(value, self.signer, state_place(self.job_id, scope, key))

    def encode_log(self, entry: dict[str, Any]) -> bytes:
        """An entry of the shared log."""
        return encode_value(entry, self.signer, log_place(self.job_id))


class WriteThrough(dict[str, Any]):
    """A copy of some of a job's state. Setting, updating and deleting items changes the job too."""

    def __init__(self, content: Mapping[str, Any], write: Callable[[str, Any], None], delete: Callable[[str], None]) -> None:
        super().__init__(content)
        self._write = write
        self._delete = delete

    def __setitem__(self, key: str, value: Any) -> None:
        self._write(key, value)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._delete(key)
        super().__delitem__(key)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> WriteThrough:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        if key not in self:
            return super().pop(key, *default)
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        for key in list(self):
            del self[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (dict(self),))


class LiveJob:
    """What a JobState shows of a job that a supervisor of this process owns, or owned.

    Reads the newest published view at every access; writes are commands. Offers the same names as
    ``_documents.Document``.
    """

    def __init__(self, handle: JobHandle, signer: Signer, document: Document) -> None:
        self.handle = handle
        self.job_id = handle.job_id
        self.flow_id = handle.view.flow_id
        #: The caller's own: no worker and no log knows of these.
        self.metadata = document.metadata
        self.output_log = document.output_log
        self.deferred_events = document.deferred_events
        self.entry_params = document.entry_params
        self.entry_routine_id = document.entry_routine_id
        self.before: list[ExecutionRecord] = []
        self.own_records: list[ExecutionRecord] = []
        self._values = Values(self.job_id, signer)

    # -- reading --------------------------------------------------------------------------------

    @property
    def status(self) -> JobStatus:
        return JobStatus(self.handle.view.status)

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
    def unconsumed(self) -> dict[str, dict[str, int]]:
        return {rid: dict(slots) for rid, slots in self.handle.view.unconsumed.items()}

    @property
    def checkpoint(self) -> Any:
        data = self.handle.view.checkpoint
        return self._values.decode(data, "", "checkpoint") if data else None

    @property
    def pause_points(self) -> list[dict[str, Any]]:
        return [self._pause_point(point) for point in self.handle.view.pause_points]

    @property
    def pending_tasks(self) -> list[dict[str, Any]]:
        if self.status != JobStatus.PAUSED:
            return []
        return list(self.handle.document().get("pending_tasks", []))

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        view = self.handle.view
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
    def shared_data(self) -> dict[str, Any]:
        return {key: self._values.decode(value, "", key) for key, value in self.handle.view.shared.items()}

    @property
    def shared_log(self) -> list[dict[str, Any]]:
        return list(self.handle.document().get("shared_log", []))

    @property
    def routine_states(self) -> dict[str, dict[str, Any]]:
        view = self.handle.view
        return {rid: self.routine_state(rid) or {} for rid in {**view.framework_states, **view.routine_states}}

    def routine_state(self, routine_id: str) -> dict[str, Any] | None:
        """One routine's state, the user's keys over the framework's; None if there is none."""
        view = self.handle.view
        framework = view.framework_states.get(routine_id)
        user = {
            key: self._values.decode(value, routine_id, key)
            for key, value in view.routine_states.get(routine_id, {}).items()
            if not key.startswith(_RESERVED_PREFIX)
        }
        return None if framework is None and not user else {**_framework_state(framework or {}), **user}

    def version(self) -> Any:
        return self.handle.view.history_count, len(self.own_records)

    def history(self) -> Iterator[ExecutionRecord]:
        """Every record: an earlier run's, this job's as far as the view goes, the caller's own."""
        yield from self.before
        for item in islice(self.handle.history(), self.handle.view.history_count):
            data = item.data
            if isinstance(data, (bytes, memoryview)):
                data = self._values.decode(bytes(data), "", "history")
            yield ExecutionRecord(item.routine_id, item.event_name, data, Timestamp.of(item.time_ns))
        yield from self.own_records

    def results(self, routine_id: str, event: str) -> Iterator[dict[str, Any]]:
        return self.handle.results(routine_id, event)

    def _pause_point(self, point: Mapping[str, Any]) -> dict[str, Any]:
        checkpoint = point.get("checkpoint") or b""
        return {
            "timestamp": Timestamp.of(point["time_ns"]),
            "reason": point.get("reason", ""),
            "checkpoint": self._values.decode(checkpoint, "", "checkpoint") if checkpoint else None,
            "pending_tasks_count": point.get("pending_count", 0),
            # A pause waits for what runs, so nothing does when it is recorded.
            "active_tasks_count": 0,
            "queue_size": point.get("pending_count", 0),
            "current_routine_id": None,
        }

    # -- writing --------------------------------------------------------------------------------

    def put_routine_state(self, routine_id: str, state: Mapping[str, Any]) -> None:
        """Replace the user's keys; the framework's stay where they are not named."""
        old = self.handle.view.routine_states.get(routine_id, {})
        gone = [key for key in old if key not in state and not key.startswith(_RESERVED_PREFIX)]
        self.handle.annotate(
            [
                *(StateOp("delete", routine_id, key) for key in gone),
                *(
                    StateOp("set", routine_id, key, self._values.encode(value, routine_id, key)) for key, value in state.items()
                ),
            ]
        )

    def drop_routine_state(self, routine_id: str) -> None:
        self.put_routine_state(routine_id, {})

    def put_shared(self, key: str, value: Any) -> None:
        self.handle.annotate([StateOp("set", "", key, self._values.encode(value, "", key))])

    def drop_shared(self, key: str) -> None:
        self.handle.annotate([StateOp("delete", "", key)])

    def increment(self, key: str, by: float) -> None:
        self.handle.annotate([StateOp("increment", "", key, by)])

    def append(self, key: str, item: Any) -> None:
        self.handle.annotate([StateOp("append", "", key, self._values.encode_bytes(item, "", key))])

    def log(self, entry: dict[str, Any]) -> None:
        self.handle.annotate([StateOp("log", "", "", self._values.encode_log(entry))])

    def record(self, record: ExecutionRecord) -> None:
        self.own_records.append(record)

    # -- leaving --------------------------------------------------------------------------------

    def snapshot(self) -> Document:
        """Everything as plain data, of one picture of the job."""
        engine = self.handle.document()
        return Document(
            flow_id=self.flow_id,
            job_id=self.job_id,
            status=self.status,
            current_routine_id=self.current_routine_id,
            routine_states=self.routine_states,
            execution_history=list(self.history()),
            pending_tasks=list(engine.get("pending_tasks", [])),
            pause_points=self.pause_points,
            shared_data=self.shared_data,
            shared_log=list(engine.get("shared_log", [])),
            output_log=list(self.output_log),
            deferred_events=list(self.deferred_events),
            metadata=dict(self.metadata),
            checkpoint=self.checkpoint,
            entry_routine_id=self.entry_routine_id,
            entry_params=self.entry_params,
            created_at=self.created_at,
            updated_at=self.updated_at,
            engine=engine,
        )


def _framework_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """What the framework says of a routine, with times as ISO text."""
    shown: dict[str, Any] = {}
    for key, value in state.items():
        if key.endswith("time_ns"):
            shown[key.removesuffix("_ns")] = Timestamp.of(value).isoformat()
        else:
            shown[key] = value
    return shown
