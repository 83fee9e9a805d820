"""What people ask of a job: pause, resume, cancel, post, annotate, close.

The rule it owns: once a job is ending no later wish changes that, and what comes too late leaves no record.
"""

from __future__ import annotations

from collections.abc import Iterator

from .consequences import after, revoke_all
from .effects import Changed, Effect
from .job import Item, Job, RoutineState, Run
from .records import (
    Annotated,
    Closed,
    Edited,
    PauseAsked,
    Posted,
    Postponed,
    Record,
    Reordered,
    Resumed,
    Revived,
    StopAsked,
)  # fmt: skip
from .retry import has_retries_left
from .stimuli import Annotate, Cancel, Close, Edit, Emit, Fail, Pause, Post, Resume

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
    may_go_on = job.status == "paused" or is_waiting or _may_be_retried(job)
    if (job.closing and job.closing[0] == "paused") or (may_go_on and not job.closing):
        yield Resumed(now, tuple((d.routine, Emit(d.event, d.batch)) for d in job.deferred))
        yield Changed()
    if not job.is_terminal:
        yield from after(job, now)  # also what the previous owner still owed: an end, a policy's answer


def _may_be_retried(job: Job) -> bool:
    rules = {spec.routine_id: spec.error for spec in job.topology.routines}
    return job.status == "failed" and has_retries_left(job, rules)


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


def edit(job: Job, s: Edit, now: int) -> Step:
    """Change what is still to be done; what runs, or has run meanwhile, stays as it was."""
    if job.is_terminal or _is_ending(job):
        return
    priorities = {(routine, seq): priority for routine, seq, priority in s.priorities}
    for number, seq, batch in s.inputs:
        if isinstance(_queued(job.routines[number], seq), Run):
            yield Edited(now, number, seq, batch)
    for number, seq in s.due_now:
        special = job.routines[number].special.get(seq)
        if special is not None and special.due_ns:
            yield Revived(now, number, seq)
    for number, slot, batch, priority in s.posts:
        priorities[number, job.routines[number].next_seq] = priority
        yield Posted(now, number, slot, batch)
    for number in {number for (number, _), priority in priorities.items() if priority}:
        ready = job.routines[number].ready
        seqs = [seq for item in ready for seq in range(item.seq, item.seq + item.count)]
        wanted = sorted(seqs, key=lambda seq: (-priorities.get((number, seq), 0), seq))
        if wanted != seqs:
            yield Reordered(now, number, tuple(wanted))
    yield Changed()
    yield from after(job, now)


def _queued(routine: RoutineState, seq: int) -> Item | None:
    """The activation, if it is queued or waits, alone or in a run of them."""
    if any(d.special == seq for d in routine.dispatches.values()):
        return None
    if seq in routine.special:
        return routine.special[seq].item
    return next((item for item in routine.ready if item.seq <= seq < item.seq + item.count), None)


def annotate(job: Job, s: Annotate, now: int) -> Step:
    if job.is_terminal:
        return
    yield Annotated(now, s.ops)
    yield Changed()


def close(job: Job, s: Close, now: int) -> Step:
    if job.is_open and not job.is_terminal:
        yield Closed(now)
        yield from after(job, now)
