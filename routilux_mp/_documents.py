"""A job's state as plain data: what a ``JobState`` holds when no supervisor stands behind it.

Also its form on paper, ``JobState.serialize()``. Keys that this version does not know are kept
and written again, so that a document passes unharmed through an older reader.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from ._history import ExecutionRecord, Timestamp, serialized
from ._ids import new_id
from ._serialization.json_values import from_json, to_json
from .errors import DefinitionError
from .status import JobStatus

if TYPE_CHECKING:
    from ._live import LiveJob

_TYPE = "JobState"
#: The key under which a document carries what is needed to go on, as text.
ENGINE = "engine"
#: In its place when that was too much: its size.
ENGINE_OMITTED = "engine_omitted_bytes"
#: The key under which it keeps what its pending tasks were when they were written: id -> digests.
TASKS_AS_WRITTEN = "pending_tasks_as_written"
#: What may have been changed since the document was made.
_EDITS = frozenset(
    ("put_routine_state", "drop_routine_state", "put_shared", "drop_shared", "increment", "append", "log", "defer")
)


# Not a dataclass: that would take 2 ms more at every start, and 10 for ``inspect``.
class Document:
    """Everything a person may read of a job, decoded."""

    def __init__(self, flow_id: str = "", job_id: str | None = None) -> None:
        self.flow_id = flow_id
        self.job_id = new_id() if job_id is None else job_id
        self.status = JobStatus.PENDING
        self.current_routine_id: str | None = None
        self.routine_states: dict[str, dict[str, Any]] = {}
        self.execution_history: list[ExecutionRecord] = []
        self.pending_tasks: list[dict[str, Any]] = []
        self.pause_points: list[dict[str, Any]] = []
        self.shared_data: dict[str, Any] = {}
        self.shared_log: list[dict[str, Any]] = []
        self.output_log: list[dict[str, Any]] = []
        self.deferred_events: list[dict[str, Any]] = []
        self.metadata: dict[str, Any] = {}
        self.checkpoint: Any = None
        self.created_at = self.updated_at = Timestamp.of(None)
        self.unknown: dict[str, Any] = {}
        #: What the caller changed since it was read: (method, arguments), to be done again when the job is resumed.
        self.edits: list[tuple[str, tuple[Any, ...]]] = []

    # The same names as ``_live.LiveJob``: a JobState stands before one of the two.

    blocked = None
    owner = None
    unconsumed: ClassVar[dict[str, dict[str, int]]] = {}
    progress: ClassVar[dict[str, tuple[int, int, int]]] = {}

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        return list(self.unknown.get("dead_letters", []))

    @property
    def error(self) -> str | None:
        if self.status != JobStatus.FAILED:
            return None
        failed = [state for state in self.routine_states.values() if state.get("status") == "failed"]
        return failed[0].get("error") if failed else None

    def version(self) -> Any:
        return len(self.execution_history)

    def history(self) -> Iterator[ExecutionRecord]:
        return iter(self.execution_history)

    def results(self, routine_id: str, event: str) -> Iterator[dict[str, Any]]:
        wanted = (routine_id, event)
        return (r.data for r in self.execution_history if (r.routine_id, r.event_name) == wanted)

    def retry_count(self, routine_id: str) -> int:
        tasks = [task for task in self.pending_tasks if task.get("routine_id") == routine_id]
        return max((task.get("attempt", 1) - 1 for task in tasks), default=0)

    def routine_state(self, routine_id: str) -> dict[str, Any] | None:
        state = self.routine_states.get(routine_id)
        return None if state is None else dict(state)

    def put_routine_state(self, routine_id: str, state: Mapping[str, Any]) -> None:
        self.routine_states[routine_id] = dict(state)
        self._edited("put_routine_state", routine_id, dict(state))

    def drop_routine_state(self, routine_id: str) -> None:
        self.routine_states.pop(routine_id, None)
        self._edited("drop_routine_state", routine_id)

    def put_shared(self, key: str, value: Any) -> None:
        self.shared_data[key] = value
        self._edited("put_shared", key, value)

    def drop_shared(self, key: str) -> None:
        self.shared_data.pop(key, None)
        self._edited("drop_shared", key)

    def increment(self, key: str, by: float) -> None:
        self.shared_data[key] = self.shared_data.get(key, 0) + by
        self._edited("increment", key, by)

    def append(self, key: str, item: Any) -> None:
        self.shared_data[key] = [*self.shared_data.get(key, []), item]
        self._edited("append", key, item)

    def log(self, entry: dict[str, Any]) -> None:
        self.shared_log.append(entry)
        self._edited("log", entry)

    def defer(self, routine_id: str, event_name: str, data: dict[str, Any]) -> None:
        self.deferred_events.append({"routine_id": routine_id, "event_name": event_name, "data": data})
        self._edited("defer", routine_id, event_name, data)

    def send(self, routine_id: str, output_type: str, data: dict[str, Any]) -> bool:
        """Keep an output. False: nobody else will deliver it."""
        entry = {"job_id": self.job_id, "routine_id": routine_id, "output_type": output_type, "data": data}
        self.output_log.append({**entry, "timestamp": Timestamp.of(None).isoformat()})
        return False

    def record(self, record: ExecutionRecord) -> None:
        self.execution_history.append(record)
        self.touch()

    def _edited(self, method: str, *arguments: Any) -> None:
        self.edits.append((method, arguments))
        self.touch()

    def touch(self) -> None:
        """Note that something has changed now."""
        self.updated_at = Timestamp.of(None)


#: Written and read by :func:`to_json`, under the name of the attribute.
_VALUES = (
    "routine_states", "pending_tasks", "shared_data", "shared_log", "output_log", "deferred_events", "metadata",
    "checkpoint",
)  # fmt: skip
_PLAIN = ("job_id", "flow_id", "status", "current_routine_id")
_TIMES = ("created_at", "updated_at")
_KNOWN = {"_type", "edits", "execution_history", "pause_points", *_VALUES, *_PLAIN, *_TIMES}


class Behind:
    """What a JobState and its history stand before; another one when the job becomes live."""

    __slots__ = ("source",)

    def __init__(self, source: Document | LiveJob) -> None:
        self.source = source

    def history(self) -> Iterator[ExecutionRecord]:
        return self.source.history()

    def version(self) -> Any:
        return self.source.version()


def document_to_json(document: Document) -> dict[str, Any]:
    """JSON-able data of a document.

    Raises:
        NotSerializable: a value that can be neither written nor signed, naming it.
    """
    data: dict[str, Any] = {"_type": _TYPE, **document.unknown}
    for name in _PLAIN:
        data[name] = getattr(document, name)
    data["status"] = str(document.status)
    for name in _VALUES:
        data[name] = to_json(getattr(document, name), None, f"JobState {name}")
    if ENGINE in document.unknown and TASKS_AS_WRITTEN not in data:  # else somebody may have changed them since
        data[TASKS_AS_WRITTEN] = {task["activation_id"]: task_digests(task) for task in data["pending_tasks"]}
    if document.edits:
        data["edits"] = to_json([list(edit) for edit in document.edits], None, "JobState edits")
    for name in _TIMES:
        data[name] = getattr(document, name).isoformat()
    data["execution_history"] = serialized(document.execution_history)
    data["pause_points"] = [
        {
            **{key: to_json(value, None, f"pause point {key}") for key, value in point.items()},
            "timestamp": Timestamp.of(point.get("timestamp")).isoformat(),
        }
        for point in document.pause_points
    ]
    return data


def task_digests(task: Mapping[str, Any]) -> list[str]:
    """What tells whether somebody has changed a pending task: its input, and when it is to run."""
    import hashlib  # only who resumes a document needs it

    parts = (task.get("data"), [task.get("priority"), task.get("not_before")])
    return [hashlib.blake2b(json.dumps(part).encode(), digest_size=8).hexdigest() for part in parts]


def document_from_json(data: dict[str, Any]) -> Document:
    """The document that was written.

    Raises:
        ValueError: not a job state, or an impossible status.
    """
    if data.get("_type") != _TYPE:
        raise DefinitionError(f"Cannot deserialize data of type {data.get('_type')!r} into {_TYPE}")
    document = Document()
    for name in _PLAIN:
        if name in data:
            setattr(document, name, data[name])
    try:
        document.status = JobStatus(data.get("status", "pending"))
    except ValueError:
        raise DefinitionError(f"JobState {document.job_id!r}: no status {data.get('status')!r}") from None
    for name in _VALUES:
        if data.get(name) is not None:
            setattr(document, name, from_json(data[name], None, f"JobState {name}"))
    for name in _TIMES:
        setattr(document, name, Timestamp.of(data.get(name)))
    document.execution_history = [
        ExecutionRecord.deserialize({"_type": "ExecutionRecord", **record})
        for record in data.get("execution_history") or []
    ]
    for point in data.get("pause_points") or []:
        restored = {key: from_json(value) for key, value in point.items()}
        document.pause_points.append({**restored, "timestamp": Timestamp.of(point.get("timestamp"))})
    for method, arguments in from_json(data.get("edits") or [], None, "JobState edits"):
        if method not in _EDITS:
            raise DefinitionError(f"JobState {document.job_id!r}: no edit {method!r} is known to this version")
        document.edits.append((method, tuple(arguments)))
    document.unknown = {key: value for key, value in data.items() if key not in _KNOWN}
    return document


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    Raises:
        DefinitionError: it is not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise DefinitionError(f"{os.fspath(path)} is not JSON: {error}") from error


#: Elements of a list that are encoded in one call, which no other thread can interrupt.
_AT_ONCE = 200


def to_text(data: dict[str, Any]) -> str:
    """JSON for people to read: a line for every key, and for every element of what is below.

    An iterator gives records that are made as they are written: thousands at a time are work for the garbage collector.
    ``json`` indents in Python, which takes all threads of the owner three times as long for a long history.
    """
    return "{\n  " + ",\n  ".join([f"{json.dumps(key)}: {_lines(value)}" for key, value in data.items()]) + "\n}"


def _lines(value: Any) -> str:
    if isinstance(value, Iterator):
        text = ",\n    ".join(_records(value))
        return f"[\n    {text}\n  ]" if text else "[]"
    if isinstance(value, list) and value:
        lines = _records(iter(value)) if _is_record(value[0]) else map(json.dumps, value)
        return "[\n    " + ",\n    ".join(lines) + "\n  ]"
    if isinstance(value, dict) and value:
        return "{\n    " + ",\n    ".join([json.dumps({key: each})[1:-1] for key, each in value.items()]) + "\n  }"
    return json.dumps(value)


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and next(iter(value), None) == "_type"


def _records(records: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Many in one call, and the lines broken afterwards: a call for each takes three times as long.

    Where the pattern stands a value ends and another one begins: inside of a text a quotation mark has a backslash
    before it, and behind a text no name follows.
    """
    while some := list(islice(records, _AT_ONCE)):
        yield json.dumps(some)[1:-1].replace('}, {"_type"', '},\n    {"_type"')


def write_json(path: str | os.PathLike[str], data: dict[str, Any]) -> None:
    """Replace the file at ``path`` by ``data``, whole or not at all."""
    import secrets
    from pathlib import Path

    target = Path(path)
    private = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with private.open("x", encoding="utf-8") as file:
            file.write(to_text(data))
            file.flush()
            os.fsync(file.fileno())
        private.replace(target)
    finally:
        private.unlink(missing_ok=True)
