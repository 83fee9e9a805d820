"""Requests from outside, and what may be asked of single activations.

The rule it owns: the answer of a request is a record of the same commit as what the request caused,
so each takes effect exactly once, whichever owner reads it and however often it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .consequences import after
from .effects import Changed, Effect
from .job import Job
from .records import Answered, Record, Revived, Skipped
from .stimuli import Ask, Pause, Post, Resume, Retry, Skip, Stimulus, Yield

Step = Iterator[Record | Effect]


def ask(job: Job, s: Ask, now: int, decide: Callable[[Job, Stimulus, int], Step]) -> Step:
    """Obey and answer, or refuse and answer; an answered one is passed over.

    An ended job never changes again: that it has ended is the answer, and needs no record.
    """
    if job.is_terminal or job.has_answered(s.request_id):
        return
    refusal = s.refusal or _refusal(job, s)
    yield Answered(now, s.request_id, refusal)
    if not refusal and s.wish is not None:
        yield from decide(job, s.wish, now)


def _refusal(job: Job, s: Ask) -> str:
    """Why the job cannot do that now; empty when it can."""
    match s.wish:
        case Resume() if not (job.status == "paused" or job.deferred or (job.closing and job.closing[0] == "paused")):
            return f"the job is not paused, it is {job.status}"
        case Pause() if job.closing and job.closing[0] != "paused":
            return f"the job is ending ({job.closing[0]})"
        case Retry(routine, seq) | Skip(routine, seq) if not _found(job, routine, seq):
            if seq >= 0:
                return "this activation is no dead letter and does not wait for a retry"
            return "there are no dead letters and no activations that wait for a retry"
        case Post() if job.closing and job.closing[0] != "paused":
            return f"the job is ending ({job.closing[0]})"
        case None | Yield() | _:
            return ""


def retry(job: Job, s: Retry, now: int) -> Step:
    for routine, seq in _found(job, s.routine, s.seq):
        yield Revived(now, routine, seq)
    yield Changed()
    yield from after(job, now)


def skip(job: Job, s: Skip, now: int) -> Step:
    for routine, seq in _found(job, s.routine, s.seq):
        yield Skipped(now, routine, seq)
    yield Changed()
    yield from after(job, now)


def _found(job: Job, routine: int, seq: int) -> list[tuple[int, int]]:
    """Dead letters and activations that wait for their retry, all or the one that is named."""
    found = [(letter.routine, letter.seq) for letter in job.dead_letters]
    for number, state in enumerate(job.routines):
        running = {d.special for d in state.dispatches.values()}
        found += [(number, q) for q, special in state.special.items() if special.due_ns and q not in running]
    return [(r, q) for r, q in found if routine in (-1, r) and seq in (-1, q)]
