"""The page that supervisor and worker share, and how a worker makes sure not to outlive its parents.

The page is a few 64-bit numbers in shared memory. The worker writes what it is running, before it
runs it; the supervisor writes how far work has been revoked and when the lease ends. Each number
has one writer. The rule it owns: the start time is written before the index, so that a reader who
comes in between takes the old activation for a young one, never the new one for one that is older than
it is by more than ``LOOK_NS``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time

#: Numbers in the page. The supervisor's are on a cache line of their own.
DISPATCH, INDEX, START_NS = 0, 1, 2
REVOKED, LEASE_NS = 8, 9
PAGE_BYTES = 4096
#: The worker looks at the supervisor's numbers, and says when what it runs began, before each activation, but no more
#: often than this: what takes microseconds is told by its index alone.
LOOK_NS = 1_000_000
#: What INDEX holds while nothing runs.
IDLE = -1

_PR_SET_PDEATHSIG = 1


class Page:
    """One worker's page. ``numbers`` is what the hot loop uses."""

    def __init__(self, fd: int | None = None) -> None:
        """Map the page of descriptor ``fd``, which stays the caller's; None: a private page (inline)."""
        self._map = mmap.mmap(-1 if fd is None else fd, PAGE_BYTES)
        self.numbers = memoryview(self._map).cast("q")
        if fd is None:
            self.numbers[INDEX] = IDLE

    def running(self) -> tuple[int, int, int]:
        """(dispatch, index, start in CLOCK_MONOTONIC ns); (0, -1, 0) when nothing runs."""
        numbers = self.numbers
        while True:
            found = numbers[DISPATCH], numbers[INDEX], numbers[START_NS]
            if found == (numbers[DISPATCH], numbers[INDEX], numbers[START_NS]):
                return found if found[1] >= 0 else (0, IDLE, 0)

    def revoke(self, dispatch: int) -> None:
        """Nothing up to this dispatch starts any more."""
        if dispatch > self.numbers[REVOKED]:
            self.numbers[REVOKED] = dispatch

    def set_lease(self, deadline_ns: int) -> None:
        """Nothing starts after this time; 0: no lease."""
        self.numbers[LEASE_NS] = deadline_ns

    def close(self) -> None:
        self.numbers.release()
        self._map.close()


def make_page_fd() -> int:
    """A descriptor of a fresh page, idle, without a name in any file system."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("routilux_mp-page", os.MFD_CLOEXEC)
    else:
        import tempfile  # not on Linux, and slow to import

        fd, path = tempfile.mkstemp(prefix="routilux_mp-page-")
        os.unlink(path)
    os.ftruncate(fd, PAGE_BYTES)
    os.pwrite(fd, IDLE.to_bytes(8, sys.byteorder, signed=True), INDEX * 8)
    return fd


def die_with_parent(parent: int) -> None:
    """Be killed when process ``parent`` ends, even in the middle of C code; end now if it has ended.

    Linux only; elsewhere the closed pipe ends the worker after its activation.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def is_expired(lease_ns: int) -> bool:
    """Whether the time until which a worker may start activations is over."""
    return lease_ns != 0 and time.monotonic_ns() > lease_ns
