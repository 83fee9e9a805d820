"""The second thread of a worker: no finished activation waits for a slow neighbour."""

from __future__ import annotations

import threading
import time

from .files import Files, HandedBack
from .transaction import Transaction


class LateSender:
    """A thread that sends what is finished while a slow handler runs. Made when it is first needed."""

    def __init__(self, transaction: Transaction, files: Files) -> None:
        self._transaction = transaction
        self._files = files
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_awake = False

    def wake(self) -> None:
        """Something is finished and unsent while the handler goes on."""
        if not self.is_awake:
            self.arm()

    def arm(self) -> None:
        """Something is finished and unsent while the next activation begins."""
        self.is_awake = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="routilux_mp-late-sender", daemon=True)
            self._thread.start()
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            left_s = self._transaction.job.info.flush_ms / 1000
            while True:
                time.sleep(left_s)
                self._files.settle()  # while the handler goes on
                self.is_awake = False  # before the look, so that whoever comes after it arms again
                try:
                    left_s = self._transaction.flush_finished()
                except HandedBack:
                    left_s = 0.0  # the main thread will find out
                if not left_s:
                    break
