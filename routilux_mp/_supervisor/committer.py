"""Where commits happen: beside the loop, so that the disk and the workers are busy at once.

One call per job is under way at a time (the loop sees to it); calls of different jobs run side
by side.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

Task = Callable[[], None]
Finished = tuple[str, BaseException | None]


class Wake(Protocol):
    """Has the loop look at what has ended."""

    def __call__(self, *, is_awaited: bool = True) -> None: ...


class Committer(Protocol):
    def submit(self, key: str, task: Task, *, is_awaited: bool = True, after_s: float = 0.0) -> None:
        """Run ``task``, in so many seconds; its end will be in :meth:`finished` under ``key``.

        ``is_awaited``: the loop is to look at once when it has ended, also in the middle of a pause.
        """

    def finished(self) -> list[Finished]:
        """What has ended since the last call, with the error it ended with."""

    def close(self) -> None:
        """Finish everything that was submitted."""


class ThreadCommitter:
    """A few threads, the first at once, others when they are needed, as far as there may be any.

    While the interpreter ends Python 3.12.0 to 3.12.2 begin none (cpython#113964), and what is left is committed then.
    ``submit`` and ``finished`` belong to one thread, the loop's.
    """

    def __init__(self, wake: Wake, threads_max: int = 8) -> None:
        self._wake = wake
        self._threads_max = threads_max
        self._tasks: queue.SimpleQueue[tuple[str, Task, bool, float] | None] = queue.SimpleQueue()
        self._finished: deque[Finished] = deque()
        self._threads: list[threading.Thread] = []
        self._busy = 0  # submitted, and not seen to have ended
        self._begin_another()

    def submit(self, key: str, task: Task, *, is_awaited: bool = True, after_s: float = 0.0) -> None:
        self._busy += 1
        if self._busy > len(self._threads) < self._threads_max:
            with suppress(RuntimeError):  # those that are there do it
                self._begin_another()
        self._tasks.put((key, task, is_awaited, after_s))

    def finished(self) -> list[Finished]:
        done: list[Finished] = []
        while self._finished:
            done.append(self._finished.popleft())
        self._busy -= len(done)
        return done

    def close(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _begin_another(self) -> None:
        thread = threading.Thread(target=self._run, name=f"routilux-commit-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self) -> None:
        while (item := self._tasks.get()) is not None:
            self._do(*item)
            del item  # a thread that waits for the next job must not keep the last one

    def _do(self, key: str, task: Task, is_awaited: bool, after_s: float) -> None:
        if after_s:
            time.sleep(after_s)
        self._finished.append((key, _end_of(task)))
        self._wake(is_awaited=is_awaited)


def _end_of(task: Task) -> BaseException | None:
    """Run it; the error that it ended with."""
    try:
        task()
    except Exception as error:  # whatever it is: the loop learns of it, and the thread lives on
        return error
    return None


class InstantCommitter:
    """Runs every task at once, in the calling thread: for ``durability="none"`` and simulation."""

    def __init__(self) -> None:
        self._finished: list[Finished] = []

    def submit(self, key: str, task: Task, *, is_awaited: bool = True, after_s: float = 0.0) -> None:
        self._finished.append((key, _end_of(task)))

    def finished(self) -> list[Finished]:
        done, self._finished = self._finished, []
        return done

    def close(self) -> None:
        pass
