"""The records of a small job, kept as they stand: what it did can be told without reading its log again.

The rule it owns: all of them or none. A job that grew, or that somebody else began, is read from its log.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._core.records import Durable, Submitted

#: More than this, and reading the log is what is little beside the rest.
_RECORDS_MAX = 64
_BYTES_MAX = 16 * 1024


class Recent:
    """Filled by the loop's thread; read by others."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, list[Durable]]] = []
        self._standing: list[Durable] | None = []
        self._left_bytes = _BYTES_MAX

    def take(self, number: int, records: Sequence[Durable], frames: Sequence[bytes]) -> None:
        """The records of commit ``number``, on its way, and as it carries them."""
        if self._standing is None:
            return
        kept = list(records)
        if kept and not self._taken and not self._standing:
            first = kept[0]
            if type(first) is not Submitted:
                self._standing = None  # there is a past
                return
            kept[0] = first._replace(code=())  # most of it, and told by nobody
            frames = frames[1:]
        self._left_bytes -= sum(map(len, frames))
        if self._left_bytes < 0 or len(self._standing) + len(kept) > _RECORDS_MAX:
            self._standing, self._taken = None, []
        else:
            self._taken.append((number, kept))

    def stands(self, number: int) -> None:
        """Commit ``number`` stands."""
        while self._taken and self._taken[0][0] <= number and self._standing is not None:
            self._standing = [*self._standing, *self._taken.pop(0)[1]]

    def records(self) -> list[Durable] | None:
        """Every record that stands, in order; None when they have to be read."""
        return self._standing or None
