"""What a caller can see of a job: an immutable picture, swapped whole when its commit stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .job import DeadLetter, Deferred, Job, ListValue, Value


class JobView(NamedTuple):
    job_id: str
    flow_id: str
    status: str
    created_ns: int
    updated_ns: int
    entry: int
    #: routine id -> the user's keys -> value
    routine_states: Mapping[str, Mapping[str, Value]]
    #: routine id -> what the framework says: status, error, …
    framework_states: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Value]
    pause_points: tuple[Mapping[str, Any], ...]
    queued: int
    running: int
    waiting: int
    activations: int
    current_routine: str | None
    metadata: bytes
    checkpoint: bytes
    dead_letters: tuple[DeadLetter, ...]
    #: routine id -> slot -> emissions that no policy took
    unconsumed: Mapping[str, Mapping[str, int]]
    reason: str
    closing: str | None
    blocked: tuple[str, int] | None
    retry_counts: Mapping[str, int]
    results_count: Mapping[tuple[str, str], int]
    #: routine id -> (activations done, not done yet, dispatches at workers)
    progress: Mapping[str, tuple[int, int, int]]
    #: routine id -> activations that are over and not done: failed for good, dead letters, skipped
    failed: Mapping[str, int]
    history_count: int
    log_count: int
    sent_count: int
    #: emissions that are kept back until the job is resumed: (routine id, event, encoded batch of one)
    deferred: tuple[tuple[str, str, bytes], ...]
    version: int

    @property
    def is_terminal(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    @property
    def is_resting(self) -> bool:
        """Nothing happens before somebody resumes it: it is paused, or all that is left is kept back until then."""
        is_idle = not (self.queued or self.running or self.waiting)
        return self.status == "paused" or (bool(self.deferred) and is_idle and not self.is_terminal)


def view_of(job: Job, version: int, blocked: tuple[str, int] | None = None) -> JobView:
    """The job as it stands now."""
    routines = list(zip(job.topology.routines, job.routines, strict=True))
    left = [
        r.ready_count + len(r.special) + sum(item.count for d in r.dispatches.values() for item in d.items)
        for r in job.routines
    ]
    running = sum(bool(d.items) or d.special >= 0 or d.question is not None for d in job.dispatches.values())
    return JobView(
        job_id=job.job_id,
        flow_id=job.topology.flow_id,
        status=job.status,
        created_ns=job.created_ns,
        updated_ns=job.updated_ns,
        entry=job.entry,
        routine_states={scope: _copy(values) for scope, values in job.state.items() if scope},
        framework_states=dict(job.framework),
        shared=_copy(job.state[""]),
        pause_points=tuple(job.pause_points),
        queued=sum(r.ready_count for r in job.routines),
        running=running,
        waiting=sum(len(r.special) for r in job.routines),
        activations=job.activations,
        current_routine=None if job.current is None else job.routine_id(job.current),
        metadata=job.metadata,
        checkpoint=job.checkpoint,
        dead_letters=tuple(job.dead_letters),
        unconsumed={
            spec.routine_id: {spec.slots[s]: sum(run.count for run in q) for s, q in enumerate(r.slots) if q}
            for spec, r in routines
            if any(r.slots)
        },
        reason=job.reason,
        closing=job.closing[0] if job.closing else None,
        blocked=blocked,
        retry_counts={
            spec.routine_id: min(r.failures, spec.error.max_retries)
            for spec, r in routines
            if r.failures and spec.error is not None
        },
        results_count={
            (job.topology.routines[r].routine_id, job.topology.routines[r].events[e]): count
            for (r, e), count in job.results.items()
        },
        progress={spec.routine_id: (r.done, n, len(r.dispatches)) for (spec, r), n in zip(routines, left, strict=True)},
        failed={
            spec.routine_id: r.next_seq - r.done - n
            for (spec, r), n in zip(routines, left, strict=True)
            if r.next_seq > r.done + n
        },
        history_count=job.record_count,
        log_count=job.log_count,
        sent_count=job.sent_count,
        deferred=tuple(_deferred(job, d) for d in job.deferred),
        version=version,
    )


def _deferred(job: Job, deferred: Deferred) -> tuple[str, str, bytes]:
    spec = job.topology.routines[deferred.routine]
    return spec.routine_id, spec.events[deferred.event], deferred.batch.data or b""


def _copy(values: Mapping[str, Value]) -> dict[str, Value]:
    """Lists grow in place in the job, so the picture keeps its own length."""
    return {k: ListValue(v.base, v.items[:]) if isinstance(v, ListValue) else v for k, v in values.items()}
