"""In which order a routine with several events has emitted.

What is emitted gathers per event, since that is how it travels. The execution history shows it as it happened,
so the order is kept beside it: one byte for each emission. Where two events feed the same routine it must get
them in that order too, so their batches end where it is the other one's turn. A routine with one event pays
nothing for all this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Protocol

from .._core.batch import Batch
from .._core.stimuli import Emit
from .._core.topology import Topology
from .batches import Item, assemble
from .wire import JobInfo

#: Events that have a byte each; with more of them the order between events is not kept.
_EVENTS_MAX = 256


class Outlets(Protocol):
    """Where an event's emissions gather, by its name."""

    def get(self, name: str, /) -> list[Item] | None: ...


class Turns:
    """An :class:`Outlets` that notes who is asked for: that one's emission comes next."""

    def __init__(
        self, names: Sequence[str] = (), lists: Sequence[list[Item]] = (), *, is_felt: bool = False
    ) -> None:  # fmt: skip
        self._numbers = {name: number for number, name in enumerate(names)}
        self._lists = lists
        self._is_felt = is_felt  # by a routine that two of the events feed
        self._order = bytearray()
        self._marked = 0  # what stands before is committed, as far as this worker can say

    def get(self, name: str, /) -> list[Item] | None:
        """The list of an event, which is about to be added to; None if there is no such event."""
        number = self._numbers.get(name)
        if number is None:
            return None
        self._order.append(number)
        return self._lists[number]

    def mark(self) -> None:
        """All up to here is committed."""
        self._marked = len(self._order)

    def rollback(self) -> None:
        """What came after the mark has not happened."""
        del self._order[self._marked :]

    def assemble(
        self, out: Sequence[Sequence[Item]], mix: int, info: JobInfo
    ) -> tuple[tuple[Emit, ...], bytes]:  # fmt: skip
        """Batches of all that is committed, and the order of its emissions where the batches do not show it."""
        order = bytes(self._order[: self._marked])
        if order == bytes(sorted(order)):
            return tuple(assemble(out, mix, info)), b""
        if not self._is_felt:
            return tuple(assemble(out, mix, info)), order
        return tuple([emit for turn in _turns(out, order) for emit in assemble(turn, mix, info)]), b""

    def forget(self) -> None:
        """What is committed has been reported. In place: the handler may be adding to it in the main thread."""
        del self._order[: self._marked]
        self._marked = 0

    def clear(self) -> None:
        """Nothing has been emitted."""
        self._order.clear()
        self._marked = 0


def outlets_of(topology: Topology, number: int, lists: Sequence[list[Item]]) -> tuple[Outlets, Turns]:
    """Where to find a routine's lists, and who knows the order: of a single event there is none to know."""
    names = topology.routines[number].events
    if not 1 < len(names) <= _EVENTS_MAX:
        return dict(zip(names, lists)), Turns()
    fed = {(c.event, c.target) for c in topology.connections if c.source == number}
    turns = Turns(names, lists, is_felt=len({target for _, target in fed}) < len(fed))
    return turns, turns


def _turns(out: Sequence[Sequence[Item]], order: bytes) -> Iterator[list[Sequence[Item]]]:
    """One event's items at a time, until it is another one's turn. A whole batch among them is not cut."""
    rest = [iter(items) for items in out]
    ahead = [0] * len(out)
    for event, turn in groupby(order):
        wanted = len(list(turn)) - ahead[event]
        items: list[Item] = []
        while wanted > 0:
            item = next(rest[event], None)
            if item is None:
                break
            items.append(item)
            wanted -= item.count if isinstance(item, Batch) else 1
        ahead[event] = -wanted
        yield [items if number == event else () for number in range(len(out))]
    yield [list(items) for items in rest]
