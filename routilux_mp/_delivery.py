"""Outputs of a job on their way to the caller's handler: in a thread of the caller, after they are durable.

The rule owned here: every output since this process has had the job is delivered once, in commit order,
also those sent before the handler was set; a handler that raises is reported and gets the next one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._history import Timestamp
from .errors import RoutiluxError
from .output import OutputHandler

if TYPE_CHECKING:
    from ._supervisor.handle import JobHandle

_log = logging.getLogger(__name__)


class Delivery:
    """Delivers the outputs of one job until the job has ended, or is no longer here."""

    def __init__(self, handle: JobHandle, receiver: Callable[[], OutputHandler | None]) -> None:
        self._handle = handle
        self._receiver = receiver
        self._delivered = 0  # outputs of the job, those of earlier owners included
        self._progress = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="routilux_mp-outputs", daemon=True)
        self._thread.start()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything that the job has durably sent is delivered; False after ``timeout_s``."""
        if threading.current_thread() is self._thread:
            return False  # a handler that waits for itself
        with self._progress:
            return self._progress.wait_for(lambda: self._is_over or self._is_level(), timeout_s)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended, as it does when the job ends or leaves this process."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _is_level(self) -> bool:
        return self._delivered >= self._handle.view.sent_count

    def _run(self) -> None:
        try:
            self._deliver_all()
        except RoutiluxError as error:
            _log.error("outputs of job %s are no longer delivered: %s", self._handle.job_id, error)
        finally:
            with self._progress:
                self._is_over = True
                self._progress.notify_all()

    def _deliver_all(self) -> None:
        handle = self._handle
        is_last = False
        with handle.following() as new_outputs:
            while True:
                for item in new_outputs():
                    if self._delivered >= handle.sent_before:
                        self._hand_over(item)
                    with self._progress:
                        self._delivered += 1
                        self._progress.notify_all()
                if is_last:
                    return
                try:
                    handle.wait(lambda v: v.sent_count > self._delivered or v.is_terminal)
                except RoutiluxError:
                    is_last = True  # it goes on elsewhere; what it sent while it was here is still ours
                is_last = is_last or (handle.view.is_terminal and self._is_level())

    def _hand_over(self, item: Any) -> None:
        receiver = self._receiver()
        if receiver is None:
            return
        try:
            receiver.handle(
                self._handle.job_id, item.routine_id, item.output_type, item.data, Timestamp.of(item.time_ns)
            )
        except Exception:  # the user's handler
            _log.exception("the output handler of job %s failed", self._handle.job_id)
