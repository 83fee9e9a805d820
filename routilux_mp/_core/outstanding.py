"""What is owed at any moment, computed from the job alone. Recovery performs it; it is no other code path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .batch import Batch
from .job import Group, Item, Job


class Owed(NamedTuple):
    """An activation that has not returned."""

    routine: int
    item: Item
    attempt: int = 1
    due_ns: int = 0
    cursor: bytes | None = None


def outstanding(job: Job) -> list[Owed]:
    """Every activation that is queued, running or waiting, in order per routine."""
    owed: list[Owed] = []
    for number, routine in enumerate(job.routines):
        mine = [Owed(number, s.item, s.attempt, s.due_ns, s.cursor) for s in routine.special.values()]
        mine += [Owed(number, item) for d in routine.dispatches.values() for item in d.items]
        mine += [Owed(number, item) for item in routine.ready]
        owed += sorted(mine, key=lambda o: o.item.seq)
    return owed


def needed_batches(job: Job) -> Iterator[Batch]:
    """Every batch that something queued, running, waiting, held back or dead still refers to."""
    if job.entry_batch is not None:
        yield job.entry_batch
    for deferred in job.deferred:
        yield deferred.batch
    for letter in job.dead_letters:
        yield from batches_in(letter.item)
    for routine in job.routines:
        for item in (*routine.ready, *(s.item for s in routine.special.values())):
            yield from batches_in(item)
        for dispatch in routine.dispatches.values():
            for item in dispatch.items:
                yield from batches_in(item)
        for queue in routine.slots:
            for run in queue:
                yield run.batch
        for _, emits in routine.held_emits.values():
            for emit in emits:
                yield emit.batch


def batches_in(item: Item) -> Iterator[Batch]:
    """What one activation, or a run of them, is given."""
    if isinstance(item, Group):
        for run in item.runs:
            yield run.batch
    else:
        yield item.batch
