"""The supervisor of one runtime: a thread that runs the loop, and the calls that reach it.

Nothing is started before the first job: no thread, no process, no file.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from .._core.batch import Batch
from .._core.job import Job
from .._core.records import Adopted, Submitted
from .._core.stimuli import Adopt, Annotate, Close, Resume, StateOp, Submit, Tick
from .._serialization.batch import encode_batch
from .._serialization.packing import pack
from .._serialization.places import slot_place
from .._serialization.signing import SIGNATURE_BYTES, Signer
from .._storage.codec import batches_of, decode_record
from .._storage.layout import BLOBS, epoch_name
from .._storage.log import Tenure as DurableTenure
from .._storage.replay import LogRef
from .._storage.store import Store
from .._storage.views import load_lock_library
from .._worker.spill import PayloadReader
from ..backends.base import Backend, Code, JobInfo
from ..errors import (
    BackendError,
    CheckpointDamaged,
    HandedOver,
    NotShippable,
    RoutiluxError,
    RuntimeClosed,
    UnknownName,
)
from ..settings import Settings
from . import recovery
from .adoption import Edits
from .clock import SystemClock
from .committer import Committer, InstantCommitter, ThreadCommitter
from .compiled import CompiledFlow
from .handle import JobHandle, deadline_of
from .live import LiveJob, NullTenure
from .loop import Loop
from .outputs import put_in_place
from .owners import Owners
from .placement import WorkerSlot
from .tenure import Keeper
from .vigil import Heard, Vigil

log = logging.getLogger(__name__)
T = TypeVar("T")
#: Where the code of a job is: the first frame of its first commit.
CODE_PLACE = LogRef(1, 2, 0)


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
        self.loop: Loop = None  # type: ignore[assignment]  # made by _start
        self._describe = describe
        self._backend = backend
        self._committer: Committer | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._should_stop = False
        self._handles: weakref.WeakValueDictionary[str, JobHandle] = weakref.WeakValueDictionary()
        self._codes: dict[str, Code] = {}
        self._code_changed = threading.Condition()
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
        """A new job; it is durable, and on its way, when this returns. ``initial``: state that it starts with.

        Raises:
            NotShippable: code of the flow cannot be sent to workers, naming it.
            EmissionNotSerializable: the parameters.
            StorageError: the checkpoint directory cannot be used.
        """
        self._start()
        job_id = job_id or str(uuid.uuid4())
        number = -1 if entry is None else flow.topology.index_of(entry)
        if number is None:
            raise UnknownName(f"Routine '{entry}' not found in flow")
        index, batch = 0, None
        if entry is not None:
            slots = flow.topology.routines[number].slots
            index = slots.index(slot) if slot in slots else 0
        if entry is not None and params is not None:
            batch = self.encode(params, slot_place(job_id, entry, slots[index]))
        code = self._code_of(flow)
        if self._ask_to_load(code):
            self._prepare_meanwhile()
        self._load(code)
        self.allow(flow, code)
        stimulus = Submit(
            flow.flow_id, flow.topology.to_plain(), number, index, batch,
            pack_metadata(metadata or {}), self.signed_code(job_id, code), tuple(initial),
        )  # fmt: skip
        tenure = self.begin_tenure(job_id, flow.flow_doc)
        live = LiveJob(recovery.new_job(job_id, self.settings), tenure, code.code_id)
        if timeout_s is not None:
            live.execution_deadline_ns = self.clock.now_ns() + int(timeout_s * 1e9)
        return self.enter(live, stimulus)

    def begin_tenure(self, job_id: str, flow_doc: bytes) -> DurableTenure | NullTenure:
        """The right to commit to a new job."""
        if self.is_durable:
            return self.store.create(job_id, flow_doc)
        with self._lock:
            folder = self._backend_or_fail().shared_dir()
        return NullTenure(self.settings.history_inline_max, None if folder is None else f"{folder}/{job_id}")

    def resume(
        self, flow: CompiledFlow | None, job_id: str, *, takeover: bool = False, edits: Edits | None = None
    ) -> JobHandle:
        """Go on with a job: one of this process, or a paused, orphaned or handed-over one of this root.

        ``edits``: what the caller changed meanwhile; in force before anything runs.

        Raises:
            ValueError: no such job, or the flow is another one.
            JobOwned: another living supervisor has it.
            CheckpointDamaged, CheckpointFormat: its directory cannot be used.
        """
        self._start()
        handle = self._handles.get(job_id)
        if handle is not None and handle.lost is None:
            if not handle.view.is_terminal:
                if edits is not None:
                    handle.edit(edits)
                handle.resume()
            return handle
        if self.store.has_only_views(job_id):
            raise UnknownName(f"job '{job_id}' has no log in {self.store.path}, only the documents that tell of it")
        reading = recovery.read(self.store, job_id, self.settings)
        if flow is not None:
            recovery.check_same_flow(reading.job, flow.topology)
        if reading.job.is_terminal:
            return self._ended(reading)
        owners = Owners(self.store)
        owner, seal_reason = reading.log.owner, reading.log.seal_reason
        if takeover:
            owners.ask_to_yield(job_id, owner, self.settings.grace_s + 4 * self.settings.poll_s)
            reading = recovery.read(self.store, job_id, self.settings)
        elif owners.require_gone(job_id, owner, seal_reason):
            reading = recovery.read(self.store, job_id, self.settings)
        if reading.job.is_terminal:
            return self._ended(reading)
        return self._take(reading, flow, Resume(), edits)

    def adopt(
        self, job_id: str, flow_of: Callable[[str], CompiledFlow | None]
    ) -> JobHandle | Literal["ended", "paused"]:
        """Take over a job that nobody owns, for a standby; a paused one only if it was offered or is asked for.

        Raises:
            Fenced: another one was quicker.
            RoutiluxError: it cannot be run here, and why.
        """
        self._start()
        reading = recovery.read(self.store, job_id, self.settings)
        job = reading.job
        if job.is_terminal:
            return "ended"
        is_offered = job.status == "paused" and job.is_offered
        if job.status == "paused" and not is_offered and not self._requests(job):
            return "paused"
        flow = flow_of(job.topology.flow_id)
        if flow is not None:
            recovery.check_same_flow(job, flow.topology)
        # Without the key, or with another one, every activation with objects in its input would fail.
        assert self.signer.keys
        self._check_signature(job_id, reading.log.read(CODE_PLACE))
        # A pause or a cancel that was asked for and not reached is obeyed: only an offered job is resumed.
        return self._take(reading, flow, Resume() if is_offered else Tick())

    def preload(self, job_id: str, flow_of: Callable[[str], CompiledFlow | None]) -> None:
        """Load the code of a job that another one owns, so that taking it over is quick, or it is known why not."""
        self._start()
        frame = self.store.read_frame(job_id, CODE_PLACE)
        record = decode_record(frame)
        flow = flow_of(record.flow_id) if isinstance(record, (Submitted, Adopted)) else None
        self._load(self._code_of(flow) if flow is not None else self._stored_code(job_id, frame))

    def _take(
        self, reading: recovery.Reading, flow: CompiledFlow | None, stimulus: Resume | Tick, edits: Edits | None = None
    ) -> JobHandle:
        """Own the job from where the reading ends."""
        log, job, outputs = reading
        code = self._code_of(flow) if flow is not None else self._stored_code(job.job_id, log.read(CODE_PLACE))
        self._load(code)
        newer, tenure = self.store.take_over(job.job_id, "takeover", log)
        recovery.fold(newer, self.settings, job, LogRef(log.epoch, log.commit, 0), outputs)
        put_in_place(outputs)
        if flow is not None:
            recovery.with_settings_of(job, flow.topology)
            self.allow(flow, code)
        ops = edits(job) if edits is not None else ()
        live = LiveJob(job, tenure, code.code_id)
        live.found_ns = job.updated_ns
        return self.enter(live, stimulus, self._requests(job), ops)

    def document_of(self, job_id: str) -> dict[str, Any] | None:
        """The JobState document of a job that only has its documents here; None if it has a log, or nothing."""
        if not self.store.has_only_views(job_id):
            return None
        _, state = self.store.read_views(job_id)
        document = None if state is None else json.loads(state)
        return document if isinstance(document, dict) else None

    def _ended(self, reading: recovery.Reading) -> JobHandle:
        put_in_place(reading.outputs)
        live = LiveJob(reading.job, NullTenure(0), "")
        live.memory = None
        live.is_finished = True
        return self._handle(live)

    def _requests(self, job: Job) -> list[Heard]:
        """Requests that nobody has answered: the next owner obeys them before it dispatches anything."""
        found: list[Heard] = []
        control = self.store.control(job.job_id)
        for request_id in control.unanswered():
            if not job.has_answered(request_id):
                try:
                    found.append(Heard(job.job_id, request_id, control.read(request_id)))
                except FileNotFoundError:
                    continue
                except CheckpointDamaged as error:
                    found.append(Heard(job.job_id, request_id, None, str(error)))
        return found

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
            for handle in self.handles():
                handle.wait_sealed(self.settings.grace_s)

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
        trouble: RoutiluxError | None = None
        if wait:
            self.call(self._close_inputs)
            try:
                self.wait_all(left())
            except RoutiluxError as error:
                trouble = error  # told when everything is cleared away
        self.call(self.loop.drain)
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
        if threading.current_thread() is self._thread:
            self.loop.commands.append(function)  # type: ignore[arg-type]
            return None
        if not (self._thread and self._thread.is_alive()):
            raise RuntimeClosed("the runtime has been shut down")
        future: Future[T] = Future()

        def run() -> None:
            future.set_result(function())

        self.loop.commands.append(run)
        self._backend_or_fail().wake()
        while True:
            try:
                return future.result(timeout=1.0)
            except TimeoutError:
                if not self._thread.is_alive():
                    raise RuntimeClosed("the runtime has been shut down") from None

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
        thread = self._thread
        return thread is not None and thread is not threading.current_thread() and thread.is_alive()

    def start(self) -> None:
        """Be ready before the first job is known."""
        self._start()

    def _start(self) -> None:
        with self._lock:
            if self._is_closed:
                raise RuntimeClosed("the runtime has been shut down; make a new Runtime")
            if self._thread is not None:
                return
            backend = self._backend = self._backend or make_backend(self.settings.backend)
            self._committer = ThreadCommitter(backend.wake) if self.is_durable else InstantCommitter()
            self.loop = Loop(
                self.settings, backend, self._committer, self.clock,
                introduce=self._introduce, read_batch=self.read_batch, on_print=_print, documents=self._documents,
                workers_max=self.settings.max_workers or os.cpu_count() or 1,
            )  # fmt: skip
            self.loop.on_code = self._on_code
            if self.is_durable:
                self._vigil = Vigil(self.store, self.settings, backend.wake)
                self.loop.keeper = Keeper(self.loop, self._vigil, self.encode, self.store.owner.token)
            self._thread = threading.Thread(target=self._run, name="routilux-supervisor", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        loop = self.loop
        try:
            while not self._should_stop:
                loop.turn(None)
            self._drain_and_leave()
        finally:
            # Whoever waits must learn of it, also when the loop itself failed.
            for live in list(loop.jobs.values()):
                if live.lost is None:
                    live.lose(BackendError(f"the supervisor has left job {live.job.job_id}; resume it to go on"))
            self._keep_results()
            self._backend_or_fail().close()
            if self._committer is not None:
                self._committer.close()
            if self._vigil is not None:
                self._vigil.close(frozenset(i for i, x in loop.jobs.items() if isinstance(x.lost, HandedOver)))
            self.store.close()

    def _keep_results(self) -> None:
        """Results in shared memory can still be read when that is gone."""
        for handle in self.handles():
            live = handle.live
            if live.memory is not None:
                for name in live.blobs:
                    self.payloads(live).keep(name)

    def _drain_and_leave(self) -> None:
        loop = self.loop
        end = self.clock.monotonic_ns() + int(self.settings.grace_s * 1e9)
        while not loop.is_quiet and self.clock.monotonic_ns() < end:
            loop.turn(0.05)
        for live in list(loop.jobs.values()):
            if live.in_flight is None and not live.is_sealing and live.blocked is None:
                live.tenure.seal("handover")
                live.tenure.write_views(*self._documents(live)())
                live.lose(HandedOver(f"the supervisor has left job {live.job.job_id}; resume it to go on"))
            live.tenure.close()

    def _close_inputs(self) -> None:
        for live in list(self.loop.jobs.values()):
            self.loop.happen(live, Close(), self.clock.now_ns())

    def enter(
        self, live: LiveJob, stimulus: Submit | Adopt | Resume | Tick, requests: Sequence[Heard] = (),
        ops: Sequence[StateOp] = (),
    ) -> JobHandle:  # fmt: skip
        """Take the job into the loop and wait until it is durable that it goes on. ``ops``: changed before that."""
        handle = self._handle(live)

        def begin() -> None:
            if ops:
                self.loop.add(live, Annotate(tuple(ops)))
                self.loop.happen(live, stimulus, self.clock.now_ns())
            else:
                self.loop.add(live, stimulus)
            for heard in requests:
                if self.loop.keeper is not None:
                    self.loop.keeper.ask(live, heard, self.clock.now_ns())

        self.call(begin)
        handle.wait(lambda v: v.version > 0 and v.status != "pending")
        return handle

    def _handle(self, live: LiveJob) -> JobHandle:
        handle = JobHandle(self, live)
        live.handle = handle
        self._handles[handle.job_id] = handle
        return handle

    def _backend_or_fail(self) -> Backend:
        assert self._backend is not None
        return self._backend

    # -- code ---------------------------------------------------------------------------------

    def _code_of(self, flow: CompiledFlow) -> Code:
        if self.settings.backend == "inline":
            return Code(f"inline-{id(flow.routines)}", None, flow.routines, recovery.environment())
        from .._serialization.code import pack_code

        bundle = pack_code(flow.routines, main=sys.modules.get("__main__"))
        return Code(bundle.digest, bundle.data, None, recovery.environment())

    def load_code_of(self, flow: CompiledFlow) -> Code:
        """The flow's code, loaded where workers start."""
        code = self._code_of(flow)
        self._load(code)
        return code

    def _load(self, code: Code) -> None:
        """Have the workers' nursery load the code, and wait for its word."""
        loop = self.loop
        self._ask_to_load(code)
        with self._code_changed:
            self._code_changed.wait_for(lambda: code.code_id in loop.code_ready or code.code_id in loop.code_refused)
        if code.code_id in loop.code_refused:
            self._codes.pop(code.code_id, None)
            raise NotShippable(loop.code_refused.pop(code.code_id))

    def _ask_to_load(self, code: Code) -> bool:
        """Let the nursery begin, if it has not been asked yet."""
        if code.code_id in self.loop.code_ready or code.code_id in self._codes:
            return False
        self._codes[code.code_id] = code
        self.call(lambda: self._backend_or_fail().load(code))
        return True

    def _prepare_meanwhile(self) -> None:
        """While the nursery starts and loads: what the first job would wait for."""
        if self.is_durable:
            self.store.prepare()
            load_lock_library()

    def allow(self, flow: CompiledFlow, code: Code) -> None:
        """Let the flow have as many worker processes as it may."""
        if flow.max_workers:
            is_fixed = self.settings.max_workers > 0
            self.call(lambda: self.loop.placement.allow(code.code_id, flow.max_workers, is_fixed))

    def _on_code(self, code_id: str) -> None:
        with self._code_changed:
            self._code_changed.notify_all()

    def signed_code(self, job_id: str, code: Code) -> tuple[Any, ...]:
        """(code id, environment, signature and bundle), as the first record keeps it."""
        if code.bundle is None or not self.is_durable:
            return ()
        environment = pack(dict(code.environment))
        content = pack((code.code_id, environment, code.bundle))
        return (self.signer.sign(_code_place(job_id), content) + content,)

    def _check_signature(self, job_id: str, frame: bytes) -> None:
        """Raise unless the job's first record was signed with a key of ours, if it was signed at all."""
        record = decode_record(frame)
        if isinstance(record, (Submitted, Adopted)) and record.code:
            self._stored_code(job_id, frame)

    def _stored_code(self, job_id: str, frame: bytes) -> Code:
        from .._serialization.packing import unpack

        record = decode_record(frame)
        if not isinstance(record, (Submitted, Adopted)) or not record.code:
            raise NotShippable(f"job {job_id} keeps no code of its flow; resume it from a program that defines the flow")
        signed = record.code[0]
        signature, content = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
        self.signer.verify(_code_place(job_id), content, signature)
        code_id, environment, bundle = unpack(content)
        return Code(code_id, bundle, None, unpack(environment))

    # -- what the loop asks for ---------------------------------------------------------------

    def encode(self, params: dict[str, Any], place: bytes) -> Batch:
        """A value from outside as a batch of one."""
        return Batch(*encode_batch([params], self.signer, place))

    def read_batch(self, live: LiveJob, batch: Batch) -> bytes:
        """The bytes of a batch whose copy in memory was dropped."""
        assert batch.ref is not None
        epoch, commit, frame, number = batch.ref
        ref = LogRef(epoch, commit, frame)
        tenure = live.tenure
        # A job that had ended before this process looked at it was never owned here.
        owned = tenure if isinstance(tenure, DurableTenure) else None
        record = decode_record(owned.read(ref) if owned is not None else self.store.read_frame(live.job.job_id, ref))
        data = list(batches_of(record))[number].data
        assert data is not None
        return data

    def payloads(self, live: LiveJob) -> PayloadReader:
        """Opens the payloads of a job, also those that lie in blobs."""
        if live.payloads is None:
            folder = live.memory.shared_dir if live.memory is not None else self.store.view_paths(live.job.job_id).job
            live.payloads = PayloadReader(None if folder is None else f"{folder}/{BLOBS}/-")
        return live.payloads

    def _blob_dir(self, live: LiveJob) -> str | None:
        if live.memory is not None and live.memory.shared_dir is not None:
            return f"{live.memory.shared_dir}/{BLOBS}/{epoch_name(1)}"
        if not isinstance(live.tenure, DurableTenure):
            return None
        # Most jobs have no blobs: the first worker that writes one makes the directory.
        return f"{self.store.view_paths(live.job.job_id).blobs}/{epoch_name(live.tenure.epoch)}"

    def _introduce(self, live: LiveJob, slot: WorkerSlot) -> None:
        s = self.settings
        info = JobInfo(
            live.job.job_id, live.code_id, live.job.topology.flow_id, live.job.topology.to_plain(),
            self._blob_dir(live), self.signer.keys, s.batch_count_max, s.batch_bytes_max, s.flush_ms,
            s.payload_inline_bytes_max, self.is_durable,
        )  # fmt: skip
        self._backend_or_fail().send(slot.worker, info)

    def _documents(self, live: LiveJob) -> Callable[[], tuple[bytes | None, bytes]]:
        """What makes the views of a job; it opens users' values, so it never runs in the loop."""
        handle = live.handle

        def make() -> tuple[bytes | None, bytes]:
            if self._describe is not None and handle is not None:
                return None, self._describe(handle)  # flow.json is there since the job began
            view = live.view
            return None, json.dumps({"_type": "JobState", "job_id": view.job_id, "status": view.status}).encode()

        return make


def make_backend(name: str) -> Backend:
    if name == "inline":
        from ..backends.inline import InlineBackend

        return InlineBackend()
    from ..backends.local import LocalBackend

    backend = LocalBackend()
    backend.prepare()
    return backend


def pack_metadata(metadata: dict[str, Any]) -> bytes:
    return encode_batch([metadata], None, b"metadata").data if metadata else b""


def _code_place(job_id: str) -> bytes:
    return pack(("code", job_id))


def _print(stream: str, text: str) -> None:
    target = sys.stderr if stream == "stderr" else sys.stdout
    if target is not None:
        target.write(text)
        target.flush()
