"""``decide(job, stimulus, now_ns)``: what follows from what may have happened.

A generator of records and effects. Each record is applied before the next is asked for, so a
rule sees the job as its predecessors left it. Nothing here changes the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import reports, requests, wishes
from .consequences import TIME_IS_OVER, after, revoke_all
from .effects import Changed, Effect, Kill
from .job import Job
from .records import Adopted, Annotated, Recoded, Record, Stood, Submitted
from .select import dispatch
from .stimuli import (
    Adopt,
    Annotate,
    Ask,
    Cancel,
    Capacity,
    Close,
    Completion,
    Drain,
    Edit,
    Fail,
    HandedBack,
    Pause,
    Post,
    Recode,
    Resume,
    Retry,
    Skip,
    Stands,
    Stimulus,
    Submit,
    Tick,
    WorkerLost,
    Yield,
)  # fmt: skip

Step = Iterator[Record | Effect]


def decide(job: Job, stimulus: Stimulus, now_ns: int) -> Step:
    """Records (to be applied at once, in order) and effects that follow from ``stimulus``."""
    return _DECIDE[type(stimulus)](job, stimulus, now_ns)


def _submit(job: Job, s: Submit, now: int) -> Step:
    yield Submitted(now, s.flow_id, s.topology, s.entry, s.slot, s.batch, s.metadata, s.code, s.ops, s.limit_ns)
    yield Changed()
    yield from after(job, now)


def _adopt(job: Job, s: Adopt, now: int) -> Step:
    yield Adopted(now, s.flow_id, s.snapshot, s.past, s.code)
    if s.ops:
        yield Annotated(now, s.ops)
    yield Changed()
    yield from wishes.resume(job, Resume(), now)


def _recode(job: Job, s: Recode, now: int) -> Step:
    yield Recoded(now, s.batch)


def _stands(job: Job, s: Stands, now: int) -> Step:
    yield Stood(s.commit)


def _tick(job: Job, s: Tick, now: int) -> Step:
    yield from wishes.postpone(job, now)
    if job.status == "running" and 0 < job.fails_at_ns <= now:
        yield from wishes.fail(job, Fail(TIME_IS_OVER), now)
    if job.closing and job.closing[0] != "paused" and now - job.closing[2] > job.grace_ns:
        for worker in {d.worker for d in job.dispatches.values()}:
            yield Kill(worker)
    yield from after(job, now)


def _drain(job: Job, s: Drain, now: int) -> Step:
    yield from revoke_all(job)


def _ask(job: Job, s: Ask, now: int) -> Step:
    return requests.ask(job, s, now, decide)


def _yield(job: Job, s: Yield, now: int) -> Step:
    yield Changed()  # the shell hands the job over once what runs has ended


def _capacity(job: Job, s: Capacity, now: int) -> Step:
    return dispatch(job, s, now)


_DECIDE: dict[type, Callable[..., Step]] = {
    Completion: reports.completion, WorkerLost: reports.worker_lost, HandedBack: reports.handed_back,
    Submit: _submit, Adopt: _adopt, Stands: _stands, Tick: _tick, Drain: _drain, Capacity: _capacity, Yield: _yield,
    Pause: wishes.pause, Resume: wishes.resume, Cancel: wishes.cancel, Fail: wishes.fail, Post: wishes.post,
    Annotate: wishes.annotate, Close: wishes.close, Edit: wishes.edit, Retry: requests.retry, Skip: requests.skip,
    Ask: _ask, Recode: _recode,
}  # fmt: skip
