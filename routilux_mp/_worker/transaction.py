"""One activation after another as transactions, and the reports that carry them to the supervisor.

What a handler emits and changes gathers here and is cut off again when it raises. What finished
activations leave behind is sent in few, large reports. Not here: which activation runs (``main``), how
a handler is called (``invoke``). The rules it owns: a failed attempt leaves no trace in any report; and
everything before ``mark`` belongs to activations that returned or cursors that were committed, everything
after it to the one that runs.

A second thread may send what is finished while a slow handler runs, so everything but :meth:`emit`
happens under ``lock``, which the main thread holds unless it is in a handler.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._core.batch import Batch
from .._core.stimuli import Completion, Failure, StateOp
from .._serialization.items import ATOMS, encode_item, flat_packer
from ..errors import EmissionNotSerializable, KeyUnavailable, StorageBlocked, UnknownName
from .batches import READY, Entry, assemble, size_of
from .liveness import IDLE, INDEX, LEASE_NS, REVOKED, START_NS, is_expired
from .spill import Spiller, is_reference

if TYPE_CHECKING:
    from .jobs import JobHere, RoutineHere

log = logging.getLogger(__name__)

_NEVER = 1 << 63
#: Reports with a cursor that may be unanswered before a generator waits.
UNANSWERED_MAX = 4
#: Uncommitted emissions and time after which a plain handler is warned.
_UNCOMMITTED_MAX = 10_000
LONG_NS = 5_000_000_000
_BLOCKED_RETRY_S = 0.2


class HandedBack(BaseException):
    """The work was revoked while its results waited for the disk; a handler must not catch this."""


class Transaction:
    """The :class:`~routilux_mp.context.Activation` of one worker; the same object for all it runs."""

    def __init__(
        self, send: Callable[[str, Completion], None], numbers: memoryview, wait_for_answers: Callable[[], None]
    ) -> None:
        self._send = send
        self._numbers = numbers
        self._wait_for_answers = wait_for_answers
        self.lock = threading.Lock()
        self._pack = flat_packer()
        self._spiller = Spiller()
        # -- the dispatch --
        self.job: JobHere
        self.routine: RoutineHere
        self.dispatch = 0
        self.count = 0  # activations in it
        self.out: list[Entry] = []
        self.mark = 0  # entries of ``out`` before it are committed, as far as this worker can say
        self.done = 0  # activations returned since the last report
        self.size = 0  # bytes in ``out``, about
        self.deadline_ns = _NEVER  # when what is finished must be on its way
        self._grow_at = 0
        self._ops: list[StateOp] = []
        self._reads: tuple[tuple[str, str], ...] = ()
        self._cursor: bytes | None = None
        self._busy_since_ns = 0
        self.unanswered = 0
        # -- the activation --
        self.seq = 0
        self.attempt = 1
        self.resume_cursor: Any = None
        self._outputs: list[tuple[str, str]] = []
        self._spilled: list[str] = []  # files of the running activation
        self._poison: BaseException | None = None
        self._is_in_handler = False
        self._has_warned = False

    # -- what a handler uses --------------------------------------------------------------------

    @property
    def idempotency_key(self) -> str:
        """See :class:`~routilux_mp.context.Activation`."""
        return f"{self.job.info.job_id}/{self.routine.routine_id}/{self.seq}"

    @property
    def job_state(self) -> Any:
        """See :class:`~routilux_mp.context.Activation`."""
        return self.routine.state

    @property
    def flow_id(self) -> str:
        """The flow of the job."""
        return self.job.info.flow_id

    @property
    def routine_id(self) -> str:
        """The id in the flow of the routine that runs."""
        return self.routine.routine_id

    def emit(self, routine: Any, event_name: str, kwargs: dict[str, Any]) -> None:
        """Keep one emission, encoded as it is now.

        Raises:
            ValueError: the routine has no such event.
            EmissionNotSerializable: names routine, event and the path inside the value.
        """
        event = self.routine.events.get(event_name)
        if event is None:
            raise self._unknown_event(event_name)
        try:
            for value in kwargs.values():
                if type(value) not in ATOMS:
                    data, kind = self._encode(event_name, kwargs)
                    break
            else:
                data, kind = self._pack(kwargs), 0
        except (ValueError, OverflowError):  # lone surrogates, huge numbers
            data, kind = self._encode(event_name, kwargs)
        self.out.append((event, data, kind))
        self.size += len(data)
        if self.size >= self._grow_at:
            self._grow()

    def commit(self, cursor: Any) -> None:
        """Commit what was done so far, in a plain handler: waits for the supervisor only when far ahead of it."""
        with self.lock:
            self.commit_cursor(cursor)
            if self.unanswered >= UNANSWERED_MAX:
                index = self._numbers[INDEX]
                self.flush()
                self._wait_for_answers()
                self.resume(index)

    def add_output(self, temporary: str, final: str) -> None:
        """See :class:`~routilux_mp.context.Activation`."""
        self._outputs.append((temporary, final))

    # -- what the worker's loop uses ------------------------------------------------------------

    def open(self, job: JobHere, routine: RoutineHere, dispatch: int, count: int) -> None:
        """Begin a dispatch of ``count`` activations."""
        self.job, self.routine, self.dispatch, self.count = job, routine, dispatch, count
        self.discard()
        self._busy_since_ns = time.monotonic_ns()

    def succeed(self, now_ns: int) -> None:
        """The running activation has returned."""
        if self._poison is not None:
            raise self._poison  # the handler may have caught it, but its emission is missing
        routine = self.routine
        if routine.state.is_touched or routine.fields or self._outputs:
            self._take_state()
        if self._spilled:
            self._spilled = []
        self.mark = len(self.out)
        self._cursor = None
        self.done += 1
        if self.deadline_ns == _NEVER:
            self.deadline_ns = now_ns + self.job.flush_ns

    def is_due(self, now_ns: int) -> bool:
        """What is finished should be sent now: it is old enough, it is much, or it must be alone."""
        info = self.job.info
        return (
            now_ns >= self.deadline_ns or self.done >= info.batch_count_max or self.mark >= info.batch_count_max
            or self.size >= info.batch_bytes_max or bool(self._reads)
        )  # fmt: skip

    def commit_cursor(self, cursor: Any) -> None:
        """The running activation goes on from ``cursor``; what it did so far is as good as returned."""
        if self._poison is not None:
            raise self._poison
        encoded = self.job.encode_cursor(self.routine, cursor)
        if self.routine.state.is_touched or self.routine.fields or self._outputs:
            self._take_state()
        self._spilled = []
        self.mark = len(self.out)
        self._cursor = encoded
        now = time.monotonic_ns()
        if self.deadline_ns == _NEVER:
            self.deadline_ns = now + self.job.flush_ns
        if self.is_due(now):
            self.flush()
        self._numbers[START_NS] = now

    def rollback(self) -> None:
        """The running activation leaves no trace."""
        del self.out[self.mark :]
        self.size = size_of(self.out)
        self.routine.rollback()
        self._poison = None
        for path in [*self._spilled, *(temporary for temporary, _ in self._outputs)]:
            try:
                os.unlink(path)
            except OSError:
                pass  # it was never made, or is not ours any more
        self._spilled, self._outputs = [], []

    def flush(self, *, is_last: bool = False, failure: Failure | None = None) -> None:
        """Report everything that is finished. Nothing runs meanwhile, so no time-out can strike."""
        if not self._is_in_handler:
            self._numbers[INDEX] = IDLE
        if is_last or self.done or self._cursor is not None:
            self._report(is_last, failure)

    def discard(self) -> None:
        """Forget everything that is not reported, finished or not."""
        self.out.clear()
        self.mark = 0
        self._forget_reported()

    def resume(self, index: int) -> None:
        """The activation of this index goes on after it waited."""
        self._numbers[START_NS] = time.monotonic_ns()
        self._numbers[INDEX] = index

    @property
    def is_revoked(self) -> bool:
        """No activation of this dispatch may start."""
        numbers = self._numbers
        return numbers[REVOKED] >= self.dispatch or is_expired(numbers[LEASE_NS])

    def flush_finished(self) -> None:
        """For the second thread: send what is finished while the handler runs. Takes the lock."""
        with self.lock:
            if self._is_in_handler and time.monotonic_ns() >= self.deadline_ns:
                self._report(False, None)

    def enter_handler(self) -> None:
        """From here on the lock is free: user code runs."""
        self._is_in_handler = True
        self.lock.release()

    def leave_handler(self) -> None:
        """User code has returned or raised."""
        self.lock.acquire()
        self._is_in_handler = False

    # -- inside ---------------------------------------------------------------------------------

    def _encode(self, event_name: str, kwargs: dict[str, Any]) -> tuple[bytes, int]:
        try:
            return encode_item(kwargs, self.job.signer, self.routine.place_of(event_name))
        except (EmissionNotSerializable, KeyUnavailable) as error:
            text = f"Routine '{self.routine.routine_id}', event '{event_name}': {error}"
            self._poison = type(error)(text)
            raise self._poison from error

    def _unknown_event(self, event_name: str) -> UnknownName:
        known = ", ".join(repr(name) for name in self.routine.events) or "none"
        return UnknownName(
            f"Event '{event_name}' not found in routine '{self.routine.routine_id}' as the job knows it; "
            f"its events: {known}"
        )

    def _take_state(self) -> None:
        """The changes of the running activation become part of the next report."""
        ops, reads = self.routine.take_state()
        ops += [StateOp("output", "", "", pair) for pair in self._outputs]
        self._outputs = []
        if reads:
            # A conflict must concern one activation only: send the others first, and this one alone.
            mine = self.out[self.mark :]
            del self.out[self.mark :]
            self.flush()
            self.out += mine
        self._ops += ops
        self._reads = reads

    def _grow(self) -> None:
        """Much has been emitted: send what is finished, and do not hold what is not in memory."""
        with self.lock:
            info = self.job.info
            if self.done or self._cursor is not None:
                self._report(False, None)
            uncommitted = self.out[self.mark :]
            if self.size >= info.payload_inline_bytes_max and info.blob_dir is not None:
                del self.out[self.mark :]
                emits = assemble(uncommitted, info.batch_count_max, info.batch_bytes_max)
                self._spill([e.batch for e in emits], 0, is_committed=False)
                self.out += [(e.event, e.batch, READY) for e in emits]
                self.size = size_of(self.out)
            self._grow_at = self.size + info.batch_bytes_max
            self.warn_if_uncommitted()

    def warn_if_uncommitted(self) -> None:
        """Tell once who emits so much or so long without committing that nobody downstream has anything to do."""
        emitted = sum(data.count if kind == READY else 1 for _, data, kind in self.out[self.mark :])
        elapsed_ns = time.monotonic_ns() - self._numbers[START_NS]
        if self._has_warned or not (emitted >= _UNCOMMITTED_MAX or (emitted > 1 and elapsed_ns > LONG_NS)):
            return
        self._has_warned = True
        log.warning(
            "Routine '%s' has emitted %d times in one activation: nothing of it moves on until the handler returns. "
            "Make the handler a generator that says `yield cursor` now and then, or call `self.commit(cursor)`.",
            self.routine.routine_id, emitted,
        )  # fmt: skip

    def _report(self, is_last: bool, failure: Failure | None) -> None:
        now = time.monotonic_ns()
        info = self.job.info
        emits = tuple(assemble(self.out[: self.mark], info.batch_count_max, info.batch_bytes_max))
        if self.size > info.payload_inline_bytes_max:
            self._spill([e.batch for e in emits], info.payload_inline_bytes_max, is_committed=True)
        completion = Completion(
            self.dispatch, self.done, emits, tuple(self._ops), self._reads, self._cursor, failure, is_last,
            now - self._busy_since_ns if self.done or failure is not None else 0,
        )  # fmt: skip
        if self._cursor is not None:
            self.unanswered += 1
        self._forget_reported()
        self._busy_since_ns = now
        self._send(self.job.info.job_id, completion)

    def _forget_reported(self) -> None:
        del self.out[: self.mark]  # in place: the handler may be appending to it in the main thread
        self.mark = 0
        self.done = 0
        self.size = size_of(self.out)
        self._grow_at = self.size + self.job.info.batch_bytes_max
        self.deadline_ns = _NEVER
        self._ops = []
        self._reads = ()
        self._cursor = None

    def _spill(self, batches: list[Batch], bytes_max: int, *, is_committed: bool) -> None:
        """Put payloads above ``bytes_max`` into a blob; they stay where they are if there is no place for blobs."""
        blob_dir = self.job.info.blob_dir
        big = [(b, b.data) for b in batches if b.data is not None and b.size > bytes_max and not is_reference(b.data)]
        if not big or blob_dir is None:
            return
        while True:
            try:
                path, references = self._spiller.put(blob_dir, [data for _, data in big])
                break
            except StorageBlocked:
                # The disk is full: the job is blocked, not failed. Wait as the supervisor does.
                if self.is_revoked:
                    raise HandedBack from None
                time.sleep(_BLOCKED_RETRY_S)
        if not is_committed:
            self._spilled.append(path)
        for (batch, _), reference in zip(big, references, strict=True):
            batch.data = reference
            batch.size = len(reference)
