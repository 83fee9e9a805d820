"""A list that handlers append to, as a worker keeps it: each item is added once, however long the list is."""

from __future__ import annotations

from typing import Any


class Appended:
    """A base value, if there was one, and the first ``count`` of ``items``, all encoded.

    The list of items is shared by those that came of one another: each sees its own beginning of it. What stands behind
    the newest that was kept belongs to an activation that left no trace.
    """

    __slots__ = ("_count", "_items", "base")

    def __init__(self, base: Any, items: list[bytes], count: int | None = None) -> None:
        self.base = base
        self._items = items
        self._count = len(items) if count is None else count

    @classmethod
    def of(cls, raw: Any) -> Appended:
        """From a value as it travels: (base, items), or one that was not appended to yet; None: there is none."""
        if isinstance(raw, cls):
            return raw
        base, items = raw if isinstance(raw, tuple) else (raw, ())
        return cls(base, list(items))

    @property
    def items(self) -> list[bytes]:
        """A copy of the items."""
        return self._items[: self._count]

    def plus(self, item: bytes) -> Appended:
        """With one more. Only the newest that is kept may be asked."""
        del self._items[self._count :]
        self._items.append(item)
        return Appended(self.base, self._items, self._count + 1)
