"""Between a job's view and the caller's values: decodes what a view shows, encodes what a caller writes.

A view's values are opaque bytes to the supervisor; this is the one place in the caller's process
that opens them. The rule owned here: what is handed out is a copy, and writing to it is a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ._core.job import ListValue, Value
from ._core.stimuli import StateOp
from ._core.view import JobView
from ._history import Timestamp
from ._serialization.batch import decode_value, encode_value
from ._serialization.signing import Signer

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
            return decode_value(value, self.signer, state_context(self.job_id))
        return value

    def encode(self, value: Any) -> bytes | int | float:
        """The value as the core keeps it: numbers as they are, so that they can be added to."""
        if type(value) in (int, float):
            return value  # type: ignore[no-any-return]
        return encode_value(value, self.signer, state_context(self.job_id))


def state_context(job_id: str) -> bytes:
    """The place that signed state of a job belongs to; the same in workers and here."""
    return b"state\0" + job_id.encode()


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


def routine_states_of(view: JobView, values: Values) -> dict[str, dict[str, Any]]:
    """All routine states: the framework's keys under the user's."""
    return {rid: routine_state_of(view, values, rid) or {} for rid in {**view.framework_states, **view.routine_states}}


def routine_state_of(view: JobView, values: Values, routine_id: str) -> dict[str, Any] | None:
    """One routine's state, or None if it was never activated and nobody wrote one."""
    framework = view.framework_states.get(routine_id)
    user = {k: v for k, v in view.routine_states.get(routine_id, {}).items() if not k.startswith(_RESERVED_PREFIX)}
    if framework is None and not user:
        return None
    decoded = {key: values.decode(value, routine_id, key) for key, value in user.items()}
    return {**framework_state(framework or {}), **decoded}


def framework_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """What the framework says of a routine, with times as ISO text."""
    return {
        key.removesuffix("_ns") if key.endswith("time_ns") else key: (
            Timestamp.of(value).isoformat() if key.endswith("time_ns") else value
        )
        for key, value in state.items()
    }


def replace_ops(old: Iterable[str], new: Mapping[str, Any], scope: str, values: Values) -> list[StateOp]:
    """What turns a scope's user keys ``old`` into ``new``."""
    gone = [key for key in old if key not in new and not key.startswith(_RESERVED_PREFIX)]
    return [
        *(StateOp("delete", scope, key) for key in gone),
        *(StateOp("set", scope, str(key), values.encode(value)) for key, value in new.items()),
    ]


def pause_point_of(point: Mapping[str, Any], decode: Callable[[bytes], Any]) -> dict[str, Any]:
    """A pause point as the seeds show it."""
    checkpoint = point.get("checkpoint") or b""
    return {
        "timestamp": Timestamp.of(point["time_ns"]),
        "reason": point.get("reason", ""),
        "checkpoint": decode(checkpoint) if checkpoint else None,
        "pending_tasks_count": point.get("pending_count", 0),
        "active_tasks_count": point.get("running_count", 0),
        "queue_size": point.get("pending_count", 0),
        "current_routine_id": point.get("current_routine"),
    }
