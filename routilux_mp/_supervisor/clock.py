"""The clocks of the shell; the core gets their readings as arguments."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    def now_ns(self) -> int:
        """UTC nanoseconds for records; never goes back within one process."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC, which workers on this host share."""


class SystemClock:
    def __init__(self) -> None:
        self._last = 0
        self._ahead_ns = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        # A clock that was set back must not reorder the history, nor stand still: much waits for a time to come. The
        # other one is read after it, so that a pause between the two readings makes it no later than it is.
        self._ahead_ns = max(self._ahead_ns, time.time_ns() - time.monotonic_ns())
        self._last = max(self._last + 1, time.monotonic_ns() + self._ahead_ns)
        return self._last

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


def deadline_of(timeout_s: float | None) -> Callable[[], float | None]:
    """How much of a time limit is left, seconds; None for ever."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    return lambda: None if end is None else max(0.0, end - time.monotonic())
