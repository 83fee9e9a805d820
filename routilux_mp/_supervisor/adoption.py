"""Taking in a job that began elsewhere and that only a document tells of.

The rule owned here: everything about it is checked against the flow before anything is begun, and all of
it becomes the first record of its log here, so that it can be replayed like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .._core.plain import to_plain
from .._core.stimuli import Adopt
from .._worker.records import encode_past
from . import recovery
from .beginning import enter, write_flow_view
from .compiled import CompiledFlow, Edits
from .cut import read_engine
from .live import LiveJob

if TYPE_CHECKING:
    from .handle import JobHandle
    from .supervisor import Supervisor


class Adoption(NamedTuple):
    """What a document tells of a job."""

    job_id: str
    engine: bytes  # ``Cut.engine``
    #: ``history``: (routine id, event, data, ns); ``log``: entries; ``outputs``: (routine id, type, data, ns)
    past: Mapping[str, Sequence[Any]]
    metadata: bytes
    edits: Edits


def adopt(supervisor: Supervisor, flow: CompiledFlow, adoption: Adoption) -> JobHandle:
    """Go on with the job here, as its only owner in this root.

    Raises:
        ValueError: its flow is another one, or there is a job of this id here.
        CheckpointDamaged: the document cannot be used.
        NotShippable, StorageError: as ``Supervisor.submit``.
    """
    job_id, settings = adoption.job_id, supervisor.settings
    job, _ = read_engine(adoption.engine, job_id, settings, supervisor.clock.now_ns())
    recovery.check_same_flow(job, flow.topology)
    recovery.with_settings_of(job, flow.topology)
    job.metadata, job.code = adoption.metadata, None  # the first record here keeps it
    past = {name: list(rows) for name, rows in adoption.past.items()}
    job.record_count, job.log_count, job.sent_count = (len(past[n]) for n in ("history", "log", "outputs"))
    supervisor.start()
    code = supervisor.shipping.code_of(flow)
    supervisor.shipping.ask(code)
    supervisor.shipping.read_sources(flow, code)
    supervisor.shipping.load(code)
    stimulus = Adopt(
        flow.flow_id,
        to_plain(job),
        encode_past(past, job_id, supervisor.signer),
        tuple(supervisor.shipping.kept(job_id, code)),
    )
    edits = adoption.edits(job)
    tenure = supervisor.begin_tenure(job_id)
    supervisor.shipping.allow(flow, code)
    live = LiveJob(recovery.new_job(job_id, settings), tenure, code.code_id)
    live.sent_before, live.recorded_before = job.sent_count, job.record_count
    live.owed_flow = flow.flow_doc
    return enter(supervisor, live, stimulus, before=edits, meanwhile=partial(write_flow_view, live, flow))
