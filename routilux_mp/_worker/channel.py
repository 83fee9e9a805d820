"""What connects a worker with its supervisor, as the worker sees it."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .logs import LOG, from_text
from .wire import Frames, Text, decode, encode

_READ_BYTES = 1 << 18


class Channel(Protocol):
    """The worker's end of what connects it with the supervisor."""

    def read(self, *, wait: bool) -> Sequence[Any] | None:
        """Messages that have come; waits for some if ``wait``. None: there will be no more."""

    def send(self, message: Any) -> None:
        """Send a message."""


class SocketChannel:
    """A worker process's end of its socket; threads may send."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = Frames()
        self._lock = threading.Lock()
        self._is_left = False
        self.before_waiting: Callable[[], None] = _nothing

    def read(self, *, wait: bool) -> Sequence[Any] | None:
        """See :class:`Channel`. A fork that comes back from its handler ends here: the messages are the worker's."""
        if self._is_left:
            os._exit(0)
        if wait:
            self.before_waiting()
        try:
            data = self._sock.recv(_READ_BYTES, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return ()
        except ConnectionError:
            data = b""
        if not data:
            return None
        return [decode(content) for content in self._frames.feed(data)]

    def send(self, message: Any) -> None:
        """See :class:`Channel`. Ends the process when nobody listens any more."""
        if self._is_left:
            if isinstance(message, Text):
                print_here(message)
            return
        data = encode(message)
        with self._lock:
            try:
                self._sock.sendall(data)
            except ConnectionError:
                os._exit(1)

    def leave(self) -> None:
        """In a process that a handler has forked, and that shares the socket: what two send at once would be torn."""
        self._is_left = True


def print_here(text: Text) -> None:
    """On the inherited descriptors, as a process started in another way would."""
    fd, data = (1 if text.stream == "stdout" else 2), text.text.encode("utf-8", "backslashreplace")
    if text.stream == LOG:
        record = from_text(text.text)
        if record.levelno < logging.WARNING:
            return
        data = f"{logging.Formatter().format(record)}\n".encode()
    while data:
        data = data[os.write(fd, data) :]


def _nothing() -> None:
    pass
