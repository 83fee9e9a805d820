"""How jobs come in that were begun before: those to be resumed, those that nobody owns any more.

Not here: new ones (``beginning``), what becomes of them (``loop``), those of which only a document is there
(``adoption``). The rule it owns: everything that can be refused is refused before anything is written, and when a
caller has its handle, the job is durably on its way.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from .._core import clocks
from .._core.batch import Batch
from .._core.job import Job
from .._core.records import Adopted, Submitted
from .._core.stimuli import Cancel, Resume, Stimulus, Submit, Tick
from .._ids import new_id
from .._serialization.batch import decode_value, move_value
from .._serialization.places import slot_place
from .._storage.codec import batches_of, decode_record
from .._storage.control import Answer
from .._storage.replay import LogRef
from ..backends.base import Code
from ..errors import CheckpointDamaged, CodeChanged, Fenced, UnknownName, UsageError
from ..settings import current_directory
from . import recovery, serving
from .beginning import METADATA_PLACE, begin, enter, pack_metadata
from .compiled import CompiledFlow, Edits
from .handle import JobHandle
from .live import LiveJob
from .outputs import put_in_place
from .owners import Owners
from .recoding import kept_by, kept_in, recode
from .tenure import given_back_on_error
from .unkept import NullTenure
from .vigil import Heard

if TYPE_CHECKING:
    from .supervisor import Supervisor

_log = logging.getLogger(__name__)

#: Finds the flow of this id; None: the code that the job keeps is to be used.
FlowOf = Callable[[str], CompiledFlow | None]


def resume(
    supervisor: Supervisor,
    flow: CompiledFlow | None,
    job_id: str,
    *,
    takeover: bool = False,
    edits: Edits | None = None,
    on_code_change: str | None = None,
) -> JobHandle:
    """Go on with a job: one of this process, or a paused, orphaned or handed-over one of this root.

    One of this process keeps the code that its workers have; rules and limits are those of ``flow``.
    ``edits``: what the caller changed meanwhile; in force before anything runs. ``on_code_change``: instead of the
    setting; after ``"rerun"`` the handle may be that of another job, which began again.

    Raises:
        ValueError: no such job, or the flow is another one; ``CodeChanged``: its code is.
        JobOwned: another living supervisor has it.
        CheckpointDamaged, CheckpointFormat: its directory cannot be used.
    """
    supervisor.start()
    handle = supervisor.handle_of(job_id)
    if handle is not None and handle.lost is None:
        if not handle.view.is_terminal:
            if flow is not None and handle.view.status == "paused":
                recovery.check_same_flow(handle.live.job, flow.topology)
                supervisor.call(partial(recovery.with_settings_of, handle.live.job, flow.topology))
            handle.resume(edits)
        if not supervisor.is_durable or not recovery.may_be_tried_again(handle.live.job, flow):
            return handle
        handle.wait_sealed()
    if supervisor.store.has_only_views(job_id):
        raise UnknownName(f"job '{job_id}' has no log in {supervisor.store.path}, only the documents that tell of it")
    reading = recovery.read(supervisor.store, job_id, supervisor.settings)
    if flow is not None:
        recovery.check_same_flow(reading.job, flow.topology)
        if reading.job.is_terminal:
            recovery.with_settings_of(reading.job, flow.topology)
    if reading.job.is_terminal and not recovery.may_be_tried_again(reading.job, flow):
        return _ended(supervisor, reading)
    choice = on_code_change or supervisor.settings.on_code_change
    if takeover and choice == "refuse":
        _code_for(supervisor, reading, flow, choice)  # before a living owner is asked for it
    reading = _when_free(supervisor, reading, takeover)
    if reading.job.is_terminal and not recovery.may_be_tried_again(reading.job, flow):
        return _ended(supervisor, reading)
    try:
        return _take(supervisor, reading, flow, Resume(), choice, edits)
    except CodeChanged:
        if choice != "rerun":
            raise
    return _run_again(supervisor, reading, flow)


def _when_free(supervisor: Supervisor, reading: recovery.Reading, takeover: bool) -> recovery.Reading:
    """The job once nobody owns it; raises ``JobOwned`` if somebody does and is not to be asked, or does not yield."""
    owners, job_id = Owners(supervisor.store), reading.job.job_id
    if takeover:
        owners.ask_to_yield(job_id, reading.log.owner, supervisor.settings.grace_s + 4 * supervisor.settings.poll_s)
        reading = recovery.read(supervisor.store, job_id, supervisor.settings)
    else:
        while owners.require_gone(job_id, reading.log.owner, reading.log.seal_reason):
            epoch = reading.log.epoch
            reading = recovery.read(supervisor.store, job_id, supervisor.settings)
            if reading.log.epoch == epoch:
                break  # nobody was quicker meanwhile, whose life would have to be looked at first
    return reading


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
        if reading.log.seal_reason != "ended":
            _seal_ended(supervisor, reading)
        return "ended"
    is_offered = job.status == "paused" and job.is_offered
    if job.status == "paused" and not is_offered and not _requests(supervisor, job):
        _show_answers(supervisor, job)
        return "paused"
    flow = flow_of(job.topology.flow_id)
    if flow is not None:
        recovery.check_same_flow(job, flow.topology)
    # Without the key, or with another one, every activation with objects in its input would fail.
    assert supervisor.signer.keys
    supervisor.shipping.check_signature(job_id, kept_by(job, reading.log))
    # A pause or a cancel that was asked for and not reached is obeyed: only an offered job is resumed.
    return _take(supervisor, reading, flow, Resume() if is_offered else Tick(), supervisor.settings.on_code_change)


def preload(supervisor: Supervisor, job_id: str, flow_of: FlowOf) -> None:
    """Load the code of a job that another one owns, so that taking it over is quick, or it is known why not."""
    supervisor.start()
    frame = supervisor.store.read_first(job_id)
    record = decode_record(frame)
    flow = flow_of(record.flow_id) if isinstance(record, (Submitted, Adopted)) else None
    shipping = supervisor.shipping
    shipping.load(shipping.code_of(flow) if flow is not None else shipping.stored(job_id, kept_in(frame)))


def _take(
    supervisor: Supervisor, reading: recovery.Reading, flow: CompiledFlow | None, stimulus: Resume | Tick | Cancel,
    choice: str, edits: Edits | None = None,
) -> JobHandle:  # fmt: skip
    """Own the job from where the reading ends. ``choice``: what to do if its code has changed."""
    log, job, outputs = reading
    code, before = _code_for(supervisor, reading, flow, choice)
    newer, tenure = supervisor.store.take_over(job.job_id, "takeover", log)
    with given_back_on_error(tenure):
        recovery.fold(newer, supervisor.settings, job, LogRef(log.epoch, log.commit, 0), outputs)
        put_in_place(outputs)
        found_ns = job.updated_ns
        clocks.take_over(job, supervisor.clock.now_ns())
        if flow is not None:
            recovery.with_settings_of(job, flow.topology)
            supervisor.shipping.allow(flow, code)
        if edits is not None:
            before = [*before, *edits(job)]
        live = LiveJob(job, tenure, code.code_id)
        live.found_ns, live.first_epoch = found_ns, tenure.epoch
        live.logged_bytes = log.size_bytes if log.snapshot is None else sys.maxsize  # much: that is why there is one
        live.owed_flow = serving.owed_flow(supervisor.store, job, flow)
        requests = _requests(supervisor, job)
    return enter(supervisor, live, stimulus, requests, before)


def _code_for(
    supervisor: Supervisor, reading: recovery.Reading, flow: CompiledFlow | None, choice: str
) -> tuple[Code, list[Stimulus]]:
    """The code that the job goes on with, loaded, and what is to be recorded of it."""
    shipping, job = supervisor.shipping, reading.job
    kept = kept_by(job, reading.log)
    code = shipping.code_of(flow) if flow is not None else shipping.stored(job.job_id, kept)
    shipping.ask(code)
    if flow is not None:
        shipping.read_sources(flow, code)
    shipping.load(code)
    cwd = str(code.environment.get("cwd", ""))
    if flow is None and cwd and not os.path.isdir(cwd):
        _log.warning(
            "job %s was begun in %s, which is not here: its handlers run in %s", job.job_id, cwd, current_directory()
        )
    return code, list(recode(job, kept, shipping.kept(job.job_id, code), choice))


def _run_again(supervisor: Supervisor, reading: recovery.Reading, flow: CompiledFlow | None) -> JobHandle:
    """A new job, begun with what this one was begun with, on the code there is now; this one is cancelled.

    The new one stands before the old one is given up: whatever happens in between, the work is not lost.
    """
    log, job, _ = reading
    if job.entry < 0 or job.entry_batch is None:
        raise UsageError(f"job {job.job_id} was not started with parameters, but by post(): it cannot begin again by "
                         "itself; go on with on_code_change='reuse', or start another one")  # fmt: skip
    spec = job.topology.routines[job.entry]
    if flow is None:
        flow_doc = serving.flow_doc_of(supervisor.store, job)
        flow = CompiledFlow(job.topology, {}, flow_doc, job.topology.flow_id)
        code = supervisor.shipping.stored(job.job_id, kept_by(job, log))
    else:
        code = supervisor.shipping.code_of(flow)
    entry = flow.topology.index_of(spec.routine_id)
    assert entry is not None, "the flow was found to have every routine of the job"
    slot = spec.slots[job.entry_slot]
    job_id = new_id()
    batch = _moved_entry(supervisor, reading, job_id, spec.routine_id, slot)
    metadata = decode_value(job.metadata, None, METADATA_PLACE) if job.metadata else {}
    stimulus = Submit(
        flow.flow_id, flow.topology.to_plain(), entry, flow.topology.routines[entry].slots.index(slot), batch,
        pack_metadata({**metadata, "rerun_of": job.job_id}), limit_ns=job.limit_ns,
    )  # fmt: skip
    handle = begin(supervisor, flow, code, job_id, stimulus)
    _take(supervisor, reading, flow, Cancel(f"its code has changed: it runs again as job {job_id}"), "reuse")
    return handle


def _moved_entry(supervisor: Supervisor, reading: recovery.Reading, job_id: str, routine_id: str, slot: str) -> Batch:
    """What a job was started with, for another job."""
    old = reading.job.entry_batch
    assert old is not None
    data = old.data
    if data is None:
        assert old.ref is not None, "what is neither in memory nor in the log does not exist"
        record = decode_record(reading.log.read(LogRef(*old.ref[:3])))
        data = list(batches_of(record))[old.ref[3]].data or b""
    places = (slot_place(each, routine_id, slot) for each in (reading.job.job_id, job_id))
    return Batch(old.count, move_value(data, supervisor.signer, *places))


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


def _seal_ended(supervisor: Supervisor, reading: recovery.Reading) -> None:
    """The job has ended, and its last owner did not live to say so to people, nor to whoever waits for its SEAL."""
    glance = supervisor.store.glance(reading.job.job_id)
    if glance is not None and glance.seal_reason == "ended":
        return  # it lives and has said so; should it say so only now, both have
    tenure = supervisor.store.take_over(reading.job.job_id, "takeover", reading.log)[1]
    try:
        put_in_place(reading.outputs)
        live = LiveJob(reading.job, tenure, "")
        live.is_finished = True
        live.owed_flow = serving.owed_flow(supervisor.store, reading.job, None)
        handle = supervisor.hold(live)
        tenure.show(supervisor.documents(handle.live))
        tenure.seal("ended")
    finally:
        tenure.close()


def _show_answers(supervisor: Supervisor, job: Job) -> None:
    """Answers that are on record and that the last owner did not live to show: somebody may be waiting for them."""
    control = supervisor.store.control(job.job_id)
    for request_id in control.unanswered():
        reason = job.answered.get(request_id)
        if reason is not None:
            control.put_answer(Answer(request_id, not reason, reason))
        elif job.has_answered(request_id):
            control.sweep(job.answered_low)
