"""The supervisor of one runtime: a thread that runs the loop, and the calls that reach it.

Nothing is started before the first job: no thread, no process, no file.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from typing import Any, Literal, TypeVar

from .._core.batch import Batch
from .._core.stimuli import Close, StateOp
from .._serialization.batch import encode_batch
from .._serialization.limits import check_size
from .._serialization.signing import Signer
from .._storage.log import Tenure as DurableTenure
from .._storage.store import Store
from .._worker.spill import PayloadReader
from ..backends.base import Backend
from ..errors import BackendError, HandedOver, RoutiluxError, RuntimeClosed, UsageError
from ..settings import Settings
from . import beginning, entering, serving
from .clock import SystemClock, deadline_of
from .commits import LAST_VIEWS, MakeViews, Views
from .committer import Committer, InstantCommitter, ThreadCommitter
from .compiled import CompiledFlow
from .handle import JobHandle
from .live import LiveJob
from .loop import Loop
from .placement import WorkerSlot
from .printing import Printer
from .shipping import Shipping
from .tenure import Keeper
from .unkept import NullTenure
from .vigil import Vigil

log = logging.getLogger(__name__)
T = TypeVar("T")
#: How often one that waits for the loop looks whether there still is one.
_STILL_THERE_S = 1.0


class Supervisor:
    """Owns the loop, its workers and the jobs they run."""

    def __init__(
        self, settings: Settings, describe: Callable[[JobHandle], bytes] | None = None, *,
        may_create_key: bool = True, backend: Backend | None = None,
    ) -> None:  # fmt: skip
        """``backend``: one that is being prepared already; it is closed with this supervisor."""
        self.settings = settings
        self.clock = SystemClock()
        self.signer = Signer.from_settings(settings, may_create=may_create_key)
        self.store = Store(settings.checkpoint_dir, settings)
        self.loop: Loop = None  # type: ignore[assignment]  # made by start
        self._describe = describe
        self._backend = backend
        self._committer: Committer | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_closed = self._should_stop = False
        self._handles: weakref.WeakValueDictionary[str, JobHandle] = weakref.WeakValueDictionary()
        self.shipping = Shipping(self)
        self._printer = Printer()
        self._calls: set[Future[Any]] = set()
        self._failure: BaseException | None = None  # what ended the loop
        self._has_left = False  # nothing is done any more, though the thread may still clear away
        self._vigil: Vigil | None = None

    @property
    def is_durable(self) -> bool:
        return self.settings.durability != "none"

    # -- jobs ---------------------------------------------------------------------------------

    def submit(
        self, flow: CompiledFlow, *, entry: str | None, slot: str | None, params: dict[str, Any] | None,
        metadata: dict[str, Any] | None = None, job_id: str | None = None, timeout_s: float | None = None,
        initial: Sequence[StateOp] = (),
    ) -> JobHandle:  # fmt: skip
        """See :func:`beginning.submit`."""
        return beginning.submit(
            self, flow, entry=entry, slot=slot, params=params, metadata=metadata, job_id=job_id,
            timeout_s=timeout_s, initial=initial,
        )  # fmt: skip

    def resume(self, flow: CompiledFlow | None, job_id: str, **how: Any) -> JobHandle:
        """See :func:`entering.resume`."""
        return entering.resume(self, flow, job_id, **how)

    def adopt(self, job_id: str, flow_of: entering.FlowOf, epoch: int) -> JobHandle | Literal["ended", "paused"]:
        """See :func:`entering.adopt`."""
        return entering.adopt(self, job_id, flow_of, epoch)

    def preload(self, job_id: str, flow_of: entering.FlowOf) -> None:
        """See :func:`entering.preload`."""
        entering.preload(self, job_id, flow_of)

    def begin_tenure(self, job_id: str, first: Sequence[bytes] = ()) -> DurableTenure | NullTenure:
        """The right to commit to a new job, which begins with these records; the caller writes flow.json."""
        if self.is_durable:
            return self.store.create(job_id, None, first)
        with self._lock:
            folder = self._backend_or_fail().shared_dir()
        return NullTenure(self.settings.history_inline_max, None if folder is None else f"{folder}/{job_id}")

    def hold(self, live: LiveJob) -> JobHandle:
        """A handle for the job."""
        handle = live.handle = JobHandle(self, live)
        self._handles[handle.job_id] = handle
        return handle

    def handle_of(self, job_id: str) -> JobHandle | None:
        """The handle of a job of this process, if anybody has it."""
        return self._handles.get(job_id)

    def handles(self) -> list[JobHandle]:
        """The jobs of this process that somebody still looks at, or that run."""
        return list(self._handles.values())

    def wait_all(self, timeout_s: float | None = None, flow_id: str | None = None) -> bool:
        """Wait until every job (of one flow) has ended, is paused or was handed over; False after ``timeout_s``.

        Raises:
            Fenced, OutcomeUnknown, BackendError: a job was given up meanwhile; the others have been waited for.
        """
        left = deadline_of(timeout_s)
        trouble: RoutiluxError | None = None
        for handle in self.handles():
            if handle.lost is not None or flow_id not in (None, handle.view.flow_id):
                continue
            try:
                if not handle.wait(lambda v: v.is_terminal or v.is_resting, left()):
                    return False
            except HandedOver:
                continue
            except RoutiluxError as error:
                trouble = trouble or error
        if trouble is not None:
            raise trouble
        return True

    def leave(self) -> None:
        """Let what runs finish and hand every job over, also while another thread waits in :meth:`close`."""
        if self._thread is not None:
            try:
                self.call(self.loop.drain)
            except RuntimeClosed:
                return  # it has left
            left = deadline_of(self.settings.grace_s)  # for all of them together
            for handle in self.handles():
                handle.wait_sealed(left())
            if self._vigil is not None:  # this process may end at once
                self.look(self._vigil.tell)()

    def close(self, wait: bool = True, timeout_s: float | None = None) -> None:
        """Leave: with ``wait`` after all queued work is done, else after what runs now. Nothing is lost.

        What has not ended then is sealed for hand-over and can be resumed, here or elsewhere.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        if self._thread is None:
            if self._backend is not None:
                self._backend.close()
            self.store.close()
            return
        left = deadline_of(timeout_s)
        trouble: BaseException | None = None
        try:
            if wait:
                self.call(self._close_inputs)
                self.wait_all(left())
        except (RoutiluxError, KeyboardInterrupt) as error:
            trouble = error  # told when everything is cleared away; whoever interrupts it waits no longer
        try:
            self.call(self.loop.drain)
        except RuntimeClosed as error:
            trouble = trouble or error  # it has failed before
        for handle in self.handles():
            if handle.view.is_terminal:
                handle.wait_sealed(self.settings.grace_s)
        self._should_stop = True
        self._backend_or_fail().wake()
        self._thread.join()
        for handle in self.handles():
            for follower in (handle.delivery, handle.observer):
                if follower is not None:
                    follower.join(self.settings.grace_s)
        if trouble is not None:
            raise trouble

    # -- the loop's thread --------------------------------------------------------------------

    def call(self, function: Callable[[], T]) -> T | None:
        """Run ``function`` in the loop's thread and return its result.

        From a handler in that very thread (inline backend) it is only noted, and None returned.
        """
        future = self.tell(function)
        if threading.current_thread() is self._thread:
            future.add_done_callback(_log_failure)
            return None
        return self.wait_for(future, "it has been done")

    def tell(self, function: Callable[[], T], *, is_awaited: bool = True) -> Future[T]:
        """Have ``function`` run in the loop's thread, at once if it is awaited; what is returned tells its end."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # it is the caller's
                future.set_exception(error)

        if threading.current_thread() is not self._thread and not self._is_there:
            raise self._gone()
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        self.loop.commands.append(run)
        self._backend_or_fail().wake(is_awaited=is_awaited)
        if self._has_left:  # whoever clears away may have looked before
            self._give_up(future)
        return future

    def _give_up(self, future: Future[Any]) -> None:
        with suppress(InvalidStateError):  # it has been done, or told, meanwhile
            future.set_exception(self._gone())

    def wait_for(self, future: Future[T], what: str) -> T:
        """What the loop will say; ``what``: in an error, for those who cannot wait for it.

        Raises:
            RuntimeClosed: the loop has ended.
            UsageError: the caller is a handler in the loop's own thread.
        """
        while True:
            if threading.current_thread() is self._thread and not future.done():
                raise UsageError(
                    f"a handler that runs in the caller's process cannot wait until {what}: one thread runs "
                    f"both. Do that outside of handlers, or run them in worker processes (backend='local')"
                )
            try:
                return future.result(timeout=_STILL_THERE_S)
            except TimeoutError:
                if future.done():
                    return future.result()  # or that is what it has ended with
                if not self._is_there:
                    raise self._gone() from self._failure

    @property
    def _is_there(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._has_left

    def _gone(self) -> RuntimeClosed:
        if self._failure is None:
            return RuntimeClosed("the runtime has been shut down")
        error = RuntimeClosed(f"the runtime has failed; resume its jobs in a new one: {self._failure!r}")
        error.__cause__ = self._failure
        return error

    def look(self, function: Callable[[], T]) -> T:
        """Read something of the loop's, in its thread; at once when it is that thread that asks, or it is gone."""
        if threading.current_thread() is not self._thread:
            try:
                return self.call(function)  # type: ignore[return-value]
            except RuntimeClosed:
                pass  # nobody changes anything any more
        return function()

    @property
    def may_wait(self) -> bool:
        """Whether the caller may wait for the loop: it is another thread, and the loop is alive."""
        return self._is_there and threading.current_thread() is not self._thread

    def start(self) -> None:
        """Be ready, also before the first job is known."""
        with self._lock:
            if self._is_closed:
                raise RuntimeClosed("the runtime has been shut down; make a new Runtime")
            if self._thread is not None:
                return
            backend = self._backend = self._backend or serving.make_backend(self.settings.backend)
            self._committer = ThreadCommitter(backend.wake) if self.is_durable else InstantCommitter()
            self.loop = Loop(
                self.settings, backend, self._committer, self.clock,
                introduce=self._introduce, read_batch=self.read_batch, on_print=self._printer,
                documents=self.documents, workers_max=self.settings.max_workers or os.cpu_count() or 1,
                cores=max(2, os.cpu_count() or 1),
            )  # fmt: skip
            self.loop.on_code = self.shipping.answered
            if self.is_durable:
                self._vigil = Vigil(self.store, self.settings, backend.wake)
                self.loop.keeper = Keeper(self.loop, self._vigil, self.encode, self.store.owner.token)
            self._thread = threading.Thread(target=self._run, name="routilux-supervisor", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            while not self._should_stop:
                self.loop.turn(None)
            self._drain()
        except BaseException as error:
            self._failure = error  # for everybody who calls from now on
            raise
        finally:
            self._has_left = True
            self._clear_away()

    def _drain(self) -> None:
        """Let what runs end, and hand over what is left."""
        loop = self.loop
        end = self.clock.monotonic_ns() + int(self.settings.grace_s * 1e9)
        while not loop.is_quiet and self.clock.monotonic_ns() < end:
            loop.turn(0.05)
        for live in list(loop.jobs.values()):
            if live.in_flight is None and not live.is_sealing and live.blocked is None:
                loop.alone(live, self._hand_over, live)

    def _hand_over(self, live: LiveJob) -> None:
        live.tenure.seal("handover")
        live.lose(HandedOver(f"the supervisor has left job {live.job.job_id}; resume it to go on"))
        # In a thread that may wait: another one may be making them now, which waits for the loop.
        self.loop.committer.submit(LAST_VIEWS, Views(live, self.documents(live), self.clock))

    def _clear_away(self) -> None:
        """Whoever waits must learn of it, also when the loop itself failed; whatever fails, the rest is done."""
        jobs = list(self.loop.jobs.values())
        with ExitStack() as stack:
            stack.callback(self._printer.close)
            stack.callback(self.store.close)
            if self._vigil is not None:
                epochs = {x.job.job_id: x.tenure.next_position()[0] for x in jobs if isinstance(x.lost, HandedOver)}
                stack.callback(self._vigil.close, epochs)
            stack.callback(self.loop.commits.close)
            for live in jobs:
                stack.callback(live.tenure.close)
            if self._committer is not None:
                stack.callback(self._committer.close)  # before that nothing is closed that it may be using
            stack.callback(self._backend_or_fail().close)
            stack.callback(self._keep_results)
            for future in list(self._calls):
                self._give_up(future)
            for live in jobs:
                if live.lost is None:
                    error = BackendError(f"the supervisor has left job {live.job.job_id}; resume it to go on")
                    error.__cause__ = self._failure
                    live.lose(error)

    def _keep_results(self) -> None:
        """Results in shared memory can still be read when that is gone."""
        for handle in self.handles():
            live = handle.live
            if live.memory is not None:
                for name in live.blobs.names:
                    self.payloads(live).keep(name)

    def _close_inputs(self) -> None:
        for live in list(self.loop.jobs.values()):
            self.loop.happen(live, Close(), self.clock.now_ns())

    def _backend_or_fail(self) -> Backend:
        assert self._backend is not None
        return self._backend

    # -- what the loop asks for ---------------------------------------------------------------

    def encode(self, params: dict[str, Any], place: bytes) -> Batch:
        """A value from outside as a batch of one."""
        batch = Batch(*encode_batch([params], self.signer, place))
        check_size(batch.data or b"", self.settings.value_bytes_max, "parameters from outside")
        return batch

    def read_batch(self, live: LiveJob, batch: Batch) -> bytes:
        """The bytes of a batch whose copy in memory was dropped."""
        return serving.read_batch(self.store, live, batch)

    def _introduce(self, live: LiveJob, slot: WorkerSlot) -> None:
        self._backend_or_fail().send(slot.worker, serving.info_of(self, live))

    def documents(self, live: LiveJob) -> MakeViews:
        return serving.documents_of(live, self._describe)

    def payloads(self, live: LiveJob) -> PayloadReader:
        """Opens the payloads of a job, also those that lie in blobs."""
        return serving.payloads_of(self.store, live)


def _log_failure(future: Future[Any]) -> None:
    """Of what a handler has asked for and could not wait for."""
    if error := future.exception():
        log.error("what a handler asked for could not be done", exc_info=error)
