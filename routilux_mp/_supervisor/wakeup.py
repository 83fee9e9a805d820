"""Sleeping until somebody calls, a process ends, or the time is over."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Set as AbstractSet

from .._storage.owner import start_ticks

#: A process of this host: its pid and when it started.
Process = tuple[int, int]


class Wakeup:
    """One waiter. :meth:`set` may be called from anywhere, also from a signal handler."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._pidfds: dict[Process, int] = {}

    def set(self) -> None:
        """Wake the waiter, now or as soon as it waits."""
        try:
            self._write.send(b"w")
        except OSError:
            pass  # full: it will wake; closed: nobody waits

    def watch_processes(self, processes: AbstractSet[Process], *, is_more: bool = False) -> None:
        """Wake when one of these ends; those that are not named any more are forgotten, unless ``is_more``."""
        if not is_more:
            for process in [p for p in self._pidfds if p not in processes]:
                self._forget(process)
        for process in processes:
            if process not in self._pidfds:
                self._watch(process)

    def wait(self, timeout_s: float) -> None:
        """Wait; returns at the latest after ``timeout_s``."""
        for fd, _ in self._poll.poll(max(0.0, timeout_s * 1000)):
            if fd == self._read.fileno():
                try:
                    while len(self._read.recv(4096)) == 4096:
                        pass
                except BlockingIOError:
                    pass
            else:
                for process in [p for p, pidfd in self._pidfds.items() if pidfd == fd]:
                    self._forget(process)

    def close(self) -> None:
        """Let go of everything."""
        for process in list(self._pidfds):
            self._forget(process)
        self._read.close()
        self._write.close()

    def _watch(self, process: Process) -> None:
        pid, started = process
        try:
            fd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            return  # gone, or no pidfds here: the poll finds it
        if start_ticks(pid) != started:
            os.close(fd)  # another process has got the number
            return
        self._pidfds[process] = fd
        self._poll.register(fd, select.POLLIN)

    def _forget(self, process: Process) -> None:
        fd = self._pidfds.pop(process)
        self._poll.unregister(fd)
        os.close(fd)
