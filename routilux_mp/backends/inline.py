"""Workers that are no processes: everything runs in the thread that polls, for a debugger, a notebook, a test.

The same worker code runs as in a process, on the caller's own routine objects. What a process gives
is missing: a handler that never returns cannot be killed, a crash is a crash of everything, and a
time limit is only noticed. One handler runs at a time; a generator that waits for its consumers is set aside.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from .. import context
from .._core.effects import Revoke, Work
from .._worker.liveness import IDLE, Page
from .._worker.main import Activity, Worker
from .._worker.transaction import UNANSWERED_MAX
from .._worker.wire import Reported, Task, plain_state
from ..errors import BackendError
from .base import Code, CodeReady, CodeRefused, Died, Event, Exit, Message, Report, Started

_SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has none; nothing is sent here, only said


class _Channel:
    """What connects a worker with the backend: two queues."""

    def __init__(self) -> None:
        self.inbox: list[Any] = []
        self.outbox: list[Reported] = []

    def read(self, *, wait: bool) -> Sequence[Any]:
        """Never waits: nobody could send meanwhile."""
        messages, self.inbox = self.inbox, []
        return messages

    def send(self, message: Reported) -> None:
        self.outbox.append(message)


class _Routines:
    def __init__(self, routines: Mapping[str, Any]) -> None:
        self._routines = routines

    def routine(self, routine_id: str) -> Any:
        """The caller's own object."""
        return self._routines[routine_id]


class _InlineWorker:
    def __init__(self, number: int, routines: Mapping[str, Any]) -> None:
        self.number = number
        self.channel = _Channel()
        self.page = Page()
        self.worker = Worker(self.channel, self.page, _Routines(routines), may_wait=False)
        self.activity: Activity | None = None  # begun, and set aside
        self.is_stopping = False

    def is_runnable(self) -> bool:
        """Whether there is something that can go on now."""
        self.worker.take_messages(wait=False)
        if self.activity is not None:
            transaction = self.worker.transaction
            return transaction.unanswered < UNANSWERED_MAX or transaction.is_revoked
        return bool(self.worker.queue)

    def run(self) -> None:
        """Run one piece of work, or as far as it can go."""
        activity = self.activity if self.activity is not None else self.worker.run_next()
        self.activity = None
        token = context.enter(self.worker.transaction)
        try:
            for _ in activity:
                self.activity = activity
                break
        finally:
            context.leave(token)


class InlineBackend:
    """See :class:`~routilux_mp.backends.base.Backend`."""

    def __init__(self) -> None:
        self._routines: dict[str, Mapping[str, Any]] = {}
        self._workers: dict[int, _InlineWorker] = {}
        self._used: set[int] = set()
        self._turn: deque[int] = deque()  # workers, the one that waited longest first
        self._events: list[Event] = []
        self._woken = threading.Event()
        self._lease_ns = 0
        self._is_closed = False

    def prepare(self) -> None:
        """Nothing to be done."""

    def load(self, code: Code) -> None:
        """Remember the caller's routine objects."""
        self._check_open()
        if code.routines is None:
            self._events.append(
                CodeRefused(code.code_id, "the inline backend runs the caller's own routines; none given")
            )
            return
        self._routines[code.code_id] = code.routines
        self._events.append(CodeReady(code.code_id))

    def unload(self, code_id: str) -> None:
        """See :meth:`~routilux_mp.backends.base.Backend.unload`."""
        self._routines.pop(code_id, None)

    def start(self, worker: int, code_id: str) -> None:
        """Make a worker."""
        self._check_open()
        if worker in self._used:
            raise BackendError(f"worker number {worker} has been used before")
        self._used.add(worker)
        routines = self._routines.get(code_id)
        if routines is None:
            detail = f"its code {code_id} is not loaded"
            self._events.append(Died(worker, Exit(0, is_blameless=True, detail=detail)))
            return
        made = self._workers[worker] = _InlineWorker(worker, routines)
        made.page.set_lease(self._lease_ns)
        self._turn.append(worker)
        self._events.append(Started(worker, os.getpid()))

    def send(self, worker: int, message: Message, job_id: str = "") -> None:
        """Queue a message."""
        found = self._workers.get(worker)
        if found is None or found.is_stopping:
            return
        if isinstance(message, Revoke):
            found.page.revoke(message.dispatch)
        if isinstance(message, Work):
            found.channel.inbox.append(Task(job_id, message._replace(state=plain_state(message))))
        else:
            found.channel.inbox.append(message)

    def poll(self, timeout_s: float | None, pause_s: float = 0.0) -> list[Event]:
        """Run one piece of work of one worker, unless there is something to tell already."""
        self._check_open()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._events and not self._woken.is_set():
            if not self._run_one() and not self._events:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._woken.wait(left):
                    break
        self._woken.clear()
        events, self._events = self._events, []
        return events

    def _run_one(self) -> bool:
        for _ in range(len(self._turn)):
            self._turn.rotate(-1)
            worker = self._workers[self._turn[-1]]
            if worker.is_runnable():
                try:
                    worker.run()
                finally:
                    self._collect(worker)
                return True
            if worker.is_stopping:
                self._remove(worker, Exit(os.getpid(), 0, is_blameless=True, detail="stopped"))
                return True
        return False

    def _collect(self, worker: _InlineWorker) -> None:
        outbox, worker.channel.outbox = worker.channel.outbox, []
        self._events += [Report(worker.number, message.completion, message.job_id) for message in outbox]

    def _remove(self, worker: _InlineWorker, end: Exit) -> None:
        del self._workers[worker.number]
        self._turn.remove(worker.number)
        worker.activity = None
        self._events.append(Died(worker.number, end))

    def wake(self, *, is_awaited: bool = True) -> None:
        """Make ``poll`` return, from any thread."""
        self._woken.set()

    def running(self, worker: int) -> tuple[int, int, int]:
        """What the worker's page says; nothing runs while anybody can ask, unless from another thread."""
        found = self._workers.get(worker)
        return found.page.running() if found is not None else (0, IDLE, 0)

    def shared_dir(self) -> str | None:
        """None: nothing has to be moved."""
        return None

    def set_lease(self, deadline_ns: int) -> None:
        """Write the deadline into every page, and into those of workers to come."""
        self._lease_ns = deadline_ns
        for worker in self._workers.values():
            worker.page.set_lease(deadline_ns)

    def kill(self, worker: int) -> None:
        """Drop the worker with everything it has; a handler that runs is not interrupted."""
        found = self._workers.get(worker)
        if found is not None:
            self._remove(found, Exit(os.getpid(), None, _SIGKILL, is_blameless=True, detail="dropped"))

    def stop(self, worker: int) -> None:
        """Drop the worker when it has done everything sent to it."""
        found = self._workers.get(worker)
        if found is not None:
            found.is_stopping = True

    def close(self) -> None:
        """Drop all workers. May be called again."""
        self._is_closed = True
        for worker in self._workers.values():
            worker.activity = None
        self._workers.clear()
        self._turn.clear()
        self._woken.set()

    def _check_open(self) -> None:
        if self._is_closed:
            raise BackendError("the backend is closed")
