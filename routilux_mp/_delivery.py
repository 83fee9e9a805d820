"""What a job does, told to the caller's own code: in a thread of the caller, after it is durable.

The rule owned here: everything since this process has had the job is told once, in commit order, also
what came before anybody listened; a listener that raises is reported and gets the next thing.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._history import Timestamp
from ._worker.records import HistoryItem, OutputItem, Ran
from .errors import RoutiluxError
from .monitoring.hooks import ExecutionHooks
from .output import OutputHandler

if TYPE_CHECKING:
    from ._core.view import JobView
    from ._supervisor.handle import JobHandle

_log = logging.getLogger(__name__)
T = TypeVar("T")


class _Follower(ABC, Generic[T]):
    """Follows one job until it has ended, or is no longer here."""

    def __init__(self, handle: JobHandle, what: str) -> None:
        self._handle = handle
        self._what = what
        self._told = 0  # of all there are, those of earlier owners included
        self._progress = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name=f"routilux_mp-{what}", daemon=True)
        self._thread.start()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything durable is told; False after ``timeout_s``."""
        if threading.current_thread() is self._thread:
            return False  # a listener that waits for itself
        with self._progress:
            return self._progress.wait_for(lambda: self._is_over or self._is_level(), timeout_s)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended, as it does when the job ends or leaves this process."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    @abstractmethod
    def _open(self) -> AbstractContextManager[Callable[[], Iterator[T]]]:
        """Where to get what is new."""

    @abstractmethod
    def _count(self, view: JobView) -> int:
        """How much there is."""

    @property
    @abstractmethod
    def _before(self) -> int:
        """How much there was before this process had the job."""

    @abstractmethod
    def _tell(self, item: T) -> None:
        """Tell the listener."""

    def _is_counted(self, item: T) -> bool:
        """Whether it is one of those that :meth:`_count` counts."""
        return True

    def _is_new(self, item: T, before: int) -> bool:
        """Whether it has come since this process has had the job; ``before``: how many came before."""
        return self._told >= before

    def _end(self) -> None:
        """Nothing more comes."""

    def _is_level(self) -> bool:
        return self._told >= self._count(self._handle.view)

    def _run(self) -> None:
        try:
            self._tell_all()
            self._guarded(self._end)
        except RoutiluxError as error:
            _log.error("%s of job %s are no longer followed: %s", self._what, self._handle.job_id, error)
        finally:
            with self._progress:
                self._is_over = True
                self._progress.notify_all()

    def _tell_all(self) -> None:
        handle, before, is_last = self._handle, self._before, False
        with self._open() as new:
            while True:
                for item in new():
                    if self._is_new(item, before):
                        self._guarded(lambda item=item: self._tell(item))  # type: ignore[misc]
                    if self._is_counted(item):
                        with self._progress:
                            self._told += 1
                            self._progress.notify_all()
                if is_last:
                    return
                try:
                    handle.wait(lambda v: self._count(v) > self._told or v.is_terminal)
                except RoutiluxError:
                    is_last = True  # it goes on elsewhere; what it did while it was here is still told
                is_last = is_last or (handle.view.is_terminal and self._is_level())

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception:  # the user's own code
            _log.exception("the listener to %s of job %s failed", self._what, self._handle.job_id)


class Delivery(_Follower[OutputItem]):
    """Brings the outputs of a job to its output handler."""

    def __init__(self, handle: JobHandle, receiver: Callable[[], OutputHandler | None]) -> None:
        self._receiver = receiver
        super().__init__(handle, "outputs")

    def _open(self) -> AbstractContextManager[Callable[[], Iterator[OutputItem]]]:
        return self._handle.following_outputs()

    def _count(self, view: JobView) -> int:
        return view.sent_count

    @property
    def _before(self) -> int:
        return self._handle.sent_before

    def _tell(self, item: OutputItem) -> None:
        receiver = self._receiver()
        if receiver is not None:
            at = Timestamp.of(item.time_ns)
            receiver.handle(self._handle.job_id, item.routine_id, item.output_type, item.data, at)


class Observer(_Follower[HistoryItem | Ran]):
    """Tells hooks what a job does."""

    def __init__(self, handle: JobHandle, state: Any, hooks: Callable[[], list[ExecutionHooks]]) -> None:
        self._state = state
        self._hooks = hooks
        self._ran = 0  # activations but for the entry, those under earlier owners included
        self._has_begun: str | None = None  # the entry, until its attempt is over
        super().__init__(handle, "history")

    def _open(self) -> AbstractContextManager[Callable[[], Iterator[HistoryItem | Ran]]]:
        self._each(lambda hooks: hooks.on_job_start(self._state))
        return self._handle.following_history()

    def _count(self, view: JobView) -> int:
        return view.history_count

    @property
    def _before(self) -> int:
        return self._handle.recorded_before

    def _is_counted(self, item: HistoryItem | Ran) -> bool:
        return type(item) is HistoryItem

    def _is_new(self, item: HistoryItem | Ran, before: int) -> bool:
        return type(item) is Ran or super()._is_new(item, before)  # those it counts itself

    def _tell(self, item: HistoryItem | Ran) -> None:
        rid, state = item.routine_id, self._state
        match item:
            case Ran(_, count, is_over):
                self._tell_ran(rid, count, is_over)
            case HistoryItem(_, "start"):
                self._begin(rid)
                self._has_begun = rid
            case HistoryItem(_, "completed"):
                self._end_attempt(rid, "completed", None)
            case HistoryItem(_, "error" | "error_continued", data):
                self._end_attempt(rid, "failed", str(data.get("error")))
            case HistoryItem(_, event, data):
                self._each(lambda hooks: hooks.on_event_emit(rid, event, data, state))

    def _tell_ran(self, rid: str, count: int, is_over: bool) -> None:
        before = max(0, self._handle.ran_before - self._ran)
        self._ran += count if is_over else 0
        for _ in range(count - before):
            if is_over:
                self._each(lambda hooks: hooks.on_routine_end(rid, self._state, "completed"))
            else:
                self._begin(rid)

    def _begin(self, rid: str) -> None:
        self._each(lambda hooks: hooks.on_routine_start(rid, self._state))

    def _end_attempt(self, rid: str, status: str, error: str | None) -> None:
        if self._has_begun != rid:  # of the others nothing is recorded when they begin
            self._begin(rid)
        self._has_begun = None
        self._each(lambda hooks: hooks.on_routine_end(rid, self._state, status, error))

    def _end(self) -> None:
        view = self._handle.view
        if view.is_terminal:
            self._each(lambda hooks: hooks.on_job_end(self._state, view.status))

    def _each(self, call: Callable[[ExecutionHooks], Any]) -> None:
        for hooks in self._hooks():
            self._guarded(lambda hooks=hooks: call(hooks))  # type: ignore[misc]
