"""``apply(job, record)``: the one function that changes a job. It mutates and decides nothing.

The live run, recovery, a standby and every reader go through it. Durable records read only
durable parts of the job, so that replaying them gives the same job as living through them.
"""

from __future__ import annotations

from collections.abc import Callable

from . import dispatches, outcomes
from .clocks import RESUMED_FOR_NS
from .job import Dispatch, Job, RoutineState
from .plain import fill
from .queues import enqueue, route
from .records import (
    Adopted,
    Annotated,
    Answered,
    Asked,
    Closed,
    Completed,
    Conflicted,
    Declined,
    Dispatched,
    Edited,
    Ended,
    Failed,
    Held,
    PauseAsked,
    Paused,
    Posted,
    Postponed,
    Quiet,
    Recoded,
    Record,
    Reordered,
    Rested,
    Resumed,
    Returned,
    Revived,
    Seen,
    Skipped,
    Stood,
    StopAsked,
    Submitted,
    Taken,
)  # fmt: skip
from .state import change_state
from .topology import Topology

#: Requests that a job remembers; the older half is then known by its low-water mark only.
ANSWERED_MAX = 512


def apply(job: Job, record: Record, commit: int = 0, source: Dispatch | None = None) -> None:
    """Change ``job`` by ``record``.

    ``commit`` and ``source`` are volatile: the commit that will carry the record, so that nothing
    it causes is dispatched before it stands; and the dispatch whose report it is, since the copy of
    the state that its worker has knows of it already.
    """
    _APPLY[type(record)](job, record, commit, source)


def _submitted(job: Job, record: Submitted, commit: int, source: Dispatch | None) -> None:
    job.topology = topology = Topology.from_plain(record.topology)
    job.routines = [RoutineState(len(r.slots)) for r in topology.routines]
    job.status = "running"
    job.created_ns = job.updated_ns = record.time_ns
    job.entry, job.entry_slot, job.entry_batch = record.entry, record.slot, record.batch
    job.metadata = record.metadata
    job.is_open = record.batch is None
    job.limit_ns = record.limit_ns
    job.fails_at_ns = record.time_ns + record.limit_ns if record.limit_ns else 0
    change_state(job, record.ops, commit, None)
    if record.batch is not None:
        job.record_count += 1  # "start"
        job.framework[job.routine_id(record.entry)] = {"status": "running"}
        enqueue(job, record.entry, record.slot, -1, record.batch, commit)


def _adopted(job: Job, record: Adopted, commit: int, source: Dispatch | None) -> None:
    fill(job, record.snapshot)
    job.resume_commit = commit


def _posted(job: Job, record: Posted, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    enqueue(job, record.routine, record.slot, -1, record.batch, commit)


def _annotated(job: Job, record: Annotated, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    change_state(job, record.ops, commit, None)


def _pause_asked(job: Job, record: PauseAsked, commit: int, source: Dispatch | None) -> None:
    if record.is_offer and job.status == "paused" and not record.checkpoint:
        job.is_offered = True  # it stays paused as its user has asked; new is only that another may go on with it
        return
    job.updated_ns = record.time_ns
    job.closing = ("paused", record.reason, record.time_ns)
    job.checkpoint = record.checkpoint
    job.is_offered = record.is_offer


def _paused(job: Job, record: Paused, commit: int, source: Dispatch | None) -> None:
    reason = job.closing[1] if job.closing else ""
    job.updated_ns = record.time_ns
    job.closing = None
    job.status = "paused"
    point = {"time_ns": record.time_ns, "reason": reason, "checkpoint": job.checkpoint}
    job.pause_points.append({**point, "pending_count": job.activation_count()})


def _resumed(job: Job, record: Resumed, commit: int, source: Dispatch | None) -> None:
    if job.fails_at_ns and job.status == "paused":
        job.fails_at_ns += max(0, record.time_ns - job.pause_points[-1]["time_ns"])
    elif job.status == "failed":
        job.fails_at_ns = record.time_ns + job.limit_ns if job.limit_ns else 0  # tried again, with all its time
    job.updated_ns = record.time_ns
    job.closing = None
    job.status = "running"
    job.is_offered = False
    job.reason = ""
    job.ends_after_ns = record.time_ns + RESUMED_FOR_NS
    job.resume_commit = commit
    job.deferred = []
    for routine, emit in record.deferred:
        job.record_count += emit.batch.count
        route(job, routine, emit, commit)


def _stop_asked(job: Job, record: StopAsked, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    job.closing = (record.status, record.reason, record.time_ns)


def _postponed(job: Job, record: Postponed, commit: int, source: Dispatch | None) -> None:
    job.fails_at_ns, job.is_postponed = record.fails_at_ns, False


def _recoded(job: Job, record: Recoded, commit: int, source: Dispatch | None) -> None:
    job.code = record.batch


def _closed(job: Job, record: Closed, commit: int, source: Dispatch | None) -> None:
    job.is_open = False


def _ended(job: Job, record: Ended, commit: int, source: Dispatch | None) -> None:
    job.updated_ns = record.time_ns
    job.status = record.status
    job.reason = record.reason
    job.closing = None
    if record.status == "cancelled":
        job.framework["_cancellation"] = {"reason": record.reason}


def _answered(job: Job, record: Answered, commit: int, source: Dispatch | None) -> None:
    # Not an update: what was asked for has a record of its own, if it changed anything.
    job.answered[record.request_id] = record.refusal
    if len(job.answered) > ANSWERED_MAX:
        kept = sorted(job.answered)
        job.answered_low = max(job.answered_low, kept[ANSWERED_MAX // 2 - 1])
        job.answered = {i: job.answered[i] for i in kept if i > job.answered_low}


_APPLY: dict[type, Callable[..., None]] = {
    Submitted: _submitted, Adopted: _adopted, Posted: _posted, Annotated: _annotated, PauseAsked: _pause_asked,
    Paused: _paused, Resumed: _resumed, StopAsked: _stop_asked, Closed: _closed, Ended: _ended, Answered: _answered,
    Postponed: _postponed, Recoded: _recoded,
    Completed: outcomes.completed, Failed: outcomes.failed, Taken: outcomes.taken, Revived: outcomes.revived,
    Skipped: outcomes.skipped, Declined: outcomes.declined, Edited: outcomes.edited, Reordered: outcomes.reordered,
    Dispatched: dispatches.dispatched, Returned: dispatches.returned, Held: dispatches.held,
    Conflicted: dispatches.conflicted, Stood: dispatches.stood, Seen: dispatches.seen, Asked: dispatches.asked,
    Quiet: dispatches.quiet, Rested: dispatches.rested,
}  # fmt: skip
