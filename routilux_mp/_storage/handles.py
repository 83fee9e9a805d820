"""Open epoch directories, at most so many at once: a thousand jobs must not need a thousand descriptors.

The rule it owns: a directory in use is never closed under its user; the one that was idle longest
goes first and is opened again on its next use.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

OPEN_DIRS_MAX: Final = 128


class Handles:
    """The open directories of all tenures of a store."""

    def __init__(self, limit: int = OPEN_DIRS_MAX) -> None:
        self._limit = limit
        self._idle: OrderedDict[Slot, None] = OrderedDict()
        self._lock = threading.Lock()

    def slot(self, open_: Callable[[], int], close: Callable[[int], None], handle: int | None = None) -> Slot:
        """`handle`: the directory is open already."""
        slot = Slot(self, open_, close, handle)
        slot.release()
        return slot

    def take(self, slot: Slot) -> None:
        """`slot` is in use now."""
        with self._lock:
            self._idle.pop(slot, None)

    def put_back(self, slot: Slot) -> None:
        """`slot` is idle now; the one idle longest is closed when there are too many."""
        with self._lock:
            self._idle[slot] = None
            oldest = self._idle.popitem(last=False)[0] if len(self._idle) > self._limit else None
            if oldest is not None:
                oldest.drop()


class Slot:
    """One directory that is opened when needed."""

    def __init__(
        self, handles: Handles, open_: Callable[[], int], close: Callable[[int], None], handle: int | None
    ) -> None:
        self._handles = handles
        self._open = open_
        self._close = close
        self._handle = handle

    def acquire(self) -> int:
        """The open directory, ours until `release`."""
        self._handles.take(self)
        if self._handle is None:
            self._handle = self._open()
        return self._handle

    def release(self) -> None:
        if self._handle is not None:
            self._handles.put_back(self)

    def close(self) -> None:
        """Close it; `acquire` would open whatever is its directory by then."""
        self._handles.take(self)
        self.drop()

    def drop(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._close(handle)
