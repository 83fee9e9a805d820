"""One activation after another as transactions, and the reports that carry them to the supervisor.

What a handler emits and changes gathers here and is cut off again when it raises. What finished
activations leave behind is sent in few, large reports. Not here: which activation runs (``main``), how
a handler is called (``invoke``). The rules it owns: a failed attempt leaves no trace in any report; and
everything before the ``marks`` belongs to activations that returned or cursors that were committed,
everything after them to the one that runs.

A second thread may send what is finished while a slow handler runs. Handlers are many and that is rare, so
the main thread takes no lock for each: it says that it is in a handler, and looks, when it has left it,
whether the other one has claimed the buffers meanwhile; the other one claims them, and looks, before it
touches anything, whether the main thread still is in a handler. Whoever is second sees the first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._core.stimuli import Completion, Failure, StateOp
from .._serialization.items import AMBIGUOUS, NOT_PACKED, PLAIN, SCANNED_BYTES_MAX, WHOLE, ItemPacker, encode_item
from ..errors import EmissionNotSerializable, KeyUnavailable
from .batches import Item, assemble, count_of, size_of
from .changes import Changes
from .files import Files
from .liveness import IDLE, INDEX, LEASE_NS, REVOKED, START_NS, is_expired
from .uncommitted import Uncommitted

if TYPE_CHECKING:
    from .jobs import JobHere, RoutineHere
    from .turns import Outlets

_NEVER = 1 << 63
#: While more work waits behind what runs, reports are so much rarer: each costs the supervisor as much as many items.
BUSY_FLUSHES = 2
#: Reports with a cursor that may be unanswered before a generator waits.
UNANSWERED_MAX = 4


class Transaction:
    """The :class:`~routilux_mp.context.Activation` of one worker; the same object for all it runs."""

    # A dictionary of so many attributes would be looked up like any other, at each activation.
    __slots__ = (
        "_busy_since_ns", "_changes", "_cursor", "_files", "_flush_ns", "_grow_at", "_lock", "_mix", "_numbers",
        "_out_of", "_outputs", "_pack", "_packer", "_poison", "_reads", "_reported_ns", "_send", "_uncommitted",
        "_wait_for_answers", "attempt", "count", "deadline_ns", "dispatch", "done", "first_seq", "is_claimed",
        "is_in_handler", "is_special", "job", "marks", "only", "out", "resume_cursor", "routine", "size", "started_ns",
        "unanswered", "wake_reporter"
    )  # fmt: skip

    def __init__(
        self, send: Callable[[str, Completion], None], numbers: memoryview, wait_for_answers: Callable[[], None],
        files: Files | None = None,
    ) -> None:  # fmt: skip
        self._send = send
        self._numbers = numbers
        self._wait_for_answers = wait_for_answers
        #: Called when a cursor is committed but not sent while the handler goes on: the second thread sends it.
        self.wake_reporter: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self.is_in_handler = self.is_claimed = False  # by the second thread
        self._packer = ItemPacker()
        self._pack = self._packer.pack
        self._files = files or Files()
        # -- the dispatch --
        self.job: JobHere
        self.routine: RoutineHere
        self.dispatch = self.count = 0  # and how many activations are in it
        self.out: list[list[Item]] = []  # per event
        self.only: list[Item] | None = None  # the one that there is, if there is one
        self.marks: list[int] = []  # what stands before is committed, as far as this worker can say; per event
        self._out_of: Outlets = {}  # the same lists by name
        self._mix = PLAIN  # what else there is in them, see ``assemble``
        self.done = 0  # activations returned since the last report
        self.size = 0  # bytes in ``out``, about
        self.deadline_ns = _NEVER  # when what is finished must be on its way
        self._grow_at = self._flush_ns = 0
        self.started_ns = 0  # the activation that runs; the page says it within a millisecond
        self._changes = Changes()  # of the state
        self._reads: tuple[tuple[str, str], ...] = ()
        self._cursor: bytes | None = None
        self._reported_ns = time.monotonic_ns()
        self._busy_since_ns = self.unanswered = 0
        # -- the activation --
        self.first_seq = 0  # number of the dispatch's first activation, as if all were numbered in a row
        self.attempt = 1
        self.resume_cursor: Any = None
        self._outputs: list[tuple[str, str]] = []
        self._poison: BaseException | None = None
        self.is_special = False  # there is more to settle than emissions
        self._uncommitted = Uncommitted()

    # -- what a handler uses --------------------------------------------------------------------

    @property
    def idempotency_key(self) -> str:
        """See :class:`~routilux_mp.context.Activation`."""
        return f"{self.job.info.job_id}/{self.routine.routine_id}/{self.first_seq + self._numbers[INDEX]}"

    @property
    def job_state(self) -> Any:
        """See :class:`~routilux_mp.context.Activation`."""
        return self.routine.state

    @property
    def flow(self) -> Any:
        """The flow of the job."""
        return self.job.flow

    @property
    def routine_id(self) -> str:
        """The id in the flow of the routine that runs."""
        return self.routine.routine_id

    def emit(self, routine: Any, event_name: str, kwargs: dict[str, Any]) -> None:
        """See :class:`~routilux_mp.context.Activation`."""
        items = self._out_of.get(event_name)
        if items is None:
            raise self.routine.unknown_event(event_name)
        data: bytes | None = None
        try:
            data = self._pack(kwargs)
        except NOT_PACKED:
            pass  # what is wrong with it is said by whoever cannot encode it either
        if data is not None and len(data) <= SCANNED_BYTES_MAX and data.translate(AMBIGUOUS) is data:
            items.append(data)
        else:
            data = self._add(items, event_name, kwargs, data)
        self.size = size = self.size + len(data)
        if size >= self._grow_at:
            self._grow()

    def commit(self, cursor: Any) -> None:
        """Commit what was done so far, in a plain handler: waits for the supervisor only when far ahead of it."""
        with self._lock:
            self.commit_cursor(cursor)
            if self._cursor is not None:
                self.wake_reporter()
            if self.unanswered >= UNANSWERED_MAX:
                index = self._numbers[INDEX]
                self.flush()
                self._wait_for_answers()
                self.resume(index)

    def add_output(self, temporary: str, final: str) -> None:
        """See :class:`~routilux_mp.context.Activation`."""
        self._outputs.append((temporary, final))
        self._files.add(temporary)
        self.is_special = True

    # -- what the worker's loop uses ------------------------------------------------------------

    def open(self, job: JobHere, routine: RoutineHere, dispatch: int, count: int, *, is_busy: bool = False) -> None:
        """Begin a dispatch of ``count`` activations. ``is_busy``: more work waits behind it."""
        self.job, self.routine, self.dispatch, self.count = job, routine, dispatch, count
        self._flush_ns = job.flush_ns * BUSY_FLUSHES if is_busy else job.flush_ns
        if self.out is not routine.out:
            self.out, self._out_of = routine.out, routine.outlets
            self.only = routine.out[0] if len(routine.out) == 1 else None
        self.discard()
        self._poison = None
        self.is_special = bool(routine.fields)
        self._busy_since_ns = self.started_ns = time.monotonic_ns()

    def succeed(self, now_ns: int) -> bool:
        """The running activation has returned. Whether what is finished should be sent now."""
        if self.is_special or self.routine.state.is_touched:
            self._settle()
            self._cursor = None
        self._mark()
        self.done += 1
        self.set_deadline(now_ns)
        # Old (or said to be, see ``_grow``), or much.
        return now_ns >= self.deadline_ns or self.done >= self.job.info.batch_count_max

    def set_deadline(self, now_ns: int) -> None:
        """The first activation since the last report has returned: what is finished may wait no longer than allowed."""
        if self.deadline_ns == _NEVER:
            self.deadline_ns = now_ns + self._flush_ns

    def commit_cursor(self, cursor: Any) -> None:
        """The running activation goes on from ``cursor``; what it did so far is as good as returned."""
        encoded = self.job.encode_cursor(self.routine, cursor)
        self._settle()
        self._mark()
        self._cursor = encoded
        self.is_special = True
        now = time.monotonic_ns()
        if self.deadline_ns == _NEVER:
            # The first in a while goes at once; those that follow it closely go together.
            self.deadline_ns = max(now, self._reported_ns + self.job.flush_ns)
        if (now >= self.deadline_ns or sum(self.marks) >= self.job.info.batch_count_max) and not self._files.is_writing:
            self.flush()
        self._numbers[START_NS] = self.started_ns = now

    def rollback(self) -> None:
        """The running activation leaves no trace."""
        self._cut()
        self.routine.turns.rollback()
        self.size = size_of(self.out)
        self.routine.rollback()
        self._poison, self._outputs = None, []
        self._files.undo()
        self.is_special = self._cursor is not None or bool(self.routine.fields)

    def flush(self, *, is_last: bool = False, failure: Failure | None = None) -> None:
        """Report everything that is finished. Nothing runs meanwhile, so no time-out can strike."""
        if not self.is_in_handler and failure is None:
            self._numbers[INDEX] = IDLE
        if is_last or self.done or self._cursor is not None or failure is not None:
            self._report(is_last, failure)
        if failure is not None:  # one that cannot be reported, for want of memory, is charged as a crash
            self._numbers[INDEX] = IDLE

    def abandon(self) -> None:
        """The work was handed back: nothing that is not reported will be, and no file of it is kept."""
        self._files.undo(with_finished=True)
        self.rollback()
        self.discard()

    def discard(self) -> None:
        """Forget everything that is not reported, finished or not."""
        for items in self.out:
            items.clear()
        self.routine.turns.clear()
        self._forget_reported()

    def resume(self, index: int) -> None:
        """The activation of this index goes on after it waited."""
        self._numbers[START_NS] = self.started_ns = time.monotonic_ns()
        self._numbers[INDEX] = index

    @property
    def is_revoked(self) -> bool:
        """No activation of this dispatch may start."""
        return self._numbers[REVOKED] >= self.dispatch or is_expired(self._numbers[LEASE_NS])

    def flush_finished(self) -> float:
        """For the second thread: send what is finished while the handler runs; when to look again, in s (0: never)."""
        with self._lock:
            self.is_claimed = True
            try:
                is_finished = self.is_in_handler and (self.done or self._cursor is not None)
                left_ns = self.deadline_ns - time.monotonic_ns() if is_finished else 0
                if is_finished and left_ns <= 0:
                    self._report(False, None)
                return max(0, left_ns) / 1e9  # what is not due yet may be so while the handler goes on
            finally:
                self.is_claimed = False

    def enter_handler(self) -> None:
        """User code runs from here on, and the second thread may report."""
        self.is_in_handler = True
        if self._cursor is not None:
            self.wake_reporter()

    def leave_handler(self) -> None:
        """User code has returned or raised; wait for the second thread if it is reporting."""
        self.is_in_handler = False
        if self.is_claimed:
            self.wait_for_reporter()

    def wait_for_reporter(self) -> None:
        """The second thread has claimed the buffers: wait until it is done with them."""
        with self._lock:
            pass

    # -- inside ---------------------------------------------------------------------------------

    def _add(self, items: list[Item], event_name: str, kwargs: dict[str, Any], packed: bytes | None) -> bytes:
        """An emission that is not known to be plain; ``packed``: what the packer has made of it, if it could."""
        kind = None if packed is None else self._packer.kind_of(kwargs)
        if packed is not None and kind is not None:
            items.append(packed)
            self._mix |= kind
            return packed
        try:
            info = self.job.info
            bytes_max = None if info.blob_dir is None else info.payload_inline_bytes_max
            data, kind = encode_item(kwargs, self.job.signer, self.routine.place_of(event_name), bytes_max)
            if not isinstance(data, bytes):
                item, data = self._files.place(info, data, lambda: self.is_revoked)
                items.append(item)
                self._mix |= WHOLE
                self.is_special = True
                return data
            items.append((data, kind) if kind == WHOLE else data)
            self._mix |= kind
            return data
        except (EmissionNotSerializable, KeyUnavailable) as error:
            text = f"Routine '{self.routine.routine_id}', event '{event_name}': {error}"
            self._poison = type(error)(text)
            self.is_special = True
            raise self._poison from error

    def _settle(self) -> None:
        """The changes of the running activation become part of the next report."""
        if self._poison is not None:
            raise self._poison  # the handler may have caught it, but its emission is missing
        if self._files.are_there and time.monotonic_ns() >= self.deadline_ns:
            self.flush()  # what finished earlier goes while the latest is on its way to the disk
        if self.routine.state.is_touched or self.routine.fields or self._outputs:
            self._take_state()
        self._files.finish()
        self.is_special = bool(self.routine.fields)

    def _take_state(self) -> None:
        ops, reads = self.routine.take_state()
        size = sum(len(op.value) for op in ops if isinstance(op.value, bytes))
        if size > self.job.info.batch_bytes_max:
            self.deadline_ns = 0  # it goes with a commit of its own, as far as that lies with this worker
        ops += [StateOp("output", "", "", pair) for pair in self._outputs]
        self._outputs = []
        if reads:
            # A conflict must concern one activation only: send the others first, and this one alone.
            mine, mix = self._cut(), self._mix
            self.flush()
            for items, own in zip(self.out, mine, strict=True):
                items += own
            self._mix |= mix
            self.deadline_ns = 0
        self._changes.add(ops, self.job.state)
        self._reads = reads

    def _grow(self) -> None:
        """Much has been emitted: send what is finished, and do not hold what is not in memory."""
        with self._lock:
            info = self.job.info
            if self.done or self._cursor is not None:
                self._report(False, None)
            if self.size >= info.payload_inline_bytes_max and info.blob_dir is not None:
                emits = assemble(self._cut(), self._mix, info)
                path = self._files.spill(info, [e.batch for e in emits], 0, self.size, lambda: self.is_revoked)
                if path is not None:
                    self._files.add(path)
                    self.is_special = True
                for event, batch in emits:
                    self.out[event].append(batch)
                self._mix |= WHOLE
                self.size = size_of(self.out)
            self._grow_at = self.size + info.batch_bytes_max
            if self.size >= info.batch_bytes_max:
                self.deadline_ns = 0
                self.is_special = True  # for the loop to ask whether it is due
            self.warn_if_uncommitted()

    def warn_if_uncommitted(self) -> None:
        """Tell once who emits so much or so long without committing that nobody downstream has anything to do."""
        emitted = count_of([items[mark:] for items, mark in zip(self.out, self.marks, strict=True)])
        self._uncommitted.look(self.routine.routine_id, emitted, time.monotonic_ns() - self.started_ns)

    def _report(self, is_last: bool, failure: Failure | None) -> None:
        now, info = time.monotonic_ns(), self.job.info
        until = self.started_ns if self.is_in_handler else now  # what runs still is not the finished ones' time
        finished = [items[:mark] for items, mark in zip(self.out, self.marks, strict=True)]
        emits, order = self.routine.turns.assemble(finished, self._mix, info)
        if self.size > info.payload_inline_bytes_max:
            batches, bytes_max = [e.batch for e in emits], info.payload_inline_bytes_max
            self._files.spill(info, batches, bytes_max, self.size, lambda: self.is_revoked)
        completion = Completion(
            self.dispatch, self.done, emits, self._changes.all(), self._reads, self._cursor, failure, is_last,
            until - self._busy_since_ns if self.done or failure is not None else 0, (), order,
        )  # fmt: skip
        if self._cursor is not None:
            self.unanswered += 1
        self._forget_reported()
        self._files.give_away()
        self._busy_since_ns, self._reported_ns = until, now
        self._send(info.job_id, completion)

    def _mark(self) -> None:
        """All that was emitted up to here is committed."""
        self.marks[:] = map(len, self.out)
        self.routine.turns.mark()

    def _cut(self) -> list[list[Item]]:
        """Take out what the running activation has emitted."""
        mine = [items[mark:] for items, mark in zip(self.out, self.marks, strict=True)]
        for items, mark in zip(self.out, self.marks, strict=True):
            del items[mark:]
        return mine

    def _forget_reported(self) -> None:
        for items, mark in zip(self.out, self.marks):
            del items[:mark]  # in place: the handler may be appending to it in the main thread
        self.routine.turns.forget()
        self.marks[:] = [0] * len(self.out)
        self.done = 0
        self.size = size_of(self.out)
        if not self.is_in_handler:  # the handler may be adding what is not plain in the main thread
            self._mix = self._mix if any(self.out) else PLAIN
        self._grow_at = self.size + self.job.info.batch_bytes_max
        self.deadline_ns = _NEVER
        self._changes.clear()
        self._reads = ()
        self._cursor = None
