"""What handlers print, on the caller's own streams.

The rule it owns: the loop never waits for whoever reads them, and never fails because of them. A stream that
takes text is written to at once; behind one that does not, text waits and a thread of its own writes it.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from collections import deque
from typing import Any, Final

from .._worker.logs import LOG
from .relay import Relay

log = logging.getLogger(__name__)

#: Characters; a pipe that is ready takes 4096 bytes without blocking (PIPE_BUF).
_AT_ONCE: Final = 1024
#: Text that may wait for a reader; what is more is left out, and that is said.
WAITING_BYTES_MAX: Final = 64 * 2**20


class Printer:
    """Called in the loop's thread."""

    def __init__(self) -> None:
        self._relay = Relay()
        self._backlogs: dict[int, _Backlog] = {}
        self._gone: set[int] = set()  # descriptors that nobody reads any more

    def __call__(self, stream: str, text: str) -> None:
        """Print ``text`` on "stdout" or "stderr"; or it is a record for "log"."""
        if stream == LOG:
            self._relay(text)
            return
        target = sys.stderr if stream == "stderr" else sys.stdout
        if target is None:
            return
        try:
            self._print(target, text)
        except Exception as error:  # the stream may be an object of the user's; what it raises ends no job
            log.debug("output of a handler was not printed: %s", error)

    def close(self) -> None:
        """Wait until everything is written or nobody reads it any more, as the program's own printing would."""
        self._relay.close()
        for backlog in self._backlogs.values():
            backlog.close()
        self._backlogs.clear()

    def _print(self, target: Any, text: str) -> None:
        fd = _descriptor(target)
        if fd in self._gone:
            return
        start = 0
        while start < len(text):
            backlog = self._backlogs.get(fd)
            if backlog is None and _takes(fd):
                try:
                    _write(target, text[start : start + _AT_ONCE])
                except BrokenPipeError:
                    self._gone.add(fd)
                    return
                start += _AT_ONCE
                continue
            data = _encoded(target, text[start:])
            if backlog is None:
                self._backlogs[fd] = _Backlog(fd, data)
                return
            if backlog.add(data):
                return
            backlog.close()
            del self._backlogs[fd]
            if backlog.is_broken:
                self._gone.add(fd)
                return


class _Backlog:
    """Text behind a stream that takes none now."""

    def __init__(self, fd: int, data: bytes) -> None:
        self._fd = fd
        self._waiting = deque((data,))
        self._size = len(data)
        self._left_out = 0
        self._lock = threading.Lock()
        self._is_over = False
        self.is_broken = False
        self._thread = threading.Thread(target=self._run, name="routilux-print", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter ends: Python 3.12.0 to 3.12.2 begin none then
            self._run()

    def add(self, data: bytes) -> bool:
        """Let it be written after what waits. False: nothing waits any more, and the thread has ended."""
        with self._lock:
            if self._is_over:
                return False
            if self._size + len(data) > WAITING_BYTES_MAX:
                self._left_out += len(data)
            else:
                self._waiting.append(data)
                self._size += len(data)
            return True

    def close(self) -> None:
        """Wait until nothing waits any more."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_over = True
                    return
                data = self._waiting[0]
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                select.select((), (self._fd,), (), 0.1)
                with self._lock:
                    self._waiting[0] = data
                continue
            except OSError as error:
                log.debug("nobody reads what handlers print: %s", error)
                with self._lock:
                    self.is_broken = self._is_over = True
                return
            with self._lock:
                self._size -= len(self._waiting.popleft())
                if self._left_out and not self._waiting:
                    note = f"[{self._left_out} bytes of output were left out: they were not read]\n"
                    self._waiting.append(note.encode())
                    self._size += len(note)
                    self._left_out = 0


def _descriptor(target: Any) -> int:
    """What the stream writes to; -1: an object that has none."""
    try:
        return int(target.fileno())
    except (AttributeError, OSError, ValueError):
        return -1


def _takes(fd: int) -> bool:
    """Whether the stream takes a little text without making its writer wait."""
    try:
        return fd < 0 or bool(select.select((), (fd,), (), 0)[1])
    except (OSError, ValueError):
        return True  # nothing that can be waited for


def _encoded(target: Any, text: str) -> bytes:
    return text.encode(getattr(target, "encoding", None) or "utf-8", "replace")


def _write(target: Any, text: str) -> None:
    try:
        target.write(text)
    except UnicodeEncodeError:
        encoding = getattr(target, "encoding", None) or "ascii"
        target.write(text.encode(encoding, "replace").decode(encoding))
    target.flush()
