"""Files on their way to the disk, while the handler goes on.

The rule it owns: whoever waits for a file learns whether it is durable, and of a failure every time it asks.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from ..errors import StorageBlocked

#: So many wait for the disk at once: one fsync of a journaling file system does for all that wait.
_THREADS = 2
#: What may wait in all.
_COUNT_MAX = 8
_BYTES_MAX = 64 * 1024 * 1024


class Writing:
    """One file."""

    def __init__(self, size: int, make_durable: Callable[[], None]) -> None:
        self.size = size
        self._make_durable = make_durable
        self._is_over = threading.Event()
        self._has_failed = False

    def run(self) -> None:
        """Wait for the disk."""
        try:
            self._make_durable()
        except StorageBlocked:
            self._has_failed = True
        finally:
            self._is_over.set()

    @property
    def is_over(self) -> bool:
        """It is durable, or will never be."""
        return self._is_over.is_set()

    def stands(self) -> bool:
        """Wait until it is durable. False: it will never be."""
        self._is_over.wait()
        return not self._has_failed


class Writers:
    """The threads, started when they are needed."""

    def __init__(self) -> None:
        self._due: queue.SimpleQueue[Writing | None] = queue.SimpleQueue()
        self._line: list[Writing] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def submit(self, writing: Writing) -> None:
        """Let it be done soon; wait while too much waits already."""
        while self.is_behind:
            self._line[0].stands()
        with self._lock:
            self._line.append(writing)
            if len(self._threads) < _THREADS:
                name = f"routilux_mp-blobs-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()
        self._due.put(writing)

    @property
    def is_behind(self) -> bool:
        """The disk is so far behind that whoever writes has to wait for it."""
        with self._lock:
            self._line = [writing for writing in self._line if not writing.is_over]
            return len(self._line) >= _COUNT_MAX or sum([writing.size for writing in self._line]) >= _BYTES_MAX

    def close(self) -> None:
        """Do what is due, and end."""
        for _ in self._threads:
            self._due.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (writing := self._due.get()) is not None:
            writing.run()
