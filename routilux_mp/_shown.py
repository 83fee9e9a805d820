"""What the core says of a job, in the words and with the times that its JobState uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._history import ExecutionRecord, Timestamp
from ._serialization.json_values import to_json

if TYPE_CHECKING:
    from ._worker.records import HistoryItem


def records_of(items: Iterable[HistoryItem]) -> Iterator[ExecutionRecord]:
    """Those that were committed together have one time, which is made once."""
    last_ns, timestamp = 0, Timestamp.of(0)
    for item in items:
        if item.time_ns != last_ns:
            last_ns, timestamp = item.time_ns, Timestamp.of(item.time_ns)
        yield ExecutionRecord(item.routine_id, item.event_name, item.data, timestamp)


def rows_of(items: Iterable[HistoryItem]) -> Iterator[dict[str, Any]]:
    """The same records as JSON-able data, without the objects between: a view has thousands."""
    last_ns, time, last_id, last_name, where = -1, "", None, None, ""
    for routine_id, event_name, data, time_ns in items:
        if time_ns != last_ns:
            last_ns, time = time_ns, Timestamp.of(time_ns).isoformat()
        if routine_id is not last_id or event_name is not last_name:
            last_id, last_name, where = routine_id, event_name, f"record '{routine_id}.{event_name}'"
        yield {
            "_type": "ExecutionRecord", "routine_id": routine_id, "event_name": event_name,
            "data": to_json(data, None, where), "timestamp": time,
        }  # fmt: skip


def plain_times(shown: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, Timestamp) else value for key, value in shown.items()}


def shown_output(item: Any) -> dict[str, Any]:
    shown = {"routine_id": item.routine_id, "output_type": item.output_type, "data": item.data}
    return {**shown, "timestamp": Timestamp.of(item.time_ns).isoformat()}


def framework_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """What the framework says of a routine, with times as ISO text."""
    shown: dict[str, Any] = {}
    for key, value in state.items():
        if key.endswith("time_ns"):
            shown[key.removesuffix("_ns")] = Timestamp.of(value).isoformat()
        else:
            shown[key] = value
    return shown
