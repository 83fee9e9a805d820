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
