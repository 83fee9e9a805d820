"""Where the outputs of a job go: handlers in the caller's process, and files that appear whole.

Output handlers run in a thread of the caller, after the output is durable, never in a worker. A
file is written beside its place by the worker and moved there when the activation's commit stands.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import IO, Any, Protocol

from .errors import UsageError


class _PutQueue(Protocol):
    def put(self, item: Any, /) -> Any: ...


class OutputHandler(ABC):
    """Receives what routines send with ``send_output``; bound to a job, not to a flow."""

    @abstractmethod
    def handle(
        self,
        job_id: str,
        routine_id: str,
        output_type: str,
        data: dict[str, Any],
        timestamp: datetime | None = None,
    ) -> None:
        """Take one output."""


class QueueOutputHandler(OutputHandler):
    """Puts every output into a queue, as a dictionary with an ISO timestamp."""

    def __init__(self, queue: _PutQueue) -> None:
        self.queue = queue

    def handle(
        self,
        job_id: str,
        routine_id: str,
        output_type: str,
        data: dict[str, Any],
        timestamp: datetime | None = None,
    ) -> None:
        self.queue.put(
            {
                "job_id": job_id,
                "routine_id": routine_id,
                "output_type": output_type,
                "data": data,
                "timestamp": (timestamp or datetime.now()).isoformat(),
            }
        )


class CallbackOutputHandler(OutputHandler):
    """Calls ``callback(job_id, routine_id, output_type, data, timestamp)``."""

    def __init__(self, callback: Callable[[str, str, str, dict[str, Any], datetime], Any]) -> None:
        self.callback = callback

    def handle(
        self,
        job_id: str,
        routine_id: str,
        output_type: str,
        data: dict[str, Any],
        timestamp: datetime | None = None,
    ) -> None:
        self.callback(job_id, routine_id, output_type, data, timestamp or datetime.now())


class NullOutputHandler(OutputHandler):
    """Drops every output."""

    def handle(
        self,
        job_id: str,
        routine_id: str,
        output_type: str,
        data: dict[str, Any],
        timestamp: datetime | None = None,
    ) -> None:
        return None


@contextmanager
def staged_file(
    path: str | os.PathLike[str], mode: str, options: Mapping[str, Any], add_output: Callable[[str, str], None]
) -> Iterator[IO[Any]]:
    """Write a private file beside ``path``; durable and announced to ``add_output`` when the block ends well."""
    if mode not in ("w", "wb", "x", "xb"):
        raise UsageError(f"an output file is written from its start: mode 'w' or 'wb', not {mode!r}")
    final = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(final)
    private = os.path.join(folder, f".{name}.{os.urandom(6).hex()}.tmp")
    with ExitStack() as stack:
        stack.callback(_remove, private)  # unless the block ends well
        with open(private, mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        stack.pop_all()
    add_output(private, final)


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)
