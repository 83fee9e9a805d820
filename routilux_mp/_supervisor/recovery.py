"""From a checkpoint directory to a job that goes on: read, fold, fence the previous owner.

There is no second code path: recovery is :func:`apply` over what the log says, and whatever is
then outstanding is dispatched like anything else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from .._core.apply import apply
from .._core.job import Job
from .._core.retry import has_retries_left
from .._core.topology import Topology
from .._storage.codec import decode_record, decode_snapshot
from .._storage.owner import start_ticks
from .._worker.logs import levels
from ..errors import CheckpointDamaged, FlowMismatch, NeverBegan
from ..settings import Settings, current_directory
from .outputs import outputs_of

if TYPE_CHECKING:
    from .._storage.reader import LogRef
    from .._storage.replay import JobLog
    from .._storage.store import Store
    from .compiled import CompiledFlow


def new_job(job_id: str, settings: Settings) -> Job:
    return Job(
        job_id,
        max_crashes=settings.max_crashes,
        grace_s=settings.grace_s,
        ordered_window_max=settings.ordered_window_max,
    )


class RecordDamaged(CheckpointDamaged):
    """A record is whole and says something impossible. ``at``: where it is."""

    def __init__(self, text: str, at: LogRef) -> None:
        super().__init__(text)
        self.at = at


class Reading(NamedTuple):
    """A job as its directory describes it."""

    log: JobLog
    job: Job
    #: Output files that commits name: they may not be in their place yet.
    outputs: list[tuple[str, str]]


def read(store: Store, job_id: str, settings: Settings) -> Reading:
    """Read and fold a job; raises as ``Store.read`` and :func:`fold` do."""
    log = store.read(job_id)
    outputs: list[tuple[str, str]] = []
    return Reading(log, fold(log, settings, outputs=outputs), outputs)


def fold(
    log: JobLog,
    settings: Settings,
    job: Job | None = None,
    after: LogRef | None = None,
    outputs: list[tuple[str, str]] | None = None,
) -> Job:
    """The job that a reading of its directory describes; or ``job``, carried on with what came ``after``.

    Output files that those commits name are added to ``outputs``: they may not be in their place yet.

    Raises:
        CheckpointDamaged: the log says something impossible.
        NeverBegan: it says nothing.
    """
    if job is None:
        job = new_job(log.job_id, settings)
        if log.snapshot is not None:
            decode_snapshot(log.snapshot, job)
    for ref, data in log.frames():
        if after is not None and ref[:2] <= after[:2]:
            continue
        try:
            record = decode_record(data, tuple(ref))  # type: ignore[arg-type]
            apply(job, record)
        except (AssertionError, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
            text = f"job {log.job_id}: the record at {tuple(ref)} does not fit what precedes it"
            raise RecordDamaged(text, ref) from error
        except CheckpointDamaged as error:
            raise RecordDamaged(f"job {log.job_id}: {error}", ref) from error
        if outputs is not None:
            outputs += outputs_of((record,))
    if job.status == "pending":
        raise NeverBegan(
            f"job {log.job_id} never began: the process that made it ended before its first record was written, so "
            f"nothing of it has run. Start it again; its directory can be deleted"
        )
    return job


def is_alive(pid: int, started: int) -> bool:
    """Whether the process of this host that started then still runs; a zombie does not."""
    if start_ticks(pid) != started:
        return False
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except PermissionError:
        return True
    except OSError:
        return False


def check_same_flow(job: Job, topology: Topology) -> None:
    """Raise ``ValueError`` naming what differs between the job's flow and the one it is to go on with."""
    old = job.topology
    if old.flow_id != topology.flow_id:
        raise FlowMismatch(f"JobState flow_id '{old.flow_id}' does not match Flow flow_id '{topology.flow_id}'")
    new = {r.routine_id: r for r in topology.routines}
    for spec in old.routines:
        mine = new.get(spec.routine_id)
        if mine is None:
            text = f"Routine '{spec.routine_id}' of job {job.job_id} not found in flow '{topology.flow_id}'"
            raise FlowMismatch(text)
        for kind, before, now in (("Slot", spec.slots, mine.slots), ("Event", spec.events, mine.events)):
            gone = sorted(set(before) - set(now))
            if gone:
                raise FlowMismatch(f"{kind} '{gone[0]}' not found in routine '{spec.routine_id}'")


def may_be_tried_again(job: Job, flow: CompiledFlow | None) -> bool:
    """Whether a failed job goes on when it is resumed with this flow: unfinished work has retries left by its rules."""
    topology = job.topology if flow is None else flow.topology
    return job.status == "failed" and has_retries_left(job, {r.routine_id: r.error for r in topology.routines})


def with_settings_of(job: Job, topology: Topology) -> None:
    """Retry rules, time limits and worker counts are those of the flow that is passed to ``resume``.

    What routes and numbers emissions stays as it is on record.
    """
    new = {r.routine_id: r for r in topology.routines}
    routines = []
    for spec in job.topology.routines:
        mine = new[spec.routine_id]
        workers = spec.workers if spec.is_ordered else mine.workers
        routines.append(
            spec._replace(error=mine.error, timeout_s=mine.timeout_s, workers=workers, queue_max=mine.queue_max)
        )
    job.topology = Topology(job.topology.flow_id, topology.strategy, tuple(routines), job.topology.connections)


def environment() -> dict[str, object]:
    """What a fresh process needs to find the same modules, and to log what is logged here."""
    import sys

    cwd = current_directory()
    return {
        "sys_path": [p or cwd for p in sys.path],
        "prefixes": [sys.prefix, sys.base_prefix],
        "cwd": cwd,
        "argv": list(sys.argv),
        "logging": levels(),
    }
