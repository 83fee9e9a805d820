"""The status of a job: a string that compares, formats and serialises as its plain text."""

from __future__ import annotations

from enum import Enum


class JobStatus(str, Enum):
    """``pending -> running -> completed | failed | cancelled``, and ``running <-> paused``."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    # str(), format() and f-strings of a str-Enum differ between Python versions; users print it.
    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, spec: str) -> str:
        return str.__format__(str.__str__(self), spec)

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
