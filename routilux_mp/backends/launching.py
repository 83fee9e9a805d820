"""Starts the process that workers are forked from.

By itself, since it imports next to nothing: that process takes as long to start as all else takes to be imported, so
the sooner it starts, the better. The rule it owns: whoever launches it ends it.
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from .._worker import shared
from ..errors import BackendError
from ._spawn import open_standard_descriptors, spawn_python


class Launched(NamedTuple):
    """A nursery, and what it is held by."""

    pid: int
    sock: socket.socket  # of orders and answers
    alive_fd: int  # closing it kills a nursery that is busy loading
    shared_dir: str  # see ``shared.new_path``; removed with it

    def close(self) -> None:
        """End one that nobody has taken over."""
        self.sock.close()
        os.close(self.alive_fd)
        os.waitpid(self.pid, 0)


def launch(shared_dir: str | None = None) -> Launched:
    """Start a nursery. ``shared_dir``: of the one before it.

    Raises:
        BackendError: the system has no descriptors or no processes left.
    """
    shared_dir = shared.new_path() if shared_dir is None else shared_dir
    fds: list[int] = []
    try:
        open_standard_descriptors()
        ours, theirs = socket.socketpair()
        fds += ours.detach(), theirs.detach()
        fds += os.pipe()
        mine, its, alive_read, alive_fd = fds
        arguments = (its, alive_read, os.getpid(), shared_dir)
        statement = f"__import__('routilux_mp.backends.nursery', fromlist=['main']).main(*{arguments!r})"
        pid = spawn_python(statement, (its, alive_read))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise BackendError(f"the process that starts workers cannot be started: {error}") from error
    os.close(its)
    os.close(alive_read)
    return Launched(pid, socket.socket(fileno=mine), alive_fd, shared_dir)
