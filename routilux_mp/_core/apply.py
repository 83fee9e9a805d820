"""``apply(job, record)``: the one function that changes a job. It mutates and decides nothing.

The live run, recovery, a standby and every reader go through it. Durable records read only
durable parts of the job, so that replaying them gives the same job as living through them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .history import completes_entry
from .batch import Batch
from .job import DeadLetter, Deferred, Dispatch, Group, Item, Job, ListValue, RoutineState, Run, Special
from .plain import fill
from .queues import consume, enqueue, extract, keep_cursor, release_in_order, requeue, route, take_runs
from .records import (
    Adopted,
    Annotated,
    Answered,
    Asked,
    Closed,
    Completed,
    Conflicted,
    Declined,
    Dispatched,
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
    Revived,
    Seen,
    Skipped,
    Stood,
    StopAsked,
    Submitted,
    Taken,
)  # fmt: skip
from .stimuli import STATE_OPS, StateOp
from .topology import Topology

#: Requests that a job remembers; the older half is then known by its low-water mark only.
ANSWERED_MAX = 512
#: A resumed job runs at least this long, even with nothing left to do (spec/api-details, "Pausing and resuming").
RESUMED_FOR_NS = 100_000_000


def apply(job: Job, record: Record, commit: int = 0, source: Dispatch | None = None) -> None:
    """Change ``job`` by ``record``.

    ``commit`` and ``source`` are volatile: the commit that will carry the record, so that nothing
    it causes is dispatched before it stands; and the dispatch whose report it is, since the copy of
    the state that its worker has knows of it already.
    """
    _APPLY[type(record)](job, record, commit, source)


# -- the job ------------------------------------------------------------------------------------


def _submitted(job: Job, record: Submitted, commit: int, source: Dispatch | None) -> None:
    job.topology = topology = Topology.from_plain(record.topology)
    job.routines = [RoutineState(len(r.slots)) for r in topology.routines]
    job.status = "running"
    job.created_ns = job.updated_ns = record.time_ns
    job.entry, job.entry_slot, job.entry_batch = record.entry, record.slot, record.batch
    job.metadata = record.metadata
    job.is_open = record.batch is None
    _change_state(job, record.ops, commit, None)
    if record.batch is not None:
        job.record_count += 1  # "start"
        job.framework[job.routine_id(record.entry)] = {"status": "running"}
        enqueue(job, record.entry, record.slot, -1, record.batch, commit)


def _adopted(job: Job, record: Adopted, commit: int, source: Dispatch | None) -> None:
    fill(job, record.snapshot)
    job.resume_commit = commit


def _posted(job: Job, record: Posted, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    enqueue(job, record.routine, record.slot, -1, record.batch, commit)


def _annotated(job: Job, record: Annotated, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    _change_state(job, record.ops, commit, None)


def _pause_asked(job: Job, record: PauseAsked, commit: int, source: Dispatch | None) -> None:
    if record.is_offer and job.status == "paused" and not record.checkpoint:
        job.is_offered = True  # it stays paused as its user has asked; new is only that another may go on with it
        return
    job.updated_ns = record.time_ns
    job.closing = ("paused", record.reason, record.time_ns)
    job.checkpoint = record.checkpoint
    job.is_offered = record.is_offer


def _paused(job: Job, record: Paused, commit: int, source: Dispatch | None) -> None:
    reason = job.closing[1] if job.closing else ""
    job.updated_ns = record.time_ns
    job.closing = None
    job.status = "paused"
    point = {"time_ns": record.time_ns, "reason": reason, "checkpoint": job.checkpoint}
    job.pause_points.append({**point, "pending_count": job.activation_count()})


def _resumed(job: Job, record: Resumed, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    job.closing = None
    job.status = "running"
    job.is_offered = False
    job.reason = ""
    job.ends_after_ns = record.time_ns + RESUMED_FOR_NS
    job.resume_commit = commit
    job.deferred = []
    for routine, emit in record.deferred:
        job.record_count += emit.batch.count
        route(job, routine, emit, commit)


def _stop_asked(job: Job, record: StopAsked, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    job.closing = (record.status, record.reason, record.time_ns)


def _closed(job: Job, record: Closed, commit: int, source: Dispatch | None) -> None:
    job.is_open = False


def _ended(job: Job, record: Ended, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    job.status = record.status
    job.reason = record.reason
    job.closing = None
    if record.status == "cancelled":
        job.framework["_cancellation"] = {"reason": record.reason}


def _answered(job: Job, record: Answered, commit: int, source: Dispatch | None) -> None:
    # Not an update: what was asked for has a record of its own, if it changed anything.
    job.answered[record.request_id] = record.refusal
    if len(job.answered) > ANSWERED_MAX:
        kept = sorted(job.answered)
        job.answered_low = max(job.answered_low, kept[ANSWERED_MAX // 2 - 1])
        job.answered = {i: job.answered[i] for i in kept if i > job.answered_low}


# -- activations --------------------------------------------------------------------------------


def _completed(job: Job, record: Completed, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    number = record.routine
    routine = job.routines[number]
    spec = job.topology.routines[number]
    routine.has_run = True
    ranges = record.ranges
    for i in range(0, len(ranges), 2):
        first, count = ranges[i], ranges[i + 1]
        consume(routine, first, count)
        job.activations += count
        routine.done += count
    if record.partial >= 0:
        keep_cursor(routine, record.partial, record.cursor, commit)
    if ranges:
        state = job.framework.setdefault(spec.routine_id, {})
        if state.get("status") != "completed":
            job.framework[spec.routine_id] = {"status": "completed"}
        if completes_entry(job.entry, record):
            job.record_count += 1  # "completed" of the entry activation
    if record.ops:
        _change_state(job, record.ops, commit, source)
    if spec.is_ordered and spec.workers != 1:
        release_in_order(job, number, ranges, record.partial, record.emits, commit)
    else:
        for emit in record.emits:
            route(job, number, emit, commit)
    for emit in record.emits:
        job.record_count += emit.batch.count


def _failed(job: Job, record: Failed, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    routine = job.routines[record.routine]
    rid = job.routine_id(record.routine)
    action, failure, seq = record.action, record.failure, record.seq
    job.record_count += 1
    if seq < 0:
        _policy_failed(job, routine, record)
        return
    routine.has_run = True
    old = routine.special.get(seq)
    if action in ("retry", "again"):
        item = old.item if old else extract(routine, seq)[0]
        crashes = (old.crashes if old else 0) + (action == "again")
        attempt = record.attempt + (action == "retry")
        item = item._replace(commit=commit)  # the attempt is on record before the next one starts
        routine.special[seq] = Special(item, attempt, crashes, record.due_ns, old.cursor if old else None)
    elif action != "stop":
        # A crash or a timeout may be in the middle of a dispatch: it is taken out wherever it is.
        item = old.item if old else extract(routine, seq)[0]
        routine.special[seq] = Special(item)
        consume(routine, seq, 1)
        if action in ("dead", "dead_stop"):
            cursor = old.cursor if old else None
            job.dead_letters.append(DeadLetter(record.routine, seq, item, failure, record.time_ns, cursor))
    _count_failure(job, routine, record, seq)
    spec = job.topology.routines[record.routine]
    if spec.is_ordered and spec.workers != 1 and action not in ("retry", "again", "stop"):
        release_in_order(job, record.routine, (seq, 1), -1, (), commit)


def _count_failure(job: Job, routine: RoutineState, record: Failed, seq: int) -> None:
    failure, rid = record.failure, job.routine_id(record.routine)
    if failure.kind != "crash":
        if routine.last_failed != seq:
            routine.last_failed, routine.failures = seq, 0
        routine.failures += 1
    if record.action in ("stop", "dead_stop") and (job.closing is None or job.closing[0] == "paused"):
        job.closing = ("failed", f"{rid}: {failure.type_name}: {failure.message}", record.time_ns)
    _framework_of_failure(job, rid, record)


def _policy_failed(job: Job, routine: RoutineState, record: Failed) -> None:
    """What the policy was asked about stays in its slots."""
    if record.action == "retry":
        routine.ask_attempt = record.attempt + 1
        routine.ask_due_ns = record.due_ns
    elif record.action == "again":
        routine.ask_crashes += 1
    else:
        routine.given_up = -record.seq
        _begin_asking_anew(routine)
    _count_failure(job, routine, record, -1)


def _begin_asking_anew(routine: RoutineState) -> None:
    routine.ask_attempt, routine.ask_crashes, routine.ask_due_ns = 1, 0, 0


def _declined(job: Job, record: Declined, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    _begin_asking_anew(job.routines[record.routine])


def _revived(job: Job, record: Revived, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    routine = job.routines[record.routine]
    waiting = routine.special.get(record.seq)
    if waiting is not None:
        item = waiting.item._replace(commit=commit)
        routine.special[record.seq] = waiting._replace(item=item, due_ns=0)
        return
    letter = _take_letter(job, record.routine, record.seq)
    for run in letter.item.runs if isinstance(letter.item, Group) else (letter.item,):
        routine.queued[run.slot] += run.count
    routine.special[record.seq] = Special(letter.item._replace(commit=commit), cursor=letter.cursor)


def _skipped(job: Job, record: Skipped, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    routine = job.routines[record.routine]
    if record.seq not in routine.special:
        _take_letter(job, record.routine, record.seq)
        return
    consume(routine, record.seq, 1)
    spec = job.topology.routines[record.routine]
    job.framework[spec.routine_id] = {**job.framework.get(spec.routine_id, {}), "status": "skipped"}
    if spec.is_ordered and spec.workers != 1:
        release_in_order(job, record.routine, (record.seq, 1), -1, (), commit)


def _take_letter(job: Job, routine: int, seq: int) -> DeadLetter:
    index = next(i for i, d in enumerate(job.dead_letters) if (d.routine, d.seq) == (routine, seq))
    return job.dead_letters.pop(index)


def _framework_of_failure(job: Job, rid: str, record: Failed) -> None:
    """What ``routine_states`` says of a failed attempt; the keys are those of the seeds."""
    text = record.failure.message
    match record.action:
        case "retry" | "again":
            job.framework[rid] = {**job.framework.get(rid, {}), "status": "retrying", "error": text}
        case "continue":
            job.framework[rid] = {"status": "error_continued", "error": text, "error_type": record.failure.type_name}
        case "skip":
            job.framework[rid] = {"status": "skipped", "error": text}
        case "tolerate" | "dead":
            job.framework[rid] = {"status": "error", "error": text, "error_type": record.failure.type_name}
        case _:
            job.framework[rid] = {"status": "failed", "error": text, "error_time_ns": record.time_ns}


def _taken(job: Job, record: Taken, commit: int, source: Dispatch | None) -> None:
    routine = job.routines[record.routine]
    runs: list[Run] = []
    for slot, count in enumerate(record.takes):
        runs.extend(take_runs(routine.slots[slot], count))
        # Counted as queued until the activation is done: the bound is on what waits and what is in hand.
    if runs:  # else the same question would be asked for ever
        routine.is_asked_finally = False
    _begin_asking_anew(routine)
    group = Group(routine.next_seq, tuple(runs), record.message, commit)
    routine.next_seq += 1
    routine.ready.append(group)
    routine.ready_count += 1
    routine.has_fired = True
    routine.last_taken_ns = record.time_ns


# -- state --------------------------------------------------------------------------------------


def _change_state(job: Job, ops: tuple[StateOp, ...], commit: int, source: Dispatch | None) -> None:
    shipped = job.shipped.get(source.worker) if source is not None and job.shipped else None
    for op, scope, key, value in ops:
        if op not in STATE_OPS:
            _note(job, op, scope, key, value)
            continue
        values = job.state.setdefault(scope, {})
        if op == "set":
            values[key] = value  # type: ignore[assignment]
        elif op == "delete":
            values.pop(key, None)
        elif op == "increment":
            old = values.get(key, 0)
            values[key] = (old if isinstance(old, (int, float)) else 0) + value  # type: ignore[operator]
        elif op == "append":
            old_list = values.get(key)
            if not isinstance(old_list, ListValue):
                old_list = values[key] = ListValue(old_list)
            old_list.items.append(value)  # type: ignore[arg-type]
        worker = -1 if source is None else source.worker
        if shipped and source is not None and shipped.get((scope, key), 0) > source.dispatch:
            worker = -1  # its copy was replaced, after it did this, by a value that lacks it
        _, writer, foreign = changed = job.changed.get((scope, key), (0, -1, 0))
        if op in ("set", "delete"):
            foreign = 0  # whatever was there before, this is what is there now
        elif writer != worker:
            foreign = changed[0]
        job.version += 1
        job.changed[(scope, key)] = (job.version, worker, foreign)
        job.recent.append((job.version, worker, (scope, key)))
        job.state_commit = commit


def _note(job: Job, op: str, scope: str, key: str, value: object) -> None:
    if op == "log":
        job.log_count += 1
    elif op == "send":
        job.sent_count += 1
    elif op == "defer":
        routine = job.topology.index_of(scope)
        assert routine is not None and isinstance(value, bytes)
        event = job.topology.routines[routine].events.index(key)
        job.deferred.append(Deferred(routine, event, Batch(1, value)))


# -- volatile -----------------------------------------------------------------------------------


def _dispatched(job: Job, record: Dispatched, commit: int, source: Dispatch | None) -> None:
    routine = job.routines[record.routine]
    items: deque[Item] = deque()
    if record.seq >= 0:
        for key in routine.special[record.seq].keys:
            job.holds[key] = record.dispatch
    count = record.count
    routine.ready_count -= count
    while count:
        item = routine.ready.popleft()
        if item.count > count:
            assert isinstance(item, Run)
            rest = item._replace(seq=item.seq + count, start=item.start + count, count=item.count - count)
            routine.ready.appendleft(rest)
            item = item._replace(count=count)
        items.append(item)
        count -= item.count
    version = job.seen.get(record.worker, -1)
    dispatch = Dispatch(record.dispatch, record.worker, record.routine, items, record.seq, version)
    dispatch.question = record.question
    if record.question is not None:
        routine.asking = record.dispatch
    if record.shipped and any(d.worker == record.worker for d in job.dispatches.values()):
        shipped = job.shipped.setdefault(record.worker, {})
        shipped.update((key, record.dispatch) for key in record.shipped)
    job.dispatches[record.dispatch] = routine.dispatches[record.dispatch] = dispatch
    job.current = record.routine


def _returned(job: Job, record: Returned, commit: int, source: Dispatch | None) -> None:
    dispatch = job.dispatches.pop(record.dispatch)
    routine = job.routines[dispatch.routine]
    del routine.dispatches[record.dispatch]
    if routine.asking == record.dispatch:
        routine.asking = 0
    requeue(routine, dispatch.items)
    if job.shipped and all(d.worker != dispatch.worker for d in job.dispatches.values()):
        job.shipped.pop(dispatch.worker, None)
    for key in [key for key, holder in job.holds.items() if holder == record.dispatch]:
        del job.holds[key]
    if job.current == dispatch.routine and not routine.dispatches:
        job.current = next((d.routine for d in job.dispatches.values()), None)


def _held(job: Job, record: Held, commit: int, source: Dispatch | None) -> None:
    job.dispatches[record.dispatch].is_held = record.is_held


def _conflicted(job: Job, record: Conflicted, commit: int, source: Dispatch | None) -> None:
    routine = job.routines[record.routine]
    old = routine.special.get(record.seq)
    if old is None:
        routine.special[record.seq] = Special(extract(routine, record.seq)[0], keys=record.keys)
    else:
        routine.special[record.seq] = old._replace(keys=record.keys)


def _stood(job: Job, record: Stood, commit: int, source: Dispatch | None) -> None:
    job.stands = record.commit


def _asked(job: Job, record: Asked, commit: int, source: Dispatch | None) -> None:
    routine = job.routines[record.routine]
    routine.asked = max(routine.asked, record.until)
    if record.is_final:
        routine.is_asked_finally, routine.is_quiet = True, False


def _quiet(job: Job, record: Quiet, commit: int, source: Dispatch | None) -> None:
    job.routines[record.routine].is_quiet = True


def _seen(job: Job, record: Seen, commit: int, source: Dispatch | None) -> None:
    if record.version < 0:
        job.seen.pop(record.worker, None)
    else:
        job.seen[record.worker] = record.version


_APPLY: dict[type, Callable[..., None]] = {
    Submitted: _submitted, Completed: _completed, Failed: _failed, Taken: _taken, Posted: _posted,
    Annotated: _annotated, PauseAsked: _pause_asked, Paused: _paused, Resumed: _resumed, StopAsked: _stop_asked,
    Closed: _closed, Ended: _ended, Dispatched: _dispatched, Returned: _returned, Held: _held,
    Conflicted: _conflicted, Stood: _stood, Seen: _seen,
    Answered: _answered, Revived: _revived, Skipped: _skipped, Declined: _declined, Adopted: _adopted,
    Asked: _asked, Quiet: _quiet,
}  # fmt: skip
