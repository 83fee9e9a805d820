"""One end of a stream socket in an event loop: reads what is there, writes what goes, keeps the rest.

The rule it owns: no call waits.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections import deque
from typing import Any

from .._worker.wire import Frames

_READ_BYTES = 1 << 18


class Pipe:
    """One end of a stream socket: reads what is there, writes what goes, keeps the rest."""

    def __init__(self, sock: socket.socket, selector: selectors.BaseSelector, owner: Any) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.frames = Frames()
        self.is_open = True
        self._out: deque[tuple[memoryview, tuple[int, ...]]] = deque()  # bytes, and descriptors to go with them
        self._selector = selector
        self._owner = owner
        self._is_ending = False
        self._held: list[bytes] = []
        selector.register(sock, selectors.EVENT_READ, owner)

    def write(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send now what goes now. ``fds`` are sent along and closed here."""
        if not self.is_open or self._is_ending:
            _close_all(fds)
            return
        if self._held:
            self._held.append(data)
            data = b"".join(self._held)
            self._held.clear()
        self._out.append((memoryview(data), fds))
        if len(self._out) == 1:
            self.flush()

    def hold(self, data: bytes) -> None:
        """Send it before whatever is written next, or at :meth:`let_go`: it alone is not worth waking the reader."""
        self._held.append(data)

    def let_go(self) -> None:
        """Send what is held now."""
        if self._held:
            self.write(b"")

    def flush(self) -> None:
        """Write until all is written or the socket is full."""
        out = self._out
        try:
            while out:
                data, fds = out[0]
                sent = socket.send_fds(self.sock, [data], fds) if fds else self.sock.send(data)
                _close_all(fds)
                out.popleft()
                if sent < len(data):
                    out.appendleft((data[sent:], ()))
        except BlockingIOError:
            pass
        except OSError:
            self._drop_output()  # nobody reads any more: the reader's end will be reported
        if self._is_ending and not out:
            self._shut()
        if self.is_open:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if out else 0)
            if self._selector.get_key(self.sock).events != wanted:
                self._selector.modify(self.sock, wanted, self._owner)

    def read(self) -> list[bytes]:
        """Contents of the frames that have arrived; at the end of the stream ``is_open`` becomes false."""
        try:
            data = self.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.hang_up()
            return []
        return self.frames.feed(data)

    def end(self) -> None:
        """Let the reader see the end of the stream once all is written."""
        self._is_ending = True
        if not self._out:
            self._shut()

    def hang_up(self) -> None:
        """Stop looking at the socket, which stays to be closed."""
        if self.is_open:
            self.is_open = False
            self._selector.unregister(self.sock)

    def close(self) -> None:
        self.hang_up()
        self._drop_output()
        self.sock.close()

    def _shut(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other end is gone already

    def _drop_output(self) -> None:
        for _, fds in self._out:
            _close_all(fds)
        self._out.clear()
        self._held.clear()


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
