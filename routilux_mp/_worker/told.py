"""SIGTERM: whoever stops a service or a batch job often tells every process of it.

What becomes of the jobs is for the supervisor to decide, which lets what runs end and hands over the rest. So a worker
ends with what it runs, and then as it was told; one that runs nothing ends at once. An activation that fails after that
(the programs it has started were told, too) is handed back, and run again. What is forked from these processes ends as
any other.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Protocol


class Told(Protocol):
    """A worker that can be told to end."""

    is_told: bool
    is_running: bool


def stay() -> None:
    """In the process that workers are forked from: it ends with its supervisor, and not before."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # not SIG_IGN, which every program that is started would inherit
    os.register_at_fork(after_in_child=_as_usual)


def listen(worker: Told) -> None:
    """In a worker."""

    def on_signal(number: int, frame: Any) -> None:
        worker.is_told = True
        if not worker.is_running:
            end(worker)

    signal.signal(signal.SIGTERM, on_signal)


def end(worker: Told) -> None:
    """As the signal does by itself, if there was one."""
    if worker.is_told:
        _as_usual()
        os.kill(os.getpid(), signal.SIGTERM)


def _as_usual() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
