"""A worker: reads work, runs its activations one after another, reports.

The same code runs in a worker process and, for the inline backend, in the caller's process; the
difference is only the channel it reads from and whether it may wait. Not here: what a report holds
(``transaction``), how a handler is called (``invoke``). The rule it owns: before each activation the
page says what starts, and nothing starts that is revoked or behind the lease.
"""

from __future__ import annotations

import gc
import os
import socket
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from functools import partial
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from .. import context
from .._core.effects import GoOn, Part, Revoke, Work
from .._core.stimuli import Completion
from ..errors import BareYield, DefinitionError
from ..slot import ASYNCHRONOUS
from . import logs, told
from .asking import answers_of
from .channel import Channel, SocketChannel
from .failures import describe, raising, reading
from .files import Files, HandedBack
from .invoke import Call
from .jobs import JobHere, RoutineHere, Routines
from .late_sender import LateSender
from .liveness import DISPATCH, IDLE, INDEX, LEASE_NS, LOOK_NS, REVOKED, START_NS, Page
from .streams import redirect_streams
from .transaction import UNANSWERED_MAX, Transaction
from .uncommitted import LONG_NS
from .wire import Forget, JobInfo, Reported, Task

Activity = Iterator[None]
#: A batch makes a thousand containers at once, which live until it is done: nothing that a collection would free.
_GC_OBJECTS = 5000
_GC_DEFAULT = (700, 10, 10)
#: More activations in one dispatch, and whoever gave them out has no hurry to hear of the first.
_MANY = 16


class Worker:
    """Runs the work that comes through one channel."""

    def __init__(self, channel: Channel, page: Page, routines: Routines, *, may_wait: bool) -> None:
        self._channel = channel
        self._numbers = page.numbers
        self._routines = routines
        self._may_wait = may_wait
        self._jobs: dict[str, JobHere] = {}
        self.queue: deque[Task] = deque()
        #: After a failure everything is dropped until the supervisor, which hands it all back, says so.
        self._drop_until: int | None = None
        #: The last dispatch that was taken back by a message read so far (the page may know of later ones).
        self._taken_back = 0
        self.is_over = False
        self.is_told = False  # to end with what runs
        self.is_running = False  # work that has not been reported
        self._files = Files(may_overlap=may_wait)
        self.transaction = Transaction(self._send, page.numbers, self._wait_in_handler, self._files)
        self._sender = LateSender(self.transaction, self._files)
        self._sender.is_awake = not may_wait  # one thread does everything in the caller's process
        self.transaction.wake_reporter = self._sender.wake

    def serve(self) -> None:
        """Run until the channel ends, and then what is left."""
        while True:
            context.set_for_process(None)  # a thread that a handler has left behind is in no activation
            if self.is_told:
                self.queue.clear()
                self.is_over = True
            while not self.queue and not self.is_over:
                self.take_messages(wait=True)
            if not self.queue:
                self._files.close()
                return
            context.set_for_process(self.transaction)
            if len(self.queue) == 1 and not self.is_over:
                self.take_messages(wait=False)  # what has come meanwhile says whether there is more to do
            self.is_running = True
            for _ in self.run_next():
                self.take_messages(wait=True)
            self.is_running = False

    def take_messages(self, *, wait: bool) -> None:
        """Read, and do at once what is not work."""
        messages = self._channel.read(wait=wait)
        if messages is None:
            self.is_over = True
            return
        for message in messages:
            match message:
                case Task():
                    if self._drop_until is None:
                        self.queue.append(message)
                case GoOn(_, dispatch):
                    if dispatch == self.transaction.dispatch and self.transaction.unanswered:
                        self.transaction.unanswered -= 1
                case Revoke(_, dispatch):
                    self._taken_back = max(self._taken_back, dispatch)
                    if self._drop_until is not None and dispatch >= self._drop_until:
                        self._drop_until = None
                case JobInfo():
                    if message.job_id in self._jobs:
                        self._jobs[message.job_id].update(message)
                    else:
                        self._jobs[message.job_id] = JobHere(message, self._routines)
                case Forget(job_id):
                    self._jobs.pop(job_id, None)

    def run_next(self) -> Activity:
        """Run the work at the head of the queue; yields when it can go on only after a message."""
        job_id, work = self.queue.popleft()
        job = self._jobs.get(job_id)
        if job is None:
            return  # it was forgotten: whatever this was, nobody waits for it
        try:
            yield from self._run(job, work)
        except HandedBack:
            self.transaction.abandon()
            self.transaction.flush(is_last=True)

    def _run(self, job: JobHere, work: Work) -> Activity:
        job.take_state(work)
        transaction, numbers = self.transaction, self._numbers
        if numbers[REVOKED] >= work.dispatch:
            self._send(job.info.job_id, Completion(work.dispatch, 0))
            return
        numbers[INDEX] = IDLE
        numbers[DISPATCH] = work.dispatch
        # Making the routine and its input runs the user's code too: what dies of it is the first activation's.
        numbers[START_NS] = time.monotonic_ns()
        numbers[INDEX] = 0
        routine: RoutineHere | None = None
        try:
            routine = job.routine(work.routine)
            count = 1 if work.is_group else sum([part.count for part in work.parts])
            transaction.open(job, routine, work.dispatch, count, is_busy=bool(self.queue) or count > _MANY)
            transaction.attempt = work.attempt
            if routine.fields:
                routine.load_fields()
            transaction.resume_cursor = reading(routine.decode_cursor, work.cursor)
            runs = self._inputs(job, routine, work) if work.question is None else iter(())
        except Exception as error:  # the user's __setstate__ runs here, and its signature is looked at
            self._refuse(job, work, routine, error)
            return
        if work.question is not None:
            self._ask(routine, work)
            return
        index = 0
        for call, items, seq in runs:
            is_going_on = yield from self._run_items(call, items, seq, index, work.is_tolerant)
            if not is_going_on:
                return
            index += len(items)
        transaction.flush(is_last=True)
        routine.warn_of_scratch()

    def _ask(self, routine: RoutineHere, work: Work) -> None:
        """Have the routine's policy answer, watched like a handler. Whatever else it does leaves no trace."""
        transaction, numbers = self.transaction, self._numbers
        numbers[START_NS] = begin = time.monotonic_ns()
        numbers[INDEX] = 0
        transaction.enter_handler()
        try:
            try:
                answers = answers_of(routine, work)
            finally:
                transaction.leave_handler()
        except BaseException as error:  # a policy's failure is its own, whatever it raises
            self._fail(error)
            return
        transaction.rollback()
        numbers[INDEX] = IDLE
        busy_ns = time.monotonic_ns() - begin
        self._send(transaction.job.info.job_id, Completion(work.dispatch, 1, answers=answers, busy_ns=busy_ns))

    def _inputs(self, job: JobHere, routine: RoutineHere, work: Work) -> Iterator[tuple[Call, list[Any], int]]:
        """(what to call, with which items, number of the first) per part; decoded when it is their turn."""
        if work.is_group:
            return iter([(reading(routine.group_call, work), [None], work.seqs[0])])

        def each(part: Part) -> tuple[Call, list[Any]]:
            try:
                return reading(routine.inputs, part)
            except Exception as error:  # what cannot be read is its activation's affair, not the worker's
                return raising(error), [None]

        portions = [p for part, seq in zip(work.parts, work.seqs, strict=True) for p in job.portions(part, seq)]
        (first, seq), *rest = portions
        # The first one now, so that a handler with an impossible signature is refused before it starts.
        call, items = reading(routine.inputs, first)

        def parts() -> Iterator[tuple[Call, list[Any], int]]:
            yield call, items, seq
            for part, number in rest:
                yield *each(part), number

        return parts()

    def _run_items(
        self, call: Call, items: list[Any], seq: int, index: int, is_tolerant: bool
    ) -> Generator[None, None, bool]:
        """The hot loop. Returns whether the next part may follow."""
        transaction, numbers, sender, files = self.transaction, self._numbers, self._sender, self._files
        dispatch, clock = transaction.dispatch, time.monotonic_ns
        count, count_max = transaction.count, transaction.job.info.batch_count_max
        only, marks = transaction.only, transaction.marks
        state, succeed = transaction.routine.state, transaction.succeed
        is_again = transaction.attempt != 1 or transaction.resume_cursor is not None
        transaction.first_seq = seq - index
        now, look_ns = clock(), 0
        for data in items:
            if now > look_ns:
                look_ns = _next_look_ns(numbers[LEASE_NS], now)
                if numbers[REVOKED] >= dispatch or not look_ns:
                    transaction.flush(is_last=True)
                    return False
                numbers[START_NS] = now
            transaction.started_ns = now
            numbers[INDEX] = index
            if transaction.done and not sender.is_awake:
                sender.arm()
            transaction.is_in_handler = True
            try:
                try:
                    result = call(data)
                finally:
                    transaction.is_in_handler = False
                    if transaction.is_claimed:
                        transaction.wait_for_reporter()
                if result is not None:
                    is_finished = yield from self._look_at(result, index)
                    if not is_finished:
                        return False
                started, now = now, clock()
                is_slow = now > look_ns and self._took_long(now - started)
                if only is None or transaction.is_special or state.is_touched:
                    is_due = succeed(now)
                else:  # the same without a call, for the many that leave behind nothing but emissions of one event
                    marks[0] = len(only)
                    transaction.done = done = transaction.done + 1
                    if done == 1:
                        transaction.set_deadline(now)
                    is_due = done >= count_max or (now > look_ns and now >= transaction.deadline_ns)
            except BaseException as error:  # a handler's failure is its own, whatever it raises
                if not self._fail(error, is_tolerant):
                    return False
                is_due = is_slow = False
                now = clock()
            if is_again:
                transaction.attempt, transaction.resume_cursor, is_again = 1, None, False
            index += 1
            # The last one's report says that it is the last, and follows at once.
            if (is_due or is_slow) and index < count and not files.is_writing:
                transaction.flush()
        return True

    def _look_at(self, result: Any, index: int) -> Generator[None, None, bool]:
        """What a handler returned: a generator is driven to its end, other things mean nothing."""
        if type(result) is GeneratorType:
            return (yield from self._drive(result, index))
        if isinstance(result, CoroutineType | AsyncGeneratorType):
            if isinstance(result, CoroutineType):
                result.close()  # or Python warns that nobody has awaited it
            raise DefinitionError(f"Routine '{self.transaction.routine_id}': {ASYNCHRONOUS}")
        return True

    def _took_long(self, took_ns: int) -> bool:
        """Whether it took so long that what it did would be sent before the next one ends, by the other thread."""
        if took_ns > LONG_NS:
            self.transaction.warn_if_uncommitted()
        return took_ns > self.transaction.job.flush_ns

    def _drive(self, generator: GeneratorType[Any, Any, Any], index: int) -> Generator[None, None, bool]:
        """A generator handler, from one cursor to the next. Returns whether it came to its end."""
        transaction = self.transaction
        transaction.unanswered = 0
        while True:
            transaction.enter_handler()
            try:
                cursor = next(generator)
            except StopIteration:
                return True
            finally:
                transaction.leave_handler()
            if cursor is None:
                self._close(generator)
                raise BareYield(
                    f"Routine '{transaction.routine_id}': a bare `yield` cannot be told from a first run when the "
                    f"handler is resumed; yield a cursor, such as the number of rows done"
                )
            transaction.commit_cursor(cursor)
            if self._must_wait():
                transaction.flush()
                while self._must_wait():
                    yield
            transaction.resume(index)
            if transaction.is_revoked or transaction.unanswered >= UNANSWERED_MAX:
                self._close(generator)
                transaction.rollback()
                transaction.flush(is_last=True)
                return False

    def _close(self, generator: GeneratorType[Any, Any, Any]) -> None:
        """End a generator where it stands; what it does in its ``finally`` is not part of any commit."""
        self.transaction.enter_handler()
        try:
            generator.close()
        except Exception:  # its work up to the cursor is committed, and the rest is not: nothing to report
            pass
        finally:
            self.transaction.leave_handler()

    def _fail(self, error: BaseException, is_tolerant: bool = False) -> bool:
        """The running activation has raised. Whether the next one may run."""
        if isinstance(error, HandedBack):
            raise error
        transaction = self.transaction
        transaction.rollback()
        if self.is_told:
            raise HandedBack from error  # what it has started was told, too, perhaps
        if not self._may_wait and isinstance(error, KeyboardInterrupt):
            transaction.flush(is_last=True)
            raise error  # in the caller's own process it is the caller's
        failure = describe(error, transaction.routine.is_retryable(error))
        traceback.clear_frames(error.__traceback__)  # they may hold what used up the memory
        is_plain = isinstance(error, Exception) and not isinstance(error, MemoryError)
        is_over = is_tolerant and is_plain and failure.kind == "error"
        transaction.flush(is_last=not is_over, failure=failure)
        if not is_over:
            self._drop_all(transaction.dispatch)
        return is_over

    def _refuse(self, job: JobHere, work: Work, routine: RoutineHere | None, error: Exception) -> None:
        """The input or the routine itself cannot be used: its first activation fails."""
        failure = describe(error, routine is None or routine.is_retryable(error))
        self._send(job.info.job_id, Completion(work.dispatch, 0, failure=failure))
        self._numbers[INDEX] = IDLE
        self._drop_all(work.dispatch)

    def _drop_all(self, dispatch: int) -> None:
        """The supervisor hands everything back that it sent before it knew of the failure."""
        if self._taken_back >= dispatch:
            return  # it did so while this ran, and has said so: what was read since is new
        self.queue.clear()
        self._drop_until = dispatch

    def _send(self, job_id: str, completion: Completion) -> None:
        self._channel.send(Reported(job_id, completion))

    def _wait_in_handler(self) -> None:
        """``self.commit()`` in a plain handler that is too far ahead of the supervisor."""
        transaction = self.transaction
        if not self._may_wait:
            transaction.unanswered = 0
        while self._must_wait():
            self._numbers[INDEX] = IDLE
            self.take_messages(wait=True)

    def _must_wait(self) -> bool:
        """Whether the running handler has committed more cursors than the supervisor has answered."""
        transaction = self.transaction
        return transaction.unanswered >= UNANSWERED_MAX and not (transaction.is_revoked or self.is_over)


def run(sock: socket.socket, page_fd: int, routines: Routines) -> None:
    """Be a worker process until the supervisor closes the socket."""
    if gc.get_threshold() == _GC_DEFAULT:  # else the user's code knows better
        gc.set_threshold(_GC_OBJECTS, *_GC_DEFAULT[1:])
    page = Page(page_fd)
    os.close(page_fd)
    channel = SocketChannel(sock)
    worker = Worker(channel, page, routines, may_wait=True)
    streams = redirect_streams(channel.send)
    channel.before_waiting = streams.flush
    logs.forward(channel.send)
    os.register_at_fork(after_in_child=channel.leave)
    os.register_at_fork(after_in_child=partial(context.set_for_process, None))
    told.listen(worker)
    worker.serve()
    streams.flush()
    told.end(worker)


def _next_look_ns(lease_ns: int, now_ns: int) -> int:
    """When the page is to be looked at again; 0: the lease is over."""
    if not lease_ns:
        return now_ns + LOOK_NS
    return min(lease_ns, now_ns + LOOK_NS) if now_ns <= lease_ns else 0
