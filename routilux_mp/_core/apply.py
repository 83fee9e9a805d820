"""``apply(job, record)``: the one function that changes a job. It mutates and decides nothing.

The live run, recovery, a standby and every reader go through it. Durable records read only
durable parts of the job, so that replaying them gives the same job as living through them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .batch import Batch
from .history import completes_entry
from .job import DeadLetter, Dispatch, Group, Item, Job, ListValue, RoutineState, Run, Special
from .records import (
    Annotated,
    Answered,
    Closed,
    Completed,
    Conflicted,
    Dispatched,
    Ended,
    Failed,
    Held,
    PauseAsked,
    Paused,
    Posted,
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
from .stimuli import Emit, StateOp
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
        _queue(job, record.entry, record.slot, -1, record.batch, commit)


def _posted(job: Job, record: Posted, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    _queue(job, record.routine, record.slot, -1, record.batch, commit)


def _annotated(job: Job, record: Annotated, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    _change_state(job, record.ops, commit, None)


def _pause_asked(job: Job, record: PauseAsked, commit: int, source: Dispatch | None) -> None:
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
    job.pause_points.append({**point, "pending_count": job.pending_count()})


def _resumed(job: Job, record: Resumed, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    job.closing = None
    job.status = "running"
    job.is_offered = False
    job.reason = ""
    job.ends_after_ns = record.time_ns + RESUMED_FOR_NS
    job.resume_commit = commit


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
    job.updated_ns = record.time_ns
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
        _consume(routine, first, count)
        job.activations += count
        routine.done += count
    if record.partial >= 0:
        _keep_cursor(routine, record.partial, record.cursor, commit)
    if ranges:
        state = job.framework.setdefault(spec.routine_id, {})
        if state.get("status") != "completed":
            job.framework[spec.routine_id] = {"status": "completed"}
        if completes_entry(job.entry, record):
            job.record_count += 1  # "completed" of the entry activation
    if record.ops:
        _change_state(job, record.ops, commit, source)
    if spec.is_ordered and spec.workers != 1:
        _release_in_order(job, number, ranges, record.partial, record.emits, commit)
    else:
        for emit in record.emits:
            _route(job, number, emit, commit)
    for emit in record.emits:
        job.record_count += emit.batch.count


def _failed(job: Job, record: Failed, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    routine = job.routines[record.routine]
    rid = job.routine_id(record.routine)
    action, failure, seq = record.action, record.failure, record.seq
    routine.has_run = True
    job.record_count += 1
    old = routine.special.get(seq)
    if action in ("retry", "again"):
        item = old.item if old else _extract(routine, seq)[0]
        crashes = (old.crashes if old else 0) + (action == "again")
        attempt = record.attempt + (action == "retry")
        item = item._replace(commit=commit)  # the attempt is on record before the next one starts
        routine.special[seq] = Special(item, attempt, crashes, record.due_ns, old.cursor if old else None)
    elif action != "stop":
        # A crash or a timeout may be in the middle of a dispatch: it is taken out wherever it is.
        item = old.item if old else _extract(routine, seq)[0]
        routine.special[seq] = Special(item)
        _consume(routine, seq, 1)
        if action in ("dead", "dead_stop"):
            cursor = old.cursor if old else None
            job.dead_letters.append(DeadLetter(record.routine, seq, item, failure, record.time_ns, cursor))
    if failure.kind != "crash":
        if routine.last_failed != seq:
            routine.last_failed, routine.failures = seq, 0
        routine.failures += 1
    if action in ("stop", "dead_stop") and (job.closing is None or job.closing[0] == "paused"):
        job.closing = ("failed", f"{rid}: {failure.type_name}: {failure.message}", record.time_ns)
    _framework_of_failure(job, rid, record)
    spec = job.topology.routines[record.routine]
    if spec.is_ordered and spec.workers != 1 and action not in ("retry", "again", "stop"):
        _release_in_order(job, record.routine, (seq, 1), -1, (), commit)


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
    _consume(routine, record.seq, 1)
    spec = job.topology.routines[record.routine]
    job.framework[spec.routine_id] = {**job.framework.get(spec.routine_id, {}), "status": "skipped"}
    if spec.is_ordered and spec.workers != 1:
        _release_in_order(job, record.routine, (record.seq, 1), -1, (), commit)


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
        runs.extend(_take_runs(routine.slots[slot], count))
        # Counted as queued until the activation is done: the bound is on what waits and what is in hand.
    group = Group(routine.next_seq, tuple(runs), record.message, commit)
    routine.next_seq += 1
    routine.ready.append(group)
    routine.ready_count += 1
    routine.has_fired = True
    routine.last_taken_ns = record.time_ns


# -- queues -------------------------------------------------------------------------------------


def _route(job: Job, number: int, emit: Emit, commit: int) -> None:
    connections = job.topology.routes.get((number, emit.event))
    if connections is None:
        key = (number, emit.event)
        job.results[key] = job.results.get(key, 0) + emit.batch.count
        return
    for connection in connections:
        _, _, target, slot = job.topology.connections[connection]
        _queue(job, target, slot, connection, emit.batch, commit)


def _queue(job: Job, target: int, slot: int, connection: int, batch: Batch, commit: int) -> None:
    routine = job.routines[target]
    count = batch.count
    routine.queued[slot] += count
    if job.topology.routines[target].policy.kind == "each":
        routine.ready.append(Run(routine.next_seq, slot, connection, batch, 0, count, commit))
        routine.ready_count += count
        routine.next_seq += count
    else:
        routine.slots[slot].append(Run(-1, slot, connection, batch, 0, count, commit))


def _take_runs(queue: deque[Run], count: int) -> list[Run]:
    taken: list[Run] = []
    while count:
        run = queue.popleft()
        if run.count > count:
            queue.appendleft(run._replace(start=run.start + count, count=run.count - count))
            run = run._replace(count=count)
        taken.append(run)
        count -= run.count
    return taken


def _consume(routine: RoutineState, first: int, count: int) -> None:
    """Activations ``first`` … are done or given up: they leave every queue."""
    if first in routine.special:
        _uncount(routine, routine.special.pop(first).item)
        for dispatch in routine.dispatches.values():
            if dispatch.special == first:
                dispatch.special = -1
                dispatch.reported += 1
        first, count = first + 1, count - 1
        if not count:
            return
    for dispatch in routine.dispatches.values():
        if dispatch.items and dispatch.items[0].seq == first:
            dispatch.reported += count
            _consume_head(routine, dispatch.items, count)
            return
    routine.ready_count -= count
    _consume_within(routine, first, count)


def _consume_head(routine: RoutineState, items: deque[Item], count: int) -> None:
    while count:
        item = items[0]
        if item.count <= count:
            items.popleft()
            count -= item.count
            _uncount(routine, item)
        else:
            assert isinstance(item, Run)
            items[0] = item._replace(seq=item.seq + count, start=item.start + count, count=item.count - count)
            routine.queued[item.slot] -= count
            count = 0


def _consume_within(routine: RoutineState, first: int, count: int) -> None:
    """Replay: what was under way is still in the ready queue, mostly at its head."""
    ready = routine.ready
    while count:
        before: list[Item] = []
        while ready[0].seq + ready[0].count <= first:
            before.append(ready.popleft())
        item = ready.popleft()
        skip = first - item.seq
        done = min(count, item.count - skip)
        if isinstance(item, Run):
            rest = item.count - skip - done
            if rest:
                ready.appendleft(item._replace(seq=first + done, start=item.start + skip + done, count=rest))
            if skip:
                before.append(item._replace(count=skip))
            routine.queued[item.slot] -= done
        else:
            _uncount(routine, item)
        ready.extendleft(reversed(before))
        first += done
        count -= done


def _uncount(routine: RoutineState, item: Item) -> None:
    if isinstance(item, Run):
        routine.queued[item.slot] -= item.count
    else:
        for run in item.runs:
            routine.queued[run.slot] -= run.count


def _extract(routine: RoutineState, seq: int) -> tuple[Item, Dispatch | None]:
    """Take one activation out of the queues, still counted, to be looked at singly."""
    for dispatch in routine.dispatches.values():
        for item in dispatch.items:
            if item.seq <= seq < item.seq + item.count:
                single, rest = _split(item, seq)
                _replace_item(dispatch.items, item, rest)
                return single, dispatch
    for item in routine.ready:
        if item.seq <= seq < item.seq + item.count:
            single, rest = _split(item, seq)
            _replace_item(routine.ready, item, rest)
            routine.ready_count -= 1
            return single, None
    raise AssertionError(f"activation {seq} is not queued")


def _split(item: Item, seq: int) -> tuple[Item, list[Item]]:
    if isinstance(item, Group):
        return item, []
    at = seq - item.seq
    rest: list[Item] = []
    if at:
        rest.append(item._replace(count=at))
    if at + 1 < item.count:
        rest.append(item._replace(seq=seq + 1, start=item.start + at + 1, count=item.count - at - 1))
    return item._replace(seq=seq, start=item.start + at, count=1), rest


def _replace_item(queue: deque[Item], item: Item, by: list[Item]) -> None:
    index = queue.index(item)
    del queue[index]
    for offset, part in enumerate(by):
        queue.insert(index + offset, part)


def _keep_cursor(routine: RoutineState, seq: int, cursor: bytes | None, commit: int) -> None:
    """The activation has committed a cursor: from here on it is a special one, its counts anew."""
    old = routine.special.get(seq)
    if old is None:
        item, dispatch = _extract(routine, seq)
        if dispatch is not None:
            dispatch.special = seq
    else:
        item = old.item
    routine.special[seq] = Special(item._replace(commit=commit), cursor=cursor)


def _release_in_order(
    job: Job, number: int, ranges: tuple[int, ...], partial: int, emits: tuple[Emit, ...], commit: int
) -> None:
    """``ordered=True``: emissions leave in the order of the inputs that caused them."""
    routine = job.routines[number]
    first = ranges[0] if ranges else partial
    if first < routine.next_release:  # a dead letter that was revived: its place was given free long ago
        for emit in emits:
            _route(job, number, emit, commit)
        return
    _, before = routine.held_emits.get(first, (0, ()))
    routine.held_emits[first] = (sum(ranges[1::2]), before + emits)
    while routine.next_release in routine.held_emits:
        count, released = routine.held_emits.pop(routine.next_release)
        for emit in released:
            _route(job, number, emit, commit)
        if not count:
            break  # it has committed a cursor and goes on
        routine.next_release += count


# -- state --------------------------------------------------------------------------------------


def _change_state(job: Job, ops: tuple[StateOp, ...], commit: int, source: Dispatch | None) -> None:
    shipped = job.shipped.get(source.worker) if source is not None and job.shipped else None
    for op, scope, key, value in ops:
        if op == "log":
            job.log_count += 1
            continue
        if op == "output":
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
    if record.shipped and any(d.worker == record.worker for d in job.dispatches.values()):
        shipped = job.shipped.setdefault(record.worker, {})
        shipped.update((key, record.dispatch) for key in record.shipped)
    job.dispatches[record.dispatch] = routine.dispatches[record.dispatch] = dispatch
    job.current = record.routine


def _returned(job: Job, record: Returned, commit: int, source: Dispatch | None) -> None:
    dispatch = job.dispatches.pop(record.dispatch)
    routine = job.routines[dispatch.routine]
    del routine.dispatches[record.dispatch]
    _requeue(routine, dispatch.items)
    if job.shipped and all(d.worker != dispatch.worker for d in job.dispatches.values()):
        job.shipped.pop(dispatch.worker, None)
    for key in [key for key, holder in job.holds.items() if holder == record.dispatch]:
        del job.holds[key]
    if job.current == dispatch.routine and not routine.dispatches:
        job.current = next((d.routine for d in job.dispatches.values()), None)


def _requeue(routine: RoutineState, items: deque[Item]) -> None:
    """Back to their places: the queue is in order of arrival."""
    if not items:
        return
    ready = routine.ready
    last = items[-1].seq
    head = []
    while ready and ready[0].seq < last:
        head.append(ready.popleft())
    ready.extendleft(sorted([*head, *items], key=lambda item: item.seq, reverse=True))
    routine.ready_count += sum(item.count for item in items)


def _held(job: Job, record: Held, commit: int, source: Dispatch | None) -> None:
    job.dispatches[record.dispatch].is_held = record.is_held


def _conflicted(job: Job, record: Conflicted, commit: int, source: Dispatch | None) -> None:
    routine = job.routines[record.routine]
    old = routine.special.get(record.seq)
    if old is None:
        routine.special[record.seq] = Special(_extract(routine, record.seq)[0], keys=record.keys)
    else:
        routine.special[record.seq] = old._replace(keys=record.keys)


def _stood(job: Job, record: Stood, commit: int, source: Dispatch | None) -> None:
    job.stands = record.commit


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
    Answered: _answered, Revived: _revived, Skipped: _skipped,
}  # fmt: skip
