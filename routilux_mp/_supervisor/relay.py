"""Log records of workers, and of jobs, handed to the caller's logging.

The rule it owns: the loop never waits for the caller's handlers. A thread hands records on while there are any.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

from .._worker.logs import from_text

log = logging.getLogger(__name__)

#: Characters of records that may wait for slow handlers; what is more is left out, and that is said.
WAITING_MAX: Final = 64 * 2**20
#: The thread ends when nothing has come for so long.
_IDLE_S: Final = 1.0


class Relay:
    """Called in the loop's thread."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._size = 0
        self._left_out = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def __call__(self, text: str) -> None:
        """Hand on a record, as :func:`as_text` wrote it; soon."""
        with self._changed:
            if self._size + len(text) > WAITING_MAX:
                self._left_out += 1
                return
            self._size += len(text)
            self._waiting.append(text)
            if self._thread is None:
                self._begin()
            else:
                self._changed.notify()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name="routilux-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # the interpreter ends: Python 3.12.0 to 3.12.2 begin none then
        self._thread = thread

    def close(self) -> None:
        """Wait until all of them are handed on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
        elif self._waiting:
            self._run()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._is_closed:
                    self._changed.wait(_IDLE_S)
                if not self._waiting:
                    self._thread = None
                    return
                text = self._waiting.popleft()
                self._size -= len(text)
                left_out, self._left_out = (0, self._left_out) if self._waiting else (self._left_out, 0)
            _hand_on(text)
            if left_out:
                log.warning("%d log records were left out: the handlers were too slow for them", left_out)


def _hand_on(text: str) -> None:
    try:
        record = from_text(text)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception as error:  # a filter of the user's may raise anything; it ends no job
        log.debug("a log record was not handed on: %s", error)
