"""What the core says of a job, in the words and with the times that its JobState uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._history import ExecutionRecord, Timestamp

if TYPE_CHECKING:
    from ._worker.records import HistoryItem


def records_of(items: Iterable[HistoryItem]) -> Iterator[ExecutionRecord]:
    """Those that were committed together have one time, which is made once."""
    last_ns, timestamp = 0, Timestamp.of(0)
    for item in items:
        if item.time_ns != last_ns:
            last_ns, timestamp = item.time_ns, Timestamp.of(item.time_ns)
        yield ExecutionRecord(item.routine_id, item.event_name, item.data, timestamp)


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
