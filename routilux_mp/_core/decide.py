"""``decide(job, stimulus, now_ns)``: what follows from what may have happened.

A generator of records and effects. Each record is applied before the next is asked for, so a
rule sees the job as its predecessors left it. Nothing here changes the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import asking, requests
from .effects import Changed, Effect, GoOn, Kill, Revoke
from .effects import Ended as EndedEffect
from .job import Dispatch, Job
from .policy import quiescent_take, takes_after
from .records import (
    Adopted,
    Annotated,
    Closed,
    Completed,
    Conflicted,
    Ended,
    Failed,
    Held,
    PauseAsked,
    Paused,
    Posted,
    Quiet,
    Record,
    Resumed,
    Returned,
    Seen,
    Stood,
    StopAsked,
    Submitted,
)  # fmt: skip
from .retry import action_for
from .select import dispatch, is_backed_up, must_lift
from .stimuli import (
    STATE_OPS,
    Adopt,
    Annotate,
    Ask,
    Cancel,
    Capacity,
    Close,
    Completion,
    Drain,
    Emit,
    Fail,
    Failure,
    HandedBack,
    Pause,
    Post,
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


# -- from workers -------------------------------------------------------------------------------


def _completion(job: Job, s: Completion, now: int) -> Step:
    d = job.dispatches.get(s.dispatch)
    if d is None:
        return  # handed back earlier: this report counts nothing
    if d.question is not None:
        yield from _answer(job, d, s, now)
        return
    if (s.reads or job.holds) and _conflicts(job, d, s):
        seq = _next_seq(d)
        keys = tuple(dict.fromkeys((*s.reads, *((op.scope, op.key) for op in s.ops if op.op in STATE_OPS))))
        yield Conflicted(d.routine, seq, keys)
        yield from _hand_back(job, d.worker)
        yield from _after(job, now)
        return
    if s.done or s.cursor is not None or s.emits or s.ops:
        ranges, follower = _ranges(d, s.done)
        partial = follower if s.cursor is not None else -1
        yield Completed(now, d.routine, ranges, s.emits, s.ops, partial, s.cursor)
        yield Changed()
        yield from _wishes(job, s, now)
    if s.failure is not None:
        yield from _failure(job, d, _next_seq(d), s.failure, now)
        yield from _hand_back(job, d.worker)
    elif s.is_last:
        yield Returned(s.dispatch)
    elif s.cursor is not None:
        # What holds keys is never made to wait: others may wait for it.
        if is_backed_up(job, d.routine) and s.dispatch not in job.holds.values():
            yield Held(s.dispatch, True)
            if job.topology.strategy == "sequential":
                yield Revoke(d.worker, s.dispatch)  # nobody else runs while it waits: it goes on later
        else:
            yield GoOn(d.worker, s.dispatch)
    yield from _after(job, now)


def _wishes(job: Job, s: Completion, now: int) -> Step:
    """What handlers of these activations asked for: it holds with their commit."""
    for op, _, reason, value in s.ops:
        if op == "pause":
            yield from _pause(job, Pause(reason, value if isinstance(value, bytes) else b""), now)
        elif op == "cancel":
            yield from _cancel(job, Cancel(reason), now)


def _answer(job: Job, d: Dispatch, s: Completion, now: int) -> Step:
    """A custom policy was asked."""
    if s.failure is None:
        yield from asking.answered(job, d, s, now)
        yield Returned(s.dispatch)
    else:
        yield from asking.failed(job, d, s.failure, now)
        if job.closing:
            yield from _revoke_all(job)
        yield from _hand_back(job, d.worker)
    yield from _after(job, now)


def _ranges(d: Dispatch, done: int) -> tuple[tuple[int, ...], int]:
    """Numbers of the next ``done`` activations as (first, count, …), and the number that follows."""
    out: list[int] = []
    left = done
    if d.special >= 0:
        if not left:
            return (), d.special
        out += [d.special, 1]
        left -= 1
    for item in d.items:
        if not left:
            return tuple(out), item.seq
        count = min(left, item.count)
        if out and out[-2] + out[-1] == item.seq:
            out[-1] += count
        else:
            out += [item.seq, count]
        left -= count
        if count < item.count:
            return tuple(out), item.seq + count
    return tuple(out), -1


def _next_seq(d: Dispatch) -> int:
    return d.special if d.special >= 0 else d.items[0].seq


def _conflicts(job: Job, d: Dispatch, s: Completion) -> bool:
    """Whether another commit has changed what this activation read, or another one holds what it changes."""
    for key in s.reads:
        if job.changed_for(d.worker, key) > d.version:
            return True
    if job.holds:
        for op in s.ops:
            if op.op in STATE_OPS and job.holds.get((op.scope, op.key), s.dispatch) != s.dispatch:
                return True
    return False


def _failure(job: Job, d: Dispatch, seq: int, failure: Failure, now: int) -> Step:
    special = job.routines[d.routine].special.get(seq)
    attempt = special.attempt if special else 1
    crashes = special.crashes if special else 0
    spec = job.topology.routines[d.routine]
    action, due = action_for(spec, d.routine == job.entry, failure, attempt, crashes, job.max_crashes, now)
    yield Failed(now, d.routine, seq, attempt, action, failure, due)
    yield Changed()
    if job.closing:
        yield from _revoke_all(job)


def _hand_back(job: Job, worker: int) -> Step:
    """Everything this worker still has of the job comes back; it drops what is on its way to it."""
    yield Revoke(worker, 0)
    yield Seen(worker, -1)
    for number in [n for n, d in job.dispatches.items() if d.worker == worker]:
        yield Returned(number)


def _handed_back(job: Job, s: HandedBack, now: int) -> Step:
    yield Seen(s.worker, -1)
    for number in [n for n, d in job.dispatches.items() if d.worker == s.worker]:
        yield Returned(number)
    yield from _after(job, now)


def _worker_lost(job: Job, s: WorkerLost, now: int) -> Step:
    d = job.dispatches.get(s.dispatch)
    if d is not None and d.worker == s.worker and s.failure is not None and s.index >= d.reported:
        # What it finished and could not report any more is not known to us: it runs again, uncharged.
        seq = _seq_at(d, s.index - d.reported)
        if d.question is not None:
            yield from asking.failed(job, d, s.failure, now)
            if job.closing:
                yield from _revoke_all(job)
        elif seq is not None:
            yield from _failure(job, d, seq, s.failure, now)
    yield Seen(s.worker, -1)
    for number in [n for n, d in job.dispatches.items() if d.worker == s.worker]:
        yield Returned(number)
    yield from _after(job, now)


def _seq_at(d: Dispatch, offset: int) -> int | None:
    if d.special >= 0:
        if not offset:
            return d.special
        offset -= 1
    for item in d.items:
        if offset < item.count:
            return item.seq + offset
        offset -= item.count
    return None


# -- from the supervisor ------------------------------------------------------------------------


def _submit(job: Job, s: Submit, now: int) -> Step:
    yield Submitted(now, s.flow_id, s.topology, s.entry, s.slot, s.batch, s.metadata, s.code, s.ops)
    yield Changed()
    yield from _after(job, now)


def _adopt(job: Job, s: Adopt, now: int) -> Step:
    yield Adopted(now, s.flow_id, s.snapshot, s.past, s.code)
    if s.ops:
        yield Annotated(now, s.ops)
    yield Changed()
    yield from _resume(job, Resume(), now)


def _stands(job: Job, s: Stands, now: int) -> Step:
    yield Stood(s.commit)


def _tick(job: Job, s: Tick, now: int) -> Step:
    if job.closing and job.closing[0] != "paused" and now - job.closing[2] > job.grace_ns:
        for worker in {d.worker for d in job.dispatches.values()}:
            yield Kill(worker)
    yield from _after(job, now)


def _drain(job: Job, s: Drain, now: int) -> Step:
    yield from _revoke_all(job)


# -- from people --------------------------------------------------------------------------------


def _pause(job: Job, s: Pause, now: int) -> Step:
    if job.is_terminal or _is_ending(job):
        return
    yield PauseAsked(now, s.reason, s.checkpoint, s.is_offer)
    yield from _revoke_all(job)
    yield from _after(job, now)
    yield Changed()


def _resume(job: Job, s: Resume, now: int) -> Step:
    is_waiting = bool(job.deferred) and job.status == "running"  # for just this
    if (job.closing and job.closing[0] == "paused") or ((job.status == "paused" or is_waiting) and not job.closing):
        yield Resumed(now, tuple((d.routine, Emit(d.event, d.batch)) for d in job.deferred))
        yield Changed()
    if not job.is_terminal:
        yield from _after(job, now)  # also what the previous owner still owed: an end, a policy's answer


def _cancel(job: Job, s: Cancel, now: int) -> Step:
    if not (job.is_terminal or _is_ending(job)):
        yield from _stop(job, "cancelled", s.reason, now)


def _fail(job: Job, s: Fail, now: int) -> Step:
    if not (job.is_terminal or _is_ending(job)):
        yield from _stop(job, "failed", s.reason, now)


def _is_ending(job: Job) -> bool:
    """It will be failed or cancelled once nothing runs any more: no later wish changes that."""
    return job.closing is not None and job.closing[0] != "paused"


def _stop(job: Job, status: str, reason: str, now: int) -> Step:
    yield StopAsked(now, status, reason)
    yield from _revoke_all(job)
    yield from _after(job, now)
    yield Changed()


def _post(job: Job, s: Post, now: int) -> Step:
    if job.is_terminal:
        return  # it would be on record, and never run
    yield Posted(now, s.routine, s.slot, s.batch)
    yield Changed()
    yield from _after(job, now)


def _annotate(job: Job, s: Annotate, now: int) -> Step:
    if job.is_terminal:
        return
    yield Annotated(now, s.ops)
    yield Changed()


def _close(job: Job, s: Close, now: int) -> Step:
    if job.is_open and not job.is_terminal:
        yield Closed(now)
        yield from _after(job, now)


def _ask(job: Job, s: Ask, now: int) -> Step:
    return requests.ask(job, s, now, decide)


def _retry(job: Job, s: Retry, now: int) -> Step:
    return requests.retry(job, s, now, _after)


def _skip(job: Job, s: Skip, now: int) -> Step:
    return requests.skip(job, s, now, _after)


def _yield(job: Job, s: Yield, now: int) -> Step:
    yield Changed()  # the shell hands the job over once what runs has ended


def _revoke_all(job: Job) -> Step:
    for worker in {d.worker for d in job.dispatches.values()}:
        yield Revoke(worker, max(n for n, d in job.dispatches.items() if d.worker == worker))


def _capacity(job: Job, s: Capacity, now: int) -> Step:
    return dispatch(job, s, now)


# -- what follows from any change ---------------------------------------------------------------


def _after(job: Job, now: int) -> Step:
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
            yield Held(number, False)
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
            yield Ended(now, "completed")
            yield Changed()
            yield EndedEffect()
            return


_DECIDE: dict[type, Callable[..., Step]] = {
    Completion: _completion, WorkerLost: _worker_lost, HandedBack: _handed_back, Submit: _submit, Adopt: _adopt, Stands: _stands,
    Tick: _tick, Drain: _drain, Pause: _pause, Resume: _resume, Cancel: _cancel, Fail: _fail, Post: _post,
    Annotate: _annotate, Close: _close, Capacity: _capacity, Retry: _retry, Skip: _skip, Yield: _yield, Ask: _ask,
}  # fmt: skip
