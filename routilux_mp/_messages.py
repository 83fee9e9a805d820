"""What a job says to people and to itself: shared log, outputs, deferred events. Part of :class:`JobState`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._history import Timestamp
from .output import OutputHandler

if TYPE_CHECKING:
    from ._documents import Document
    from ._live import LiveJob


class Messages(ABC):
    """The part of a JobState that is neither status nor state nor history."""

    _output_handler: OutputHandler | None

    @property
    @abstractmethod
    def _source(self) -> Document | LiveJob:
        """What stands behind it."""

    @abstractmethod
    def _write(self, method: str, *arguments: Any) -> None:
        """Change the job, or the document of one."""

    # -- shared log -----------------------------------------------------------------------------

    @property
    def shared_log(self) -> list[dict[str, Any]]:
        """Everything that was appended to the shared log, in order."""
        return self._source.shared_log

    def append_to_shared_log(self, entry: dict[str, Any]) -> None:
        """Add an entry; it gets a ``timestamp`` unless it has one."""
        self._write("log", {"timestamp": Timestamp.of(None).isoformat(), **entry})

    def get_shared_log(self, filter_func: Callable[[dict[str, Any]], bool] | None = None) -> list[dict[str, Any]]:
        """The shared log, or the entries that ``filter_func`` accepts."""
        return [entry for entry in self.shared_log if filter_func is None or filter_func(entry)]

    # -- deferred events ------------------------------------------------------------------------

    @property
    def deferred_events(self) -> list[dict[str, Any]]:
        """Emissions that are kept back until the job is resumed: routine_id, event_name, data."""
        return self._source.deferred_events

    def add_deferred_event(self, routine_id: str, event_name: str, data: dict[str, Any]) -> None:
        """Have a routine's event emitted when the job is resumed, and not before.

        Raises:
            ValueError: the job has no such routine or event.
        """
        self._write("defer", routine_id, event_name, dict(data))

    # -- outputs --------------------------------------------------------------------------------

    @property
    def output_log(self) -> list[dict[str, Any]]:
        """Every output that was sent, in order."""
        return self._source.output_log

    @property
    def output_handler(self) -> OutputHandler | None:
        """Who is given the outputs, besides the log."""
        return self._output_handler

    def set_output_handler(self, handler: OutputHandler | None) -> None:
        """Have every output handled in this process, in a thread of its own, once it is durable.

        Also what was sent before, since this process has had the job.
        """
        self._output_handler = handler
        self._deliver()

    def send_output(self, routine_id: str, output_type: str, data: dict[str, Any]) -> None:
        """Send one output: to the log and to the handler."""
        if self._source.send(routine_id, output_type, data) or self._output_handler is None:
            return  # the job has it, and delivers it when it is durable
        self._output_handler.handle(self._source.job_id, routine_id, output_type, data, Timestamp.of(None))

    def _deliver(self) -> None:
        """See that the outputs of a live job reach the handler."""
        handle = getattr(self._source, "handle", None)
        if handle is not None and self._output_handler is not None and handle.delivery is None:
            from ._delivery import Delivery

            handle.delivery = Delivery(handle, lambda: self._output_handler)
