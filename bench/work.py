"""What both sides of a comparison do: CPU items of a length calibrated once per run, and the clock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of Linux: get and set a file's attributes, and the one that chattr calls T.
_GETFLAGS, _SETFLAGS, _TOP_OF_HIERARCHY = 0x80086601, 0x40086602, 0x00020000

#: Set by table.py after calibration, so that both sides burn exactly the same work.
ITERATIONS = int(os.environ.get("BENCH_ITERATIONS", "100000"))


def burn(iterations: int = ITERATIONS) -> int:
    """Integer arithmetic that no cache helps with."""
    x = 0
    for i in range(iterations):
        x = (x * 1103515245 + i) & 0x7FFFFFFF
    return x


def calibrated(milliseconds: float) -> int:
    """How many iterations take so long here, now; the best of five."""
    best = min(_timed(100_000) for _ in range(5))
    return int(100_000 * milliseconds / 1000 / best)


def _timed(iterations: int) -> float:
    start = time.perf_counter()
    burn(iterations)
    return time.perf_counter() - start


def cpu_s() -> float:
    """CPU time of this process and of all that descend from it and still live, to the nanosecond (Linux)."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass  # it has ended
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(_run_ns(pid) for pid in ours) / 1e9


def _run_ns(pid: int) -> int:
    ran = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            ran += int(thread.read_text().split()[0])
        except OSError:
            pass  # it has ended
    return ran


@contextlib.contextmanager
def fresh_folder() -> Iterator[str]:
    """A new directory for one workload, in a part of the disk of its own; gone afterwards.

    Ext4 keeps what lies in one directory together, and without a journal it looks for each new file past all those
    that were deleted there in the last five minutes. Beside what the run before has left that took a third of the CPU
    time of 1,000 small jobs. What lies in a directory marked with T is spread.
    """
    top = tempfile.mkdtemp(prefix="bench-")
    try:
        at = os.open(top, os.O_RDONLY)
        try:
            flags = struct.unpack("l", fcntl.ioctl(at, _GETFLAGS, struct.pack("l", 0)))[0]
            fcntl.ioctl(at, _SETFLAGS, struct.pack("l", flags | _TOP_OF_HIERARCHY))
        except OSError:
            pass  # another file system
        finally:
            os.close(at)
        folder = Path(top, Path(top).name)  # the part of the disk is chosen by the name
        folder.mkdir(0o700)
        yield str(folder)
    finally:
        shutil.rmtree(top, ignore_errors=True)


def started() -> float:
    """Wall time at which this process was asked for (set by table.py just before it started it)."""
    return float(os.environ.get("BENCH_STARTED", "0")) or time.time()


def report(**figures: Any) -> None:
    """One JSON line: what table.py reads."""
    print(json.dumps(figures), flush=True)
