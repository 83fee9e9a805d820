"""``ordered=True``: emissions leave in the order of the inputs that caused them, whoever was done first.

Used where emissions are routed and where results are read, so that both see the same order. The rule it
owns: a place is given free by what ended there (done, given up, skipped), and nothing leaves before the
places below are free.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from .records import Adopted, Completed, Durable, Failed, Resumed, Skipped
from .stimuli import Emit
from .topology import RoutineSpec

#: Actions after which an activation has not ended.
_GOES_ON = frozenset(("retry", "again", "stop"))


class Order(Protocol):
    """What is remembered of one routine."""

    next_release: int
    held_emits: dict[int, tuple[int, tuple[Emit, ...]]]


def is_in_order(spec: RoutineSpec) -> bool:
    """Whether what the routine emits has to be put in order: one worker keeps it by itself."""
    return spec.is_ordered and spec.workers != 1


def released(order: Order, ranges: tuple[int, ...], partial: int, emits: tuple[Emit, ...]) -> list[Emit]:
    """What leaves now that these activations are done (or ``partial`` has committed a cursor)."""
    first = ranges[0] if ranges else partial
    if first < order.next_release:  # a dead letter that was revived: its place was given free long ago
        return list(emits)
    _, before = order.held_emits.get(first, (0, ()))
    order.held_emits[first] = (sum(ranges[1::2]), before + emits)
    out: list[Emit] = []
    while order.next_release in order.held_emits:
        count, found = order.held_emits.pop(order.next_release)
        out += found
        if not count:
            break  # it has committed a cursor and goes on
        order.next_release += count
    return out


def frees_place(record: Durable) -> tuple[int, int] | None:
    """(routine, number) of the activation that this record says will emit nothing more."""
    if isinstance(record, Failed) and (record.seq < 0 or record.action in _GOES_ON):
        return None  # a policy's failure, or one after which it goes on
    return (record.routine, record.seq) if isinstance(record, (Failed, Skipped)) else None


def is_needed_for_order(record: Durable, routine: int) -> bool:
    """Whether the record says something of the order in which this routine's emissions leave."""
    place = frees_place(record)
    return (isinstance(record, Completed) and record.routine == routine) or (place is not None and place[0] == routine)


class ReleasedLater:
    """One routine's emissions in the order of their release, from the records of its job."""

    def __init__(self, routine: int) -> None:
        self._routine = routine
        self.next_release = 0
        self.held_emits: dict[int, tuple[int, tuple[Emit, ...]]] = {}

    def feed(self, record: Durable) -> Iterator[Emit]:
        """What leaves with this record."""
        if isinstance(record, Completed) and record.routine == self._routine:
            yield from released(self, record.ranges, record.partial, record.emits)
        elif isinstance(record, Resumed):
            yield from (emit for routine, emit in record.deferred if routine == self._routine)
        elif isinstance(record, Adopted):
            self._begin(record.snapshot["routines"][self._routine])  # type: ignore[index]
        elif (place := frees_place(record)) is not None and place[0] == self._routine:
            yield from released(self, (place[1], 1), -1, ())

    def _begin(self, described: dict[str, Any]) -> None:
        """Go on from a description of the routine. What it holds back has been told with the rest of its past."""
        self.next_release = described["next_release"]
        self.held_emits = {first: (count, ()) for first, count, _ in described["held"]}
