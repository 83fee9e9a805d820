"""``print`` in a worker process: text goes to the supervisor, line by line, before any report that follows it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .wire import Text


class Streams(NamedTuple):
    """The replaced standard streams."""

    stdout: io.TextIOWrapper
    stderr: io.TextIOWrapper

    def flush(self) -> None:
        """Send unfinished lines too."""
        self.stdout.flush()
        self.stderr.flush()


def redirect_streams(send: Callable[[Any], None]) -> Streams:
    """Replace ``sys.stdout`` and ``sys.stderr`` of this process."""
    streams = Streams(_text("stdout", 1, send), _text("stderr", 2, send))
    sys.stdout, sys.stderr = streams
    return streams


def _text(name: str, fd: int, send: Callable[[Any], None]) -> io.TextIOWrapper:
    sink = _Sink(name, fd, send)
    return io.TextIOWrapper(sink, encoding="utf-8", errors="backslashreplace", newline="", line_buffering=True)


class _Sink(io.RawIOBase):
    """The bytes below a text stream."""

    def __init__(self, name: str, fd: int, send: Callable[[Any], None]) -> None:
        self.name = f"<{name}>"
        self.mode = "wb"
        self._stream = name
        self._fd = fd
        self._send = send

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The inherited descriptor, which a subprocess may be given."""
        return self._fd

    def isatty(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        content = bytes(data)
        if content:
            self._send(Text(self._stream, content.decode("utf-8", "backslashreplace")))
        return len(content)
