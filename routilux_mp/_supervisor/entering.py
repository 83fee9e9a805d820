"""How jobs come in: new ones, those to be resumed, those that nobody owns any more.

Not here: what becomes of them (``loop``), those of which only a document is there (``adoption``). The rule it
owns: everything that can be refused is refused before anything is written, and when a caller has its handle,
the job is durably on its way.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .._core import clocks
from .._core.job import Job
from .._core.records import Adopted, Submitted
from .._core.stimuli import Adopt, Annotate, Resume, StateOp, Submit, Tick
from .._serialization.batch import encode_batch
from .._serialization.places import slot_place
from .._storage.codec import decode_record
from .._storage.replay import LogRef
from .._storage.views import load_lock_library
from ..errors import CheckpointDamaged, Fenced, UnknownName
from . import recovery
from .compiled import CompiledFlow, Edits
from .handle import JobHandle
from .live import LiveJob, NullTenure
from .outputs import put_in_place
from .owners import Owners
from .shipping import CODE_PLACE
from .vigil import Heard

if TYPE_CHECKING:
    from .supervisor import Supervisor

#: Finds the flow of this id; None: the code that the job keeps is to be used.
FlowOf = Callable[[str], CompiledFlow | None]


def submit(
    supervisor: Supervisor, flow: CompiledFlow, *, entry: str | None, slot: str | None, params: dict[str, Any] | None,
    metadata: dict[str, Any] | None = None, job_id: str | None = None, timeout_s: float | None = None,
    initial: Sequence[StateOp] = (),
) -> JobHandle:  # fmt: skip
    """A new job; it is durable, and on its way, when this returns. ``initial``: state that it starts with.

    Raises:
        NotShippable: code of the flow cannot be sent to workers, naming it.
        EmissionNotSerializable: the parameters.
        StorageError: the checkpoint directory cannot be used.
    """
    supervisor.start()
    job_id = job_id or str(uuid.uuid4())
    number = -1 if entry is None else flow.topology.index_of(entry)
    if number is None:
        raise UnknownName(f"Routine '{entry}' not found in flow")
    index, batch = 0, None
    if entry is not None:
        slots = flow.topology.routines[number].slots
        index = slots.index(slot) if slot in slots else 0
    if entry is not None and params is not None:
        batch = supervisor.encode(params, slot_place(job_id, entry, slots[index]))
    code = supervisor.shipping.code_of(flow)
    if supervisor.shipping.ask(code):
        _prepare_meanwhile(supervisor)
    supervisor.shipping.load(code)
    supervisor.shipping.allow(flow, code)
    stimulus = Submit(
        flow.flow_id, flow.topology.to_plain(), number, index, batch,
        pack_metadata(metadata or {}), supervisor.shipping.signed(job_id, code), tuple(initial),
        0 if timeout_s is None else max(1, int(timeout_s * 1e9)),
    )  # fmt: skip
    tenure = supervisor.begin_tenure(job_id, flow.flow_doc)
    live = LiveJob(recovery.new_job(job_id, supervisor.settings), tenure, code.code_id)
    return enter(supervisor, live, stimulus)


def resume(
    supervisor: Supervisor,
    flow: CompiledFlow | None,
    job_id: str,
    *,
    takeover: bool = False,
    edits: Edits | None = None,
) -> JobHandle:
    """Go on with a job: one of this process, or a paused, orphaned or handed-over one of this root.

    ``edits``: what the caller changed meanwhile; in force before anything runs.

    Raises:
        ValueError: no such job, or the flow is another one.
        JobOwned: another living supervisor has it.
        CheckpointDamaged, CheckpointFormat: its directory cannot be used.
    """
    supervisor.start()
    handle = supervisor.handle_of(job_id)
    if handle is not None and handle.lost is None:
        if not handle.view.is_terminal:
            if edits is not None:
                handle.edit(edits)
            handle.resume()
        return handle
    if supervisor.store.has_only_views(job_id):
        raise UnknownName(f"job '{job_id}' has no log in {supervisor.store.path}, only the documents that tell of it")
    reading = recovery.read(supervisor.store, job_id, supervisor.settings)
    if flow is not None:
        recovery.check_same_flow(reading.job, flow.topology)
    if reading.job.is_terminal:
        return _ended(supervisor, reading)
    owners = Owners(supervisor.store)
    if takeover:
        owners.ask_to_yield(job_id, reading.log.owner, supervisor.settings.grace_s + 4 * supervisor.settings.poll_s)
        reading = recovery.read(supervisor.store, job_id, supervisor.settings)
    else:
        while owners.require_gone(job_id, reading.log.owner, reading.log.seal_reason):
            epoch = reading.log.epoch
            reading = recovery.read(supervisor.store, job_id, supervisor.settings)
            if reading.log.epoch == epoch:
                break  # nobody was quicker meanwhile, whose life would have to be looked at first
    if reading.job.is_terminal:
        return _ended(supervisor, reading)
    return _take(supervisor, reading, flow, Resume(), edits)


def adopt(supervisor: Supervisor, job_id: str, flow_of: FlowOf, epoch: int) -> JobHandle | Literal["ended", "paused"]:
    """Take over a job that nobody owns, for a standby; a paused one only if it was offered or is asked for.

    ``epoch``: the one whose owner was found to be gone. Of a newer one nothing is known but that somebody
    opened it since: its owner lives, and is not deposed.

    Raises:
        Fenced: another one was quicker.
        RoutiluxError: it cannot be run here, and why.
    """
    supervisor.start()
    reading = recovery.read(supervisor.store, job_id, supervisor.settings)
    if reading.log.epoch != epoch:
        raise Fenced(f"job '{job_id}': another owner opened epoch {reading.log.epoch} meanwhile")
    job = reading.job
    if job.is_terminal:
        return "ended"
    is_offered = job.status == "paused" and job.is_offered
    if job.status == "paused" and not is_offered and not _requests(supervisor, job):
        return "paused"
    flow = flow_of(job.topology.flow_id)
    if flow is not None:
        recovery.check_same_flow(job, flow.topology)
    # Without the key, or with another one, every activation with objects in its input would fail.
    assert supervisor.signer.keys
    supervisor.shipping.check_signature(job_id, reading.log.read(CODE_PLACE))
    # A pause or a cancel that was asked for and not reached is obeyed: only an offered job is resumed.
    return _take(supervisor, reading, flow, Resume() if is_offered else Tick())


def preload(supervisor: Supervisor, job_id: str, flow_of: FlowOf) -> None:
    """Load the code of a job that another one owns, so that taking it over is quick, or it is known why not."""
    supervisor.start()
    frame = supervisor.store.read_frame(job_id, CODE_PLACE)
    record = decode_record(frame)
    flow = flow_of(record.flow_id) if isinstance(record, (Submitted, Adopted)) else None
    shipping = supervisor.shipping
    shipping.load(shipping.code_of(flow) if flow is not None else shipping.stored(job_id, frame))


def enter(
    supervisor: Supervisor, live: LiveJob, stimulus: Submit | Adopt | Resume | Tick, requests: Sequence[Heard] = (),
    ops: Sequence[StateOp] = (),
) -> JobHandle:  # fmt: skip
    """Take the job into the loop and wait until it is durable that it goes on. ``ops``: changed before that."""
    handle = supervisor.hold(live)

    def begin() -> None:
        if ops:
            supervisor.loop.add(live, Annotate(tuple(ops)))
            supervisor.loop.happen(live, stimulus, supervisor.clock.now_ns())
        else:
            supervisor.loop.add(live, stimulus)
        for heard in requests:
            if supervisor.loop.keeper is not None:
                supervisor.loop.keeper.ask(live, heard, supervisor.clock.now_ns())

    supervisor.call(begin)
    handle.wait(lambda v: v.version > 0 and v.status != "pending")
    return handle


def _take(
    supervisor: Supervisor,
    reading: recovery.Reading,
    flow: CompiledFlow | None,
    stimulus: Resume | Tick,
    edits: Edits | None = None,
) -> JobHandle:
    """Own the job from where the reading ends."""
    log, job, outputs = reading
    shipping = supervisor.shipping
    code = shipping.code_of(flow) if flow is not None else shipping.stored(job.job_id, log.read(CODE_PLACE))
    shipping.load(code)
    newer, tenure = supervisor.store.take_over(job.job_id, "takeover", log)
    recovery.fold(newer, supervisor.settings, job, LogRef(log.epoch, log.commit, 0), outputs)
    put_in_place(outputs)
    found_ns = job.updated_ns
    clocks.take_over(job, supervisor.clock.now_ns())
    if flow is not None:
        recovery.with_settings_of(job, flow.topology)
        supervisor.shipping.allow(flow, code)
    ops = edits(job) if edits is not None else ()
    live = LiveJob(job, tenure, code.code_id)
    live.found_ns = found_ns
    return enter(supervisor, live, stimulus, _requests(supervisor, job), ops)


def _ended(supervisor: Supervisor, reading: recovery.Reading) -> JobHandle:
    put_in_place(reading.outputs)
    live = LiveJob(reading.job, NullTenure(0), "")
    live.memory = None
    live.is_finished = True
    return supervisor.hold(live)


def _requests(supervisor: Supervisor, job: Job) -> list[Heard]:
    """Requests that nobody has answered: the next owner obeys them before it dispatches anything."""
    found: list[Heard] = []
    control = supervisor.store.control(job.job_id)
    for request_id in control.unanswered():
        if not job.has_answered(request_id):
            try:
                found.append(Heard(job.job_id, request_id, control.read(request_id)))
            except FileNotFoundError:
                continue
            except CheckpointDamaged as error:
                found.append(Heard(job.job_id, request_id, None, str(error)))
    return found


def pack_metadata(metadata: dict[str, Any]) -> bytes:
    return encode_batch([metadata], None, b"metadata").data if metadata else b""


def _prepare_meanwhile(supervisor: Supervisor) -> None:
    """While the nursery starts and loads: what the first job would wait for."""
    if supervisor.is_durable:
        supervisor.store.prepare()
        load_lock_library()
