"""Which activations may run now, and who gets them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from . import asking
from .effects import Effect, Part, Work
from .job import Group, Item, Job, Key, RoutineState, Run, Special
from .records import Dispatched, Record, Seen
from .retry import is_tolerant
from .stimuli import Capacity

#: A worker is given no further batch with those that are so large already.
DISPATCH_BYTES_MAX = 1024 * 1024


def wanted(job: Job, now_ns: int) -> list[int]:
    """Routines that have work for a worker now; those nearest the sink first."""
    if not _may_dispatch(job):
        return []
    ready: list[int] = []
    for number, routine in enumerate(job.routines):
        if (routine.ready or routine.special) and _has_work(job, number, routine, now_ns):
            if routine.rest_until_ns <= now_ns and not is_backed_up(job, number):
                ready.append(number)
    for number in job.topology.custom:
        if number not in ready and asking.question(job, number, now_ns):
            ready.append(number)  # an answer emits nothing: it need not wait until there is room
    if not ready:
        lifted = must_lift(job, now_ns)
        return [] if lifted is None or not _has_work(job, lifted, job.routines[lifted], now_ns) else [lifted]
    depth = job.topology.depth
    ready.sort(key=lambda n: depth[n])
    return ready


def _may_dispatch(job: Job) -> bool:
    """Nothing forbids that anything at all is started."""
    if job.status != "running" or job.closing or job.is_draining or job.resume_commit > job.stands:
        return False
    return not (job.topology.strategy == "sequential" and job.dispatches)


def is_backed_up(job: Job, number: int) -> bool:
    """A slot that this routine feeds is full: it is not activated until that has drained."""
    for target, slot in job.topology.feeds[number]:
        if job.routines[target].queued[slot] >= job.topology.routines[target].queue_max:
            return True
    return False


def must_lift(job: Job, now_ns: int) -> int | None:
    """The held routine nearest the sink, when only the bound keeps the job from going on."""
    held: list[int] = []
    waiting: list[int] = []
    stuck = {d.worker for d in job.dispatches.values() if d.is_held}  # with all that waits behind that in each
    for number, routine in enumerate(job.routines):
        if routine.special.next_due_ns(now_ns):
            waiting.append(number)
        backed_up = is_backed_up(job, number)
        running = any(d.worker not in stuck for d in routine.dispatches.values())
        if running or asking.question(job, number, now_ns):
            return None
        if not backed_up and (routine.ready or _is_due(routine, now_ns)):
            return None
        if backed_up and (_has_work(job, number, routine, now_ns) or routine.dispatches):
            held.append(number)
    if waiting:  # a retry that is due later may make room: the bound holds until then
        held = [n for n in held if all(n not in job.topology.upstream[w] for w in waiting)]
    return min(held, key=lambda n: job.topology.depth[n], default=None)


def _is_due(routine: RoutineState, now_ns: int) -> bool:
    return any(True for _ in chain(routine.special.prompt(), routine.special.due(now_ns)))


def next_due_ns(job: Job, now_ns: int) -> int:
    """When the next waiting retry is due, or the job's time is over; 0: never.

    What is due already needs a worker, not a clock.
    """
    due = asking.next_due_ns(job, now_ns)
    if job.fails_at_ns > now_ns and job.status == "running" and (not due or job.fails_at_ns < due):
        due = job.fails_at_ns
    for routine in job.routines:
        if routine.rest_until_ns > now_ns and (not due or routine.rest_until_ns < due):
            due = routine.rest_until_ns
        retry_ns = routine.special.next_due_ns(now_ns) if routine.special else 0
        if retry_ns and (not due or retry_ns < due):
            due = retry_ns
    return due


def dispatch(job: Job, s: Capacity, now_ns: int) -> Iterator[Record | Effect]:
    """Give up to ``s.count`` activations of one routine to a worker."""
    routine = job.routines[s.routine]
    spec = job.topology.routines[s.routine]
    if not _may_dispatch(job) or routine.rest_until_ns > now_ns:
        return
    question = asking.question(job, s.routine, now_ns) if s.may_ask else None
    if question is None and is_backed_up(job, s.routine) and must_lift(job, now_ns) != s.routine:
        return
    holders = {d.worker for d in routine.dispatches.values()}
    if spec.workers and s.worker not in holders and len(holders) >= spec.workers:
        return
    if any(d.is_held for d in routine.dispatches.values() if d.worker == s.worker):
        return  # it waits in its generator
    is_reset = s.worker not in job.seen
    if job.state_commit > job.stands and (is_reset or _foreign_keys(job, s.worker)):
        return  # it would see state that is not durable yet
    if question is not None:
        yield from _ask(job, s, question, is_reset)
        return
    seq = _special_to_run(job, routine, now_ns)
    before = _special_in_turn(routine) if spec.workers == 1 else None
    if before is not None and (seq is None or seq > before or (routine.ready and routine.ready[0].seq < before)):
        seq = None  # in order: what was handed back and came before it goes first, and no due retry overtakes it
    if seq is not None:
        special = routine.special[seq]
        if special.keys and any(d.worker == s.worker for d in job.dispatches.values()):
            return  # what runs before it could conflict, and take it back with itself: it cannot lose twice
        state = _unseen_state(job, s.worker, is_reset)
        yield Seen(s.worker, job.version)
        yield Dispatched(s.dispatch, s.worker, s.routine, 0, seq, tuple((scope, key) for scope, key, _ in state))
        yield _work(job, s, (special.item,), state, is_reset, special)
        return
    items, count = _head(job, routine, s.count, spec.is_ordered and spec.workers != 1, before)
    if not count:
        return
    state = _unseen_state(job, s.worker, is_reset)
    yield Seen(s.worker, job.version)
    yield Dispatched(s.dispatch, s.worker, s.routine, count, -1, tuple((scope, key) for scope, key, _ in state))
    yield _work(job, s, items, state, is_reset, None)


def _ask(job: Job, s: Capacity, question: asking.Question, is_reset: bool) -> Iterator[Record | Effect]:
    """Have the routine's policy asked, in place of an activation."""
    asked, until, is_final = question
    state = _unseen_state(job, s.worker, is_reset)
    shipped = tuple((scope, key) for scope, key, _ in state)
    parts = list(asking.parts_of(job.routines[s.routine], until))
    yield Seen(s.worker, job.version)
    yield Dispatched(s.dispatch, s.worker, s.routine, 0, -1, shipped, (until, is_final))
    yield Work(
        s.dispatch, s.worker, s.routine, tuple(seq for seq, _ in parts), tuple(part for _, part in parts),
        is_group=True, state=state, is_reset=is_reset, question=(asked, is_final),
    )  # fmt: skip


def _head(
    job: Job, routine: RoutineState, limit: int, is_ordered: bool, before: int | None
) -> tuple[tuple[Item, ...], int]:
    """Durable activations from the head of the queue, at most ``limit``; a group goes alone.

    Those from number ``before`` on wait for a special one.
    """
    items: list[Item] = []
    count = size = 0
    for item in routine.ready:
        if item.commit > job.stands or (items and (size > DISPATCH_BYTES_MAX or isinstance(item, Group))):
            break
        if is_ordered:
            if items and items[-1].seq + items[-1].count != item.seq:
                break
            limit = min(limit, routine.next_release + job.ordered_window_max - item.seq + count)
        take = min(item.count, limit - count)
        if before is not None:
            take = min(take, before - item.seq)
        if take <= 0:
            break
        if isinstance(item, Run):
            size += item.batch.size
        items.append(item if take == item.count else item._replace(count=take))
        count += take
        if isinstance(item, Group):
            break
    return tuple(items), count


def _has_work(job: Job, number: int, routine: RoutineState, now_ns: int) -> bool:
    if routine.ready and routine.ready[0].commit <= job.stands:
        return True
    return bool(routine.special) and _special_to_run(job, routine, now_ns) is not None


def _special_to_run(job: Job, routine: RoutineState, now_ns: int) -> int | None:
    """The first special activation that is due, durable, not running, and whose keys are free."""
    if not routine.special:
        return None
    running = {d.special for d in routine.dispatches.values()}

    def may_run(seq: int) -> bool:
        special = routine.special[seq]
        if seq in running or special.item.commit > job.stands:
            return False
        return not (job.holds and any(key in job.holds for key in special.keys))

    firsts = (min(filter(may_run, routine.special.prompt()), default=None),
              next(filter(may_run, routine.special.due(now_ns)), None))  # fmt: skip
    return min((seq for seq in firsts if seq is not None), default=None)


def _special_in_turn(routine: RoutineState) -> int | None:
    """The first activation that crashed, conflicted or committed a cursor: later ones must not overtake it."""
    return min(routine.special.prompt(), default=None)


def _foreign_keys(job: Job, worker: int) -> dict[Key, None]:
    """Keys that somebody else has changed since this worker got its copy of the state."""
    seen = job.seen[worker]
    keys: dict[Key, None] = {}
    for version, writer, key in reversed(job.recent):
        if version <= seen:
            return keys
        if writer != worker:
            keys[key] = None
    if job.recent and job.recent[0][0] > seen + 1:  # the oldest of them are forgotten
        return dict.fromkeys(key for key in job.changed if job.changed_for(worker, key) > seen)
    return keys


def _unseen_state(job: Job, worker: int, is_reset: bool) -> tuple[tuple[str, str, object], ...]:
    """What this worker's copy of the job's state lacks: (scope, key, value; None: deleted)."""
    if is_reset:
        return tuple((scope, key, value) for scope, values in job.state.items() for key, value in values.items())
    if job.seen[worker] == job.version:
        return ()
    return tuple((scope, key, job.state.get(scope, {}).get(key)) for scope, key in _foreign_keys(job, worker))


def _work(
    job: Job, s: Capacity, items: tuple[Item, ...], state: tuple[tuple[str, str, object], ...], is_reset: bool,
    special: Special | None,
) -> Work:  # fmt: skip
    first = items[0]
    runs = first.runs if isinstance(first, Group) else items
    parts = tuple(Part(r.slot, r.connection, r.batch, r.start, r.count) for r in runs)  # type: ignore[union-attr]
    return Work(
        s.dispatch, s.worker, s.routine,
        tuple(item.seq for item in items), parts, isinstance(first, Group),
        first.message if isinstance(first, Group) else b"",
        special.attempt if special else 1, special.cursor if special else None, state, is_reset,
        is_tolerant=is_tolerant(job.topology.routines[s.routine], s.routine == job.entry),
    )  # fmt: skip
