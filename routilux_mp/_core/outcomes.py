"""What becomes of an activation, applied: done, failed, taken by a policy, revived, skipped.

Only :func:`apply` uses it. The rule it owns: an activation leaves its queue exactly once, with the
record that says how it ended; a dead letter is out of every queue.
"""

from __future__ import annotations

from collections import deque

from .history import completes_entry
from .job import DeadLetter, Dispatch, Group, Job, RoutineState, Run, Special
from .queues import consume, extract, keep_cursor, release_in_order, reorder, requeue, route, take_runs
from .records import Completed, Declined, Edited, Failed, Reordered, Revived, Skipped, Taken
from .release import is_in_order
from .state import change_state


def completed(job: Job, record: Completed, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    number = record.routine
    routine = job.routines[number]
    spec = job.topology.routines[number]
    routine.has_run = True
    routine.rests = 0
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
        change_state(job, record.ops, commit, source)
    if is_in_order(spec):
        release_in_order(job, number, ranges, record.partial, record.emits, commit)
    else:
        for emit in record.emits:
            route(job, number, emit, commit)
    for emit in record.emits:
        job.record_count += emit.batch.count


def failed(job: Job, record: Failed, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    routine = job.routines[record.routine]
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
        cursor = old.cursor if old else None
        since_ns = record.time_ns if record.due_ns else 0
        routine.special[seq] = Special(item, attempt, crashes, record.due_ns, cursor, since_ns=since_ns)
    elif action == "stop" and failure.is_retryable and failure.kind != "crash":
        # The job fails; resumed with more retries than it had, this attempt counts as one.
        item = (old.item if old else extract(routine, seq)[0])._replace(commit=commit)
        routine.special[seq] = Special(item, record.attempt + 1, cursor=old.cursor if old else None)
    elif action != "stop":
        # A crash or a timeout may be in the middle of a dispatch: it is taken out wherever it is.
        item, dispatch = (old.item, None) if old else extract(routine, seq)
        if dispatch is not None:
            dispatch.reported += 1
        routine.special[seq] = Special(item)
        consume(routine, seq, 1)
        if action in ("dead", "dead_stop"):
            cursor = old.cursor if old else None
            job.dead_letters.append(DeadLetter(record.routine, seq, item, failure, record.time_ns, cursor))
    _count_failure(job, routine, record, seq)
    spec = job.topology.routines[record.routine]
    if is_in_order(spec) and action not in ("retry", "again", "stop"):
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
        routine.ask_due_ns, routine.ask_since_ns = record.due_ns, record.time_ns
    elif record.action == "again":
        routine.ask_crashes += 1
    else:
        routine.given_up = -record.seq
        _begin_asking_anew(routine)
    _count_failure(job, routine, record, -1)


def _begin_asking_anew(routine: RoutineState) -> None:
    routine.ask_attempt, routine.ask_crashes, routine.ask_due_ns = 1, 0, 0


def declined(job: Job, record: Declined, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    _begin_asking_anew(job.routines[record.routine])


def revived(job: Job, record: Revived, commit: int, source: Dispatch | None) -> None:
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


def skipped(job: Job, record: Skipped, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    routine = job.routines[record.routine]
    if record.seq not in routine.special:
        _take_letter(job, record.routine, record.seq)
        return
    consume(routine, record.seq, 1)
    spec = job.topology.routines[record.routine]
    job.framework[spec.routine_id] = {**job.framework.get(spec.routine_id, {}), "status": "skipped"}
    if is_in_order(spec):
        release_in_order(job, record.routine, (record.seq, 1), -1, (), commit)


def edited(job: Job, record: Edited, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    routine = job.routines[record.routine]
    waiting = routine.special.get(record.seq)
    old = waiting.item if waiting else extract(routine, record.seq)[0]
    assert isinstance(old, Run)
    item = Run(record.seq, old.slot, old.connection, record.batch, 0, 1, commit)
    if waiting:
        routine.special[record.seq] = waiting._replace(item=item)
    else:
        requeue(routine, deque((item,)))


def reordered(job: Job, record: Reordered, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    routine = job.routines[record.routine]
    reorder(routine, record.seqs, commit)


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


def taken(job: Job, record: Taken, commit: int, source: Dispatch | None) -> None:
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
