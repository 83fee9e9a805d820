"""Waiting for a job from outside: for its end, or for anything else about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .status import JobStatus

if TYPE_CHECKING:
    from .job_state import JobState

#: Called with (queue_size, active_count, status).
Progress = Callable[[int, int, JobStatus], Any]


def deadline_of(timeout_s: float | None) -> float | None:
    """When a wait that begins now is over; None: never."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def left_of(deadline_s: float | None) -> float | None:
    """How long until then, at least 0; None: for ever."""
    return None if deadline_s is None else max(0.0, deadline_s - time.monotonic())


def wait_for_end(
    job_state: JobState, timeout_s: float | None, interval_s: float, progress_callback: Progress | None
) -> bool:
    """Wait until the job has ended; see :meth:`JobState.wait_for_completion`."""
    live = job_state._live
    if live is None:
        return job_state.status.is_terminal
    deadline_s = deadline_of(timeout_s)
    step_max_s = None if progress_callback is None else interval_s
    is_over = False
    while not is_over:
        left_s = left_of(deadline_s)
        step_s = min((s for s in (left_s, step_max_s) if s is not None), default=None)
        is_over = live.wait(step_s, stops_when_paused=timeout_s is None) or left_s == 0.0
        if progress_callback is not None:
            view = live.handle.view
            progress_callback(view.queued + view.waiting, view.running, job_state.status)
    return job_state.status.is_terminal


def wait_for_all(job_states: Iterable[JobState], timeout_s: float | None) -> bool:
    """Wait until every one of them has ended; False on a timeout, or when one is paused and there is none."""
    deadline_s = deadline_of(timeout_s)
    have_ended = True
    for job_state in job_states:
        left_s = left_of(deadline_s)
        have_ended = wait_for_end(job_state, left_s, 0.1, None) and have_ended
    return have_ended


def wait_until(job_state: JobState, condition: Callable[[], bool], timeout_s: float | None, interval_s: float) -> bool:
    """Wait until the condition holds; False on a timeout, or when the job ends without it."""
    deadline_s = deadline_of(timeout_s)
    while not condition():
        live = job_state._live
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        if live is None or live.status.is_terminal or (left_s is not None and left_s <= 0):
            return condition()
        live.wait_for_change(interval_s if left_s is None else min(interval_s, left_s))
    return True
