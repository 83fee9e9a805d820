"""What the activations of one report did to the state, in as few operations as say the same.

A report is committed as a whole, so nobody can see what a value was between two of its activations: of several
``set`` of a key the last one counts, and ``increment`` of whole numbers by whole numbers add up. Sums of floats depend
on their order, and lists are made of their items: these stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .._core.stimuli import StateOp

#: A sum that is as large may not fit into an integer of the packer's any more.
_SUM_MAX = 1 << 62


class Changes:
    """Gathers operations until they are reported."""

    __slots__ = ("_last", "_ops")

    def __init__(self) -> None:
        self._ops: list[StateOp] = []
        self._last: dict[tuple[str, str], int] = {}  # where the last operation on a value is, if it can take another

    def add(self, ops: Iterable[StateOp], state: Mapping[tuple[str, str], object]) -> None:
        """What one more activation did, in order; ``state``: as this worker has it since."""
        for op in ops:
            kind, scope, key, value = op
            if kind == "increment" or kind == "set":
                place = (scope, key)
                at = self._last.get(place)
                if at is not None and self._ops[at].op == kind:
                    if kind == "set":
                        self._ops[at] = op
                        continue
                    before = self._ops[at].value
                    if type(before) is int and type(value) is int and type(state.get(place)) is int:
                        total = before + value
                        if -_SUM_MAX < total < _SUM_MAX:
                            self._ops[at] = StateOp(kind, scope, key, total)
                            continue
                self._last[place] = len(self._ops)
            elif kind == "append" or kind == "delete":
                self._last.pop((scope, key), None)
            self._ops.append(op)

    def all(self) -> tuple[StateOp, ...]:
        """All that are not reported."""
        return tuple(self._ops)

    def clear(self) -> None:
        """They have been reported, or will never be."""
        self._ops.clear()
        self._last.clear()
