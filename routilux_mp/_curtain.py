"""What is shown of a job that had ended before it was told to pause, resume or cancel."""

from __future__ import annotations

import time
from typing import Any

from ._history import Timestamp
from .status import JobStatus


class Curtain:
    """A status in front of the job's own.

    The seeds pause, resume and cancel jobs that may have ended by then, and see the status they
    asked for. The job itself stays ended; resuming gives it its own status back, a moment later.
    """

    #: An ended job that is resumed shows ``running`` this long.
    RESUMED_S = 0.1

    def __init__(self) -> None:
        self._status: JobStatus | None = None
        self._until_s = 0.0
        self.pause_points: list[dict[str, Any]] = []
        self.routine_states: dict[str, dict[str, Any]] = {}

    @property
    def status(self) -> JobStatus | None:
        """The status to show instead of the job's own, or None."""
        if self._status == JobStatus.RUNNING and time.monotonic() >= self._until_s:
            self._status = None
        return self._status

    @property
    def left_s(self) -> float:
        """How long ``running`` will still be shown, seconds."""
        return max(0.0, self._until_s - time.monotonic()) if self.status == JobStatus.RUNNING else 0.0

    def pause(self, reason: str, checkpoint: Any) -> None:
        self._status = JobStatus.PAUSED
        point = {"timestamp": Timestamp.of(None), "reason": reason, "checkpoint": checkpoint}
        counts = {"pending_tasks_count": 0, "active_tasks_count": 0, "queue_size": 0, "current_routine_id": None}
        self.pause_points.append({**point, **counts})

    def resume(self) -> None:
        self._status = JobStatus.RUNNING
        self._until_s = time.monotonic() + self.RESUMED_S

    def cancel(self, reason: str) -> None:
        self._status = JobStatus.CANCELLED
        self.routine_states["_cancellation"] = {"reason": reason}
