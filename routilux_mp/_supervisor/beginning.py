"""How a new job begins, and how any job gets into the loop.

Not here: jobs that were begun before (``entering``), what becomes of them (``loop``). The rule it owns: everything
that can be refused is refused before anything is written, and when a caller has its handle, the job is durably on
its way. What a small job begins with stands with its OPEN, in one file: nobody is waited for but the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from .._core.stimuli import Adopt, Cancel, Resume, StateOp, Stimulus, Submit, Tick
from .._core.view import JobView
from .._ids import new_id
from .._serialization.batch import encode_batch
from .._serialization.places import slot_place
from .._storage.log import Tenure as DurableTenure
from .._storage.views import load_lock_library
from ..backends.base import Code
from ..errors import RoutiluxError, RuntimeClosed, StorageBlocked, StorageError, UnknownName
from . import recovery
from .compiled import CompiledFlow
from .handle import JobHandle
from .live import LiveJob
from .unkept import Tenure
from .vigil import Heard

if TYPE_CHECKING:
    from .supervisor import Supervisor

_log = logging.getLogger(__name__)

METADATA_PLACE = b"metadata"
#: First records that are larger have a commit of their own: whoever looks whose a job is reads all of its OPEN.
OPEN_RECORDS_BYTES_MAX = 64 * 1024


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
    job_id = job_id or new_id()
    number = -1 if entry is None else flow.topology.index_of(entry)
    if number is None:
        raise UnknownName(f"Routine '{entry}' not found in flow")
    index, batch = 0, None
    if entry is not None:
        slots = flow.topology.routines[number].slots
        index = slots.index(slot) if slot in slots else 0
    if entry is not None and params is not None:
        batch = supervisor.encode(params, slot_place(job_id, entry, slots[index]))
    limit_ns = 0 if timeout_s is None else max(1, int(timeout_s * 1e9))
    stimulus = Submit(
        flow.flow_id, flow.topology.to_plain(), number, index, batch, pack_metadata(metadata or {}), (),
        tuple(initial), limit_ns,
    )  # fmt: skip
    return begin(supervisor, flow, supervisor.shipping.code_of(flow), job_id, stimulus)


def begin(supervisor: Supervisor, flow: CompiledFlow, code: Code, job_id: str, stimulus: Submit) -> JobHandle:
    """A new job, with its code; see :func:`submit`."""
    shipping = supervisor.shipping
    if shipping.ask(code):
        _prepare_meanwhile(supervisor)
    shipping.read_sources(flow, code)
    shipping.load(code)
    shipping.allow(flow, code)
    stimulus = stimulus._replace(code=tuple(shipping.kept(job_id, code)))
    tenure = None if supervisor.is_durable else supervisor.begin_tenure(job_id)
    live = _new(supervisor, flow, code, job_id, tenure)
    try:
        handle = _begin_with_records(supervisor, live, stimulus)
    except StorageBlocked as error:
        _log.debug("job %s: %s", job_id, error)  # without its records the OPEN is smaller, and may find room
        handle = None
    if handle is not None:
        write_flow_view(live, flow)
        return handle
    live = _new(supervisor, flow, code, job_id, supervisor.begin_tenure(job_id))
    return enter(supervisor, live, stimulus, meanwhile=partial(write_flow_view, live, flow))


def _new(supervisor: Supervisor, flow: CompiledFlow, code: Code, job_id: str, tenure: Tenure | None) -> LiveJob:
    live = LiveJob(recovery.new_job(job_id, supervisor.settings), tenure, code.code_id)
    live.owed_flow = flow.flow_doc
    return live


def _begin_with_records(supervisor: Supervisor, live: LiveJob, stimulus: Submit) -> JobHandle | None:
    """Let the job begin in the caller's thread; the loop has it sooner or later. None: the records are too large."""
    owed = live.step(stimulus, supervisor.clock.now_ns(), verify=supervisor.settings.verify)
    number, [frames] = live.take_commit(supervisor.clock.now_ns())
    if sum(map(len, frames)) > OPEN_RECORDS_BYTES_MAX:
        return None
    if supervisor.is_durable:
        live.tenure = supervisor.begin_tenure(live.job.job_id, frames)
    live.stands(number)
    handle = supervisor.hold(live)
    try:
        loop = supervisor.loop
        taken = supervisor.tell(lambda: loop.add_begun(live, number, owed), is_awaited=not loop.pace.is_streaming)
    except RuntimeClosed as error:
        _give_back(live, error)
        raise
    taken.add_done_callback(lambda taken: _give_back(live, taken.exception()))
    return handle


def _give_back(live: LiveJob, error: BaseException | None) -> None:
    """A job that the loop has not taken can be gone on with by anybody."""
    if error is not None:
        live.lose(error)
        with suppress(RoutiluxError):
            live.tenure.seal("handover")
        live.tenure.close()


def enter(
    supervisor: Supervisor, live: LiveJob, stimulus: Submit | Adopt | Resume | Tick | Cancel,
    requests: Sequence[Heard] = (), before: Sequence[Stimulus] = (), meanwhile: Callable[[], None] = lambda: None,
) -> JobHandle:  # fmt: skip
    """Take the job into the loop and wait until it is durable that it goes on. ``before``: what happens before that.

    When its first commit is blocked (disk full) that is waited for no longer than ``settle_s``: the job goes on by
    itself when it can be written, and its view says what it waits for.

    ``meanwhile``: what the caller does while the first commit is on its way.
    """
    handle = supervisor.hold(live)

    def take_in() -> None:
        # What is not there yet, or has failed, can be changed afterwards only; nothing is given out before all of it.
        is_later = live.job.is_terminal or live.job.status == "pending"
        first, *more = (stimulus, *before) if is_later else (*before, stimulus)
        supervisor.loop.add(live, first)
        for one in more:
            supervisor.loop.happen(live, one, supervisor.clock.now_ns())
        for heard in requests:
            if supervisor.loop.keeper is not None:
                supervisor.loop.keeper.ask(live, heard, supervisor.clock.now_ns())

    supervisor.call(take_in)
    meanwhile()
    handle.wait(lambda v: _goes_on(v) or v.blocked is not None)
    handle.wait(_goes_on, supervisor.settings.settle_s)
    return handle


def _goes_on(view: JobView) -> bool:
    return view.version > 0 and view.status != "pending"


def pack_metadata(metadata: dict[str, Any]) -> bytes:
    """A job's metadata as its first record has them."""
    return encode_batch([metadata], None, METADATA_PLACE).data if metadata else b""


def write_flow_view(live: LiveJob, flow: CompiledFlow) -> None:
    """``flow.json`` of a job that begins; where it cannot be written now, it is written with the other view."""
    if isinstance(live.tenure, DurableTenure):
        try:
            live.tenure.write_flow_view(flow.flow_doc)
        except StorageError as error:  # the next commit meets the same disk, and says so
            _log.warning("flow.json of job %s is written later: %s", live.job.job_id, error)


def _prepare_meanwhile(supervisor: Supervisor) -> None:
    """While the nursery starts and loads: what the first job would wait for."""
    if supervisor.is_durable:
        supervisor.store.prepare()
        load_lock_library()
