"""The execution history as the caller sees it: records with local times, lazily, in commit order.

Times are UTC nanoseconds on disk and naive local datetimes here, since that is what the seeds print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Self, overload

from ._serialization.json_values import from_json, to_json
from ._serialization.registry import Serializable, register_serializable


class Timestamp(datetime):
    """A naive local datetime whose text is ISO 8601 with ``T``."""

    @classmethod
    def of(cls, value: Any) -> Self:
        """From nanoseconds since the epoch, ISO text or a datetime; None is now."""
        if type(value) is cls and value.tzinfo is None:
            return value
        if value is None:
            return cls.now()
        if isinstance(value, int):
            seconds, nanoseconds = divmod(value, 1_000_000_000)
            return cls.fromtimestamp(seconds).replace(microsecond=nanoseconds // 1000)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if value.tzinfo is not None:
            value = value.astimezone().replace(tzinfo=None)
        return cls(
            value.year,
            value.month,
            value.day,
            value.hour,
            value.minute,
            value.second,
            value.microsecond,
            fold=value.fold,
        )

    @property
    def nanoseconds(self) -> int:
        """Since the epoch."""
        return round(self.timestamp() * 1_000_000) * 1000

    def __str__(self) -> str:
        return self.isoformat()

    def __format__(self, spec: str) -> str:
        return self.strftime(spec) if spec else self.isoformat()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (_timestamp, (self.isoformat(),))


def _timestamp(text: str) -> Timestamp:
    return Timestamp.of(text)


@register_serializable
class ExecutionRecord(Serializable):
    """One entry of the history: an event, or what happened to a routine."""

    def __init__(
        self,
        routine_id: str = "",
        event_name: str = "",
        data: dict[str, Any] | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        # Not by `add_serializable_fields`, which looks at each name: there are thousands of these.
        self.fields_to_serialize = ["routine_id", "event_name", "data", "timestamp"]
        self.routine_id = routine_id
        #: ``start``, ``completed``, ``error``, …, or the name of the event that was emitted.
        self.event_name = event_name
        self.data: dict[str, Any] = {} if data is None else data
        self.timestamp = Timestamp.of(timestamp)

    def serialize(self) -> dict[str, Any]:
        return self._with_time(self.timestamp.isoformat())

    def _with_time(self, timestamp: str) -> dict[str, Any]:
        return {
            "_type": "ExecutionRecord",
            "routine_id": self.routine_id,
            "event_name": self.event_name,
            "data": to_json(self.data, None, f"record '{self.routine_id}.{self.event_name}'"),
            "timestamp": timestamp,
        }

    def _restore(self, data: dict[str, Any]) -> None:
        self.routine_id = data.get("routine_id", "")
        self.event_name = data.get("event_name", "")
        self.data = from_json(data.get("data"), None, f"record '{self.routine_id}.{self.event_name}'")
        self.timestamp = Timestamp.of(data.get("timestamp"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExecutionRecord) and _content(self) == _content(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ExecutionRecord({self.routine_id!r}, {self.event_name!r}, {self.data!r}, {self.timestamp})"


def serialized(records: Iterable[ExecutionRecord]) -> list[dict[str, Any]]:
    """All of them; the text of a time is made once for those that follow each other with the same one."""
    found, last, text = [], None, ""
    for record in records:
        if record.timestamp is not last:
            last, text = record.timestamp, record.timestamp.isoformat()
        found.append(record._with_time(text))
    return found


def _content(record: ExecutionRecord) -> tuple[Any, ...]:
    return record.routine_id, record.event_name, record.data, record.timestamp


class History(Sequence[ExecutionRecord]):
    """All records of a job. Iterating reads them one by one; length and indexing read them all.

    It stays live: ``version`` says whether there may be more than at the last look.
    """

    def __init__(self, read: Callable[[], Iterable[ExecutionRecord]], version: Callable[[], Any]) -> None:
        self._read = read
        self._version = version
        self._cache: tuple[Any, list[ExecutionRecord]] | None = None

    def _all(self) -> list[ExecutionRecord]:
        # The version is taken first: what comes in while reading is read again, never missed.
        version = self._version()
        if self._cache is None or self._cache[0] != version:
            self._cache = (version, list(self._read()))
        return self._cache[1]

    def __iter__(self) -> Iterator[ExecutionRecord]:
        if self._cache is not None and self._cache[0] == self._version():
            return iter(self._cache[1])
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, index: int) -> ExecutionRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[ExecutionRecord]: ...
    def __getitem__(self, index: int | slice) -> ExecutionRecord | list[ExecutionRecord]:
        return self._all()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (list, tuple, History)) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._all())
