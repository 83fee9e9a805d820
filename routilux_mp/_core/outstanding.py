"""What is owed at any moment, computed from the job alone. Recovery performs it; it is no other code path."""

from __future__ import annotations

from typing import NamedTuple

from .job import Item, Job


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
