"""What workers have in hand, applied: volatile, since a successor's workers have nothing.

Only :func:`apply` uses it. The rule it owns: what is handed out is in exactly one dispatch, and goes
back to its place in the queue when that is over.
"""

from __future__ import annotations

from collections import deque

from .job import Dispatch, Item, Job, Run, Special
from .queues import extract, requeue
from .records import Asked, Conflicted, Dispatched, Held, Quiet, Rested, Returned, Seen, Stood


def dispatched(job: Job, record: Dispatched, commit: int, source: Dispatch | None) -> None:
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


def returned(job: Job, record: Returned, commit: int, source: Dispatch | None) -> None:
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


def held(job: Job, record: Held, commit: int, source: Dispatch | None) -> None:
    dispatch = job.dispatches[record.dispatch]
    dispatch.owed = dispatch.owed + 1 if record.is_held else 0


def conflicted(job: Job, record: Conflicted, commit: int, source: Dispatch | None) -> None:
    routine = job.routines[record.routine]
    old = routine.special.get(record.seq)
    if old is None:
        routine.special[record.seq] = Special(extract(routine, record.seq)[0], keys=record.keys)
    else:
        # It may take another way this time: what it lost before, it must not lose again.
        routine.special[record.seq] = old._replace(keys=tuple(dict.fromkeys((*old.keys, *record.keys))))


def rested(job: Job, record: Rested, commit: int, source: Dispatch | None) -> None:
    routine = job.routines[record.routine]
    routine.rest_until_ns = record.until_ns
    routine.rests += 1


def stood(job: Job, record: Stood, commit: int, source: Dispatch | None) -> None:
    job.stands = record.commit


def asked(job: Job, record: Asked, commit: int, source: Dispatch | None) -> None:
    routine = job.routines[record.routine]
    routine.asked = max(routine.asked, record.until)
    if record.is_final:
        routine.is_asked_finally, routine.is_quiet = True, False


def quiet(job: Job, record: Quiet, commit: int, source: Dispatch | None) -> None:
    job.routines[record.routine].is_quiet = True


def seen(job: Job, record: Seen, commit: int, source: Dispatch | None) -> None:
    if record.version < 0:
        job.seen.pop(record.worker, None)
    else:
        job.seen[record.worker] = record.version
