"""Activations that are looked at singly, and when: many may wait for a retry while little of them is looked at.

The rule it owns: what a step looks at is what could run now, not all that waits. During an outage all that comes in may
be waiting here.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .job import Special

#: A time so much earlier than one before it: the clock was set back. Less, and it is of a step that began earlier.
_SET_BACK_NS = 1_000_000_000


class Specials(dict[int, "Special"]):
    """By number; changed by assigning to a number and by :meth:`take`, and in no other way."""

    __slots__ = ("_came", "_now_ns", "_prompt", "_waiting")

    def __init__(self) -> None:
        super().__init__()
        self._prompt: dict[int, None] = {}  # wait for no time
        self._waiting: list[tuple[int, int]] = []  # a heap of (time, number); what does not hold any more is among them
        self._came: list[int] = []  # whose time has come, in order; likewise
        self._now_ns = 0

    def __setitem__(self, seq: int, special: Special) -> None:
        super().__setitem__(seq, special)
        if special.due_ns:
            self._prompt.pop(seq, None)
            heappush(self._waiting, (special.due_ns, seq))
        else:
            self._prompt[seq] = None

    def take(self, seq: int) -> Special:
        """It is done, or goes elsewhere."""
        self._prompt.pop(seq, None)
        return self.pop(seq)

    def prompt(self) -> Iterator[int]:
        """Those that wait for no time."""
        return iter(self._prompt)

    def due(self, now_ns: int) -> Iterator[int]:
        """Those whose time has come, lowest number first."""
        self._advance(now_ns)
        before = -1
        for seq in self._came:
            if seq != before and self._has_come(seq):
                yield seq
            before = seq

    def next_due_ns(self, now_ns: int) -> int:
        """When the next one's time comes; 0: none waits."""
        self._advance(now_ns)
        return self._waiting[0][0] if self._waiting else 0

    def _advance(self, now_ns: int) -> None:
        """It is so late now: sort those whose time has come from those that wait, and forget what does not hold."""
        waiting, came = self._waiting, self._came
        if now_ns < self._now_ns - _SET_BACK_NS:
            for seq in came:
                if self._has_come(seq):
                    heappush(waiting, (self[seq].due_ns, seq))
            came.clear()
            self._now_ns = now_ns
        self._now_ns = now_ns = max(now_ns, self._now_ns)
        while waiting:
            due_ns, seq = waiting[0]
            special = self.get(seq)
            if special is None or special.due_ns != due_ns:
                heappop(waiting)
            elif due_ns <= now_ns:
                heappop(waiting)
                insort(came, seq)
            else:
                break
        gone = next((i for i, seq in enumerate(came) if self._has_come(seq)), len(came))
        del came[:gone]

    def _has_come(self, seq: int) -> bool:
        special = self.get(seq)
        return special is not None and 0 < special.due_ns <= self._now_ns
