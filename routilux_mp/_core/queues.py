"""The queues of a job: where an emission goes, and how an activation leaves, whole or cut out of a run.

Only :func:`apply` uses it. The rule it owns: every activation is in exactly one place, and ``queued``
counts it there until it is done; in replay it is found where nothing was ever dispatched.
"""

from __future__ import annotations

from collections import deque

from .batch import Batch
from .job import Dispatch, Group, Item, Job, RoutineState, Run, Special
from .release import released
from .stimuli import Emit


def route(job: Job, number: int, emit: Emit, commit: int) -> None:
    connections = job.topology.routes.get((number, emit.event))
    if connections is None:
        key = (number, emit.event)
        job.results[key] = job.results.get(key, 0) + emit.batch.count
        return
    for connection in connections:
        _, _, target, slot = job.topology.connections[connection]
        enqueue(job, target, slot, connection, emit.batch, commit)


def enqueue(job: Job, target: int, slot: int, connection: int, batch: Batch, commit: int) -> None:
    routine = job.routines[target]
    count = batch.count
    routine.queued[slot] += count
    if job.topology.routines[target].policy.kind == "each":
        routine.ready.append(Run(routine.next_seq, slot, connection, batch, 0, count, commit))
        routine.ready_count += count
        routine.next_seq += count
    else:
        routine.slots[slot].append(Run(routine.arrived, slot, connection, batch, 0, count, commit))
        routine.arrived += count
        routine.is_quiet = routine.is_asked_finally = False


def take_runs(queue: deque[Run], count: int) -> list[Run]:
    taken: list[Run] = []
    while count:
        run = queue.popleft()
        if run.count > count:
            rest = run._replace(seq=run.seq + count, start=run.start + count, count=run.count - count)
            queue.appendleft(rest)
            run = run._replace(count=count)
        taken.append(run)
        count -= run.count
    return taken


def consume(routine: RoutineState, first: int, count: int) -> None:
    """Activations ``first`` … are done or given up: they leave every queue."""
    if first in routine.special:
        _uncount(routine, routine.special.take(first).item)
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


def extract(routine: RoutineState, seq: int) -> tuple[Item, Dispatch | None]:
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


def keep_cursor(routine: RoutineState, seq: int, cursor: bytes | None, commit: int) -> None:
    """The activation has committed a cursor: from here on it is a special one, its counts anew."""
    old = routine.special.get(seq)
    if old is None:
        item, dispatch = extract(routine, seq)
        if dispatch is not None:
            dispatch.special = seq
    else:
        item = old.item
    routine.special[seq] = Special(item._replace(commit=commit), cursor=cursor)


def release_in_order(
    job: Job, number: int, ranges: tuple[int, ...], partial: int, emits: tuple[Emit, ...], commit: int
) -> None:
    """``ordered=True``: emissions leave in the order of the inputs that caused them."""
    for emit in released(job.routines[number], ranges, partial, emits):
        route(job, number, emit, commit)


def requeue(routine: RoutineState, items: deque[Item]) -> None:
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


def reorder(routine: RoutineState, seqs: tuple[int, ...], commit: int) -> None:
    """The queued activation ``seqs[0]`` takes the lowest of their places, and so on."""
    place_of = dict(zip(seqs, sorted(seqs), strict=True))
    singles: list[Item] = []
    for item in routine.ready:
        if isinstance(item, Group):
            singles.append(item)
            continue
        singles += [item._replace(seq=item.seq + i, start=item.start + i, count=1) for i in range(item.count)]
    moved = [one._replace(seq=place_of[one.seq], commit=commit) if one.seq in place_of else one for one in singles]
    routine.ready = deque(sorted(moved, key=lambda one: one.seq))
