"""What people ask of a job: pause, resume, cancel, post, annotate, close.

The rule it owns: once a job is ending no later wish changes that, and what comes too late leaves no record.
"""

from __future__ import annotations

from collections.abc import Iterator

from .consequences import after, revoke_all
from .effects import Changed, Effect
from .job import Job
from .records import Annotated, Closed, PauseAsked, Posted, Postponed, Record, Resumed, StopAsked
from .stimuli import Annotate, Cancel, Close, Emit, Fail, Pause, Post, Resume

Step = Iterator[Record | Effect]


def pause(job: Job, s: Pause, now: int) -> Step:
    if job.is_terminal or _is_ending(job):
        return
    yield PauseAsked(now, s.reason, s.checkpoint, s.is_offer)
    yield from revoke_all(job)
    yield from after(job, now)
    yield Changed()


def postpone(job: Job, now: int) -> Step:
    """Put on record until when a job that was taken over may run."""
    if job.is_postponed and job.status == "running":
        yield Postponed(now, job.fails_at_ns)


def resume(job: Job, s: Resume, now: int) -> Step:
    yield from postpone(job, now)
    is_waiting = bool(job.deferred) and job.status == "running"  # for just this
    if (job.closing and job.closing[0] == "paused") or ((job.status == "paused" or is_waiting) and not job.closing):
        yield Resumed(now, tuple((d.routine, Emit(d.event, d.batch)) for d in job.deferred))
        yield Changed()
    if not job.is_terminal:
        yield from after(job, now)  # also what the previous owner still owed: an end, a policy's answer


def cancel(job: Job, s: Cancel, now: int) -> Step:
    if not (job.is_terminal or _is_ending(job)):
        yield from _stop(job, "cancelled", s.reason, now)


def fail(job: Job, s: Fail, now: int) -> Step:
    if not (job.is_terminal or _is_ending(job)):
        yield from _stop(job, "failed", s.reason, now)


def _is_ending(job: Job) -> bool:
    """It will be failed or cancelled once nothing runs any more: no later wish changes that."""
    return job.closing is not None and job.closing[0] != "paused"


def _stop(job: Job, status: str, reason: str, now: int) -> Step:
    yield StopAsked(now, status, reason)
    yield from revoke_all(job)
    yield from after(job, now)
    yield Changed()


def post(job: Job, s: Post, now: int) -> Step:
    if job.is_terminal or _is_ending(job):
        return  # it would be on record, and never run
    yield Posted(now, s.routine, s.slot, s.batch)
    yield Changed()
    yield from after(job, now)


def annotate(job: Job, s: Annotate, now: int) -> Step:
    if job.is_terminal:
        return
    yield Annotated(now, s.ops)
    yield Changed()


def close(job: Job, s: Close, now: int) -> Step:
    if job.is_open and not job.is_terminal:
        yield Closed(now)
        yield from after(job, now)
