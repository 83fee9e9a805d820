"""What workers tell: activations that are done, failures, conflicts, and work that comes back.

The rule it owns: a report counts only while its dispatch is out; at a conflict, or a failure that those behind it may
have to wait for, everything that its worker still has of the job is handed back.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from . import asking, wishes
from .consequences import after, revoke_all
from .effects import Changed, Dropped, Effect, GoOn, Revoke, Unreadable
from .job import Dispatch, Job
from .records import Completed, Conflicted, Failed, Held, Record, Rested, Returned, Seen
from .retry import SETTLES, action_for
from .select import is_backed_up
from .stimuli import STATE_OPS, Cancel, Completion, Failure, HandedBack, Pause, WorkerLost

Step = Iterator[Record | Effect]

#: Before input that could not be read is given out again; doubled each time.
REST_NS = 200_000_000
REST_MAX_NS = 10_000_000_000


def completion(job: Job, s: Completion, now: int) -> Step:
    d = job.dispatches.get(s.dispatch)
    if d is None:
        if s.emits:
            yield Dropped(tuple(emit.batch for emit in s.emits))
        return  # handed back earlier: this report counts nothing
    if d.question is not None:
        yield from _answer(job, d, s, now)
        return
    if (s.reads or job.holds) and _conflicts(job, d, s):
        seq = _next_seq(d)
        keys = tuple(dict.fromkeys((*s.reads, *((op.scope, op.key) for op in s.ops if op.op in STATE_OPS))))
        yield Conflicted(d.routine, seq, keys)
        if s.emits:
            yield Dropped(tuple(emit.batch for emit in s.emits))
        yield from _hand_back(job, d.worker)
        yield from after(job, now)
        return
    if s.done or s.cursor is not None or s.emits or s.ops:
        ranges, follower = _ranges(d, s.done)
        partial = follower if s.cursor is not None else -1
        yield Completed(now, d.routine, ranges, s.emits, s.ops, partial, s.cursor, s.order)
        yield Changed()
        yield from _wishes(job, s, now)
    if s.failure is not None:
        is_settled = False
        if s.failure.kind == "storage":
            yield from _rest(job, d, s.failure, now)
        else:
            is_settled = yield from _failure(job, d, _next_seq(d), s.failure, now)
        if s.is_last or not is_settled:
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
    yield from after(job, now)


def _wishes(job: Job, s: Completion, now: int) -> Step:
    """What handlers of these activations asked for: it holds with their commit."""
    for op, _, reason, value in s.ops:
        if op == "pause":
            yield from wishes.pause(job, Pause(reason, value if isinstance(value, bytes) else b""), now)
        elif op == "cancel":
            yield from wishes.cancel(job, Cancel(reason), now)


def _answer(job: Job, d: Dispatch, s: Completion, now: int) -> Step:
    """A custom policy was asked."""
    if s.failure is None:
        yield from asking.answered(job, d, s, now)
        yield Returned(s.dispatch)
    else:
        if s.failure.kind == "storage":
            yield from _rest(job, d, s.failure, now)
        else:
            yield from asking.failed(job, d, s.failure, now)
            if job.closing:
                yield from revoke_all(job)
        yield from _hand_back(job, d.worker)
    yield from after(job, now)


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


def _failure(job: Job, d: Dispatch, seq: int, failure: Failure, now: int) -> Generator[Record | Effect, None, bool]:
    """Whether the activation is over with that, and the next one may run."""
    special = job.routines[d.routine].special.get(seq)
    attempt = special.attempt if special else 1
    crashes = special.crashes if special else 0
    spec = job.topology.routines[d.routine]
    action, due = action_for(spec, d.routine == job.entry, failure, attempt, crashes, job.max_crashes, now)
    yield Failed(now, d.routine, seq, attempt, action, failure, due)
    yield Changed()
    if job.closing:
        yield from revoke_all(job)
    return action in SETTLES


def _rest(job: Job, d: Dispatch, failure: Failure, now: int) -> Step:
    """Its input cannot be read. Nobody is to blame and nothing is lost: it stays queued, and is tried again later."""
    yield Rested(d.routine, now + min(REST_NS << min(job.routines[d.routine].rests, 9), REST_MAX_NS))
    yield Unreadable(d.routine, failure)


def _hand_back(job: Job, worker: int) -> Step:
    """Everything this worker still has of the job comes back; it drops what is on its way to it."""
    yield Revoke(worker, 0)
    yield Seen(worker, -1)
    for number in [n for n, d in job.dispatches.items() if d.worker == worker]:
        yield Returned(number)


def handed_back(job: Job, s: HandedBack, now: int) -> Step:
    yield Seen(s.worker, -1)
    for number in [n for n, d in job.dispatches.items() if d.worker == s.worker]:
        yield Returned(number)
    yield from after(job, now)


def worker_lost(job: Job, s: WorkerLost, now: int) -> Step:
    d = job.dispatches.get(s.dispatch)
    if d is not None and d.worker == s.worker and s.failure is not None and s.index >= d.reported:
        # What it finished and could not report any more is not known to us: it runs again, uncharged.
        seq = _seq_at(d, s.index - d.reported)
        if d.question is not None:
            yield from asking.failed(job, d, s.failure, now)
            if job.closing:
                yield from revoke_all(job)
        elif seq is not None:
            yield from _failure(job, d, seq, s.failure, now)
    yield Seen(s.worker, -1)
    for number in [n for n, d in job.dispatches.items() if d.worker == s.worker]:
        yield Returned(number)
    yield from after(job, now)


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
