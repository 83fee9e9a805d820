"""Looking at and killing the processes of a run: the program, its nursery, the workers, and their children."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Family(NamedTuple):
    """The processes of one program, as far as they are there at the moment."""

    supervisor: int
    nurseries: tuple[int, ...]
    workers: tuple[int, ...]

    @property
    def everyone(self) -> tuple[int, ...]:
        return (self.supervisor, *self.nurseries, *self.workers)


def children(pid: int) -> tuple[int, ...]:
    """Direct children of a process, in whichever of its threads they were made."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    except OSError:
        pass  # it ended while we looked
    return tuple(found)


def family(supervisor: int) -> Family:
    nurseries = children(supervisor)
    return Family(supervisor, nurseries, tuple(worker for nursery in nurseries for worker in children(nursery)))


def below(pid: int) -> set[int]:
    """All living descendants."""
    found = set(children(pid))
    for child in tuple(found):
        found |= below(child)
    return found


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was quicker


class Watch:
    """Sees processes end, whoever's children they are, to the millisecond."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pidfds: dict[int, int] = {}
        for pid in pids:
            try:
                self._pidfds[os.pidfd_open(pid)] = pid
            except ProcessLookupError:
                pass

    def seconds_until_gone(self, since: float, timeout_s: float) -> float | None:
        """Time from ``since`` (monotonic) until the last one has ended; None when some outlive the timeout."""
        poll = select.poll()
        for fd in self._pidfds:
            poll.register(fd, select.POLLIN)
        left = set(self._pidfds)
        gone = since
        try:
            while left:
                rest_s = since + timeout_s - time.monotonic()
                ready = poll.poll(max(0.0, rest_s * 1000))
                gone = time.monotonic()
                for fd, _ in ready:
                    poll.unregister(fd)
                    left.discard(fd)
                if not ready:
                    return None
            return gone - since
        finally:
            for fd in self._pidfds:
                os.close(fd)


def carriers(mark: str) -> list[int]:
    """Living processes that have ``mark`` in their environment: whatever was started by a run, orphans too."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if mark.encode() in Path(f"/proc/{name}/environ").read_bytes() and not is_zombie(int(name)):
                    found.append(int(name))
            except OSError:
                pass  # it ended, or is another user's
    return found


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
