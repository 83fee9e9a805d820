"""What follows from any change of a job: policies fire, generators that were held go on, the job ends."""

from __future__ import annotations

from collections.abc import Iterator

from . import asking
from .effects import Changed, Effect, GoOn, Revoke
from .effects import Ended as EndedEffect
from .job import Job
from .policy import quiescent_take, takes_after
from .records import Ended, Held, Paused, Quiet, Record
from .select import is_backed_up, must_lift

Step = Iterator[Record | Effect]

#: Why a job fails that took longer than its ``execution_timeout``.
TIME_IS_OVER = "execution_timeout is over"


def after(job: Job, now: int) -> Step:
    """Policies, generators that may go on, and the end of the job."""
    if job.closing:
        if not job.dispatches:
            status, reason, _ = job.closing
            if status == "paused":
                yield Paused(now)
            else:
                yield Ended(now, status, reason)
                yield EndedEffect()
            yield Changed()
        return
    if job.status != "running":
        return
    yield from takes_after(job, now)
    for number in [n for n, d in job.dispatches.items() if d.is_held]:
        d = job.dispatches[number]
        if not is_backed_up(job, d.routine) or must_lift(job, now) == d.routine:
            owed = d.owed
            yield Held(number, False)
            for _ in range(owed):  # each of its reports is answered once, or it would be given less and less room
                yield GoOn(d.worker, number)
    while not job.dispatches and all(r.is_idle for r in job.routines):
        if asking.is_waiting(job):
            return
        record = quiescent_take(job, now)
        if record is not None:
            yield record
            if type(record) is Quiet:
                return  # the answer comes from a worker
        elif job.is_open or job.deferred or now < job.ends_after_ns:
            return
        else:
            # Whoever ran last may have taken longer than there was time, and was not stopped for it.
            yield Ended(now, "failed", TIME_IS_OVER) if 0 < job.fails_at_ns <= now else Ended(now, "completed")
            yield Changed()
            yield EndedEffect()
            return


def revoke_all(job: Job) -> Step:
    for worker in {d.worker for d in job.dispatches.values()}:
        yield Revoke(worker, max(n for n, d in job.dispatches.items() if d.worker == worker))
