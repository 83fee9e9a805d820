"""Times and counts of a flow's executions, folded from their history or recorded by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from ._history import ExecutionRecord, Timestamp
from ._serialization.registry import Serializable, register_serializable

_FAILURES = ("error", "error_continued")


@register_serializable
class ExecutionTracker(Serializable):
    """What ran, how often it failed, which events were sent."""

    def __init__(self, flow_id: str = "") -> None:
        super().__init__()
        self.flow_id = flow_id
        #: routine id -> one dictionary per recorded execution
        self.routine_executions: dict[str, list[dict[str, Any]]] = {}
        #: one dictionary per emission
        self.event_flow: list[dict[str, Any]] = []
        self.performance_metrics: dict[str, Any] = {}
        self.add_serializable_fields(["flow_id", "routine_executions", "event_flow", "performance_metrics"])

    @classmethod
    def of(cls, flow_id: str, records: Iterable[ExecutionRecord]) -> Self:
        """The tracker of one execution's history."""
        tracker = cls(flow_id)
        for record in records:
            match record.event_name:
                case "start":
                    tracker._start(record.routine_id, record.data, record.timestamp)
                case "completed":
                    tracker._end(record.routine_id, "completed", record.timestamp, None, None)
                case name if name in _FAILURES:
                    tracker._start(record.routine_id, {}, record.timestamp)
                    tracker._end(record.routine_id, "failed", record.timestamp, None, record.data.get("error"))
                case _:
                    tracker._event(record.routine_id, record.event_name, None, record.data, record.timestamp)
        return tracker

    def record_routine_start(self, routine_id: str, params: dict[str, Any] | None = None) -> None:
        """An execution of the routine begins."""
        self._start(routine_id, params or {}, Timestamp.of(None))

    def record_routine_end(
        self, routine_id: str, status: str = "completed", result: Any = None, error: str | None = None
    ) -> None:
        """The routine's newest execution has ended."""
        self._end(routine_id, status, Timestamp.of(None), result, error)

    def record_event(
        self, source_routine_id: str, event_name: str, target_routine_id: str | None = None, data: Any = None
    ) -> None:
        """An emission was sent."""
        self._event(source_routine_id, event_name, target_routine_id, data, Timestamp.of(None))

    def get_routine_performance(self, routine_id: str) -> dict[str, Any] | None:
        """Counts and times of one routine, seconds; None if it never ran."""
        executions = self.routine_executions.get(routine_id)
        if not executions:
            return None
        times = [e["execution_time"] for e in executions if e.get("execution_time") is not None]
        completed = sum(e["status"] == "completed" for e in executions)
        return {
            "total_executions": len(executions),
            "completed": completed,
            "failed": sum(e["status"] == "failed" for e in executions),
            "success_rate": completed / len(executions),
            "avg_execution_time": sum(times) / len(times) if times else None,
            "min_execution_time": min(times, default=None),
            "max_execution_time": max(times, default=None),
        }

    def get_flow_performance(self) -> dict[str, Any]:
        """Counts over all routines."""
        executions = [e for of_routine in self.routine_executions.values() for e in of_routine]
        times = [e["execution_time"] for e in executions if e.get("execution_time") is not None]
        return {
            "total_routines": len(self.routine_executions),
            "total_executions": len(executions),
            "total_events": len(self.event_flow),
            "total_execution_time": sum(times),
        }

    def _start(self, routine_id: str, params: dict[str, Any], at: Any) -> None:
        entry = {
            "routine_id": routine_id,
            "start_time": at.isoformat(),
            "params": params,
            "status": "running",
            "execution_time": None,
        }
        self.routine_executions.setdefault(routine_id, []).append(entry)

    def _end(self, routine_id: str, status: str, at: Any, result: Any, error: str | None) -> None:
        running = [e for e in self.routine_executions.get(routine_id, []) if e["status"] == "running"]
        if not running:
            return
        entry = running[-1]
        elapsed_s = (at - Timestamp.of(entry["start_time"])).total_seconds()
        entry |= {"status": status, "end_time": at.isoformat(), "execution_time": elapsed_s}
        entry |= {"result": result, "error": error}

    def _event(self, source: str, event: str, target: str | None, data: Any, at: Any) -> None:
        self.event_flow.append(
            {
                "source_routine_id": source,
                "event_name": event,
                "target_routine_id": target,
                "data": data,
                "timestamp": at.isoformat(),
            }
        )
