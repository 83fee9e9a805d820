"""Looking at other processes, as far as a demonstration needs it: alive, whose child, gone by when.

Uses /proc, and ``ps`` where there is none. Not used by the engine, which watches by pidfd.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and only waits to be reaped does not."""
    return _look(pid) is not None


def is_below(pid: int, ancestor: int) -> bool:
    """Whether the process is a living descendant of another."""
    while (parent := _look(pid)) is not None:
        if parent == ancestor:
            return True
        pid = parent
    return False


def seconds_until_gone(pids: Iterable[int], timeout_s: float) -> float | None:
    """How long it takes until none of them is left; None when some outlive the timeout."""
    start = time.monotonic()
    left = [pid for pid in pids if is_alive(pid)]
    while left:
        if time.monotonic() - start > timeout_s:
            return None
        time.sleep(0.002)
        left = [pid for pid in left if is_alive(pid)]
    return time.monotonic() - start


def _look(pid: int) -> int | None:
    """The parent of a living process; None when it is gone or a zombie."""
    if pid <= 1:
        return None
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        if os.path.isdir("/proc/self"):
            return None
        told = subprocess.run(["ps", "-o", "stat=,ppid=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if not told.stdout.strip():
            return None
        state, parent = told.stdout.split()[:2]
    return None if state.startswith(("Z", "X")) else int(parent)


def below(ancestor: int) -> list[int]:
    """A living process and everything it has started, itself first."""
    parents: dict[int, int] = {}
    for pid in _pids():
        parent = _look(pid)
        if parent is not None:
            parents[pid] = parent
    found = [ancestor] if ancestor in parents else []
    for pid in found:  # it grows while we look at it
        found += [child for child, parent in parents.items() if parent == pid and child not in found]
    return found


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except FileNotFoundError:
        told = subprocess.run(["ps", "-axo", "pid="], capture_output=True, text=True, check=False)
        return [int(word) for word in told.stdout.split()]
