"""Activation policies that need only counts. ``each`` needs none: its emissions are activations already."""

from __future__ import annotations

from collections.abc import Iterator

from . import asking
from .job import Job, RoutineState
from .records import Quiet, Taken


def takes_after(job: Job, now_ns: int) -> Iterator[Taken]:
    """Activations that built-in policies ask for now."""
    for number in job.topology.grouped:
        policy = job.topology.routines[number].policy
        routine = job.routines[number]
        if policy.kind == "batch_size":
            while _is_batch(routine, policy.count):
                yield Taken(now_ns, number, (policy.count,) * len(routine.slots))
        elif policy.kind == "all_slots_ready":
            while routine.slots and all(routine.slots):
                yield Taken(now_ns, number, (1,) * len(routine.slots))
        elif policy.kind == "time_interval":
            if any(routine.slots) and now_ns - routine.last_taken_ns >= int(policy.interval_s * 1e9):
                yield _take_all(number, routine, now_ns)
        elif policy.kind == "upstream_done" and not routine.has_fired and not job.is_open:
            upstream = job.topology.upstream[number]
            if all(_is_exhausted(job, u) for u in upstream) and any(job.routines[u].has_run for u in upstream):
                yield _take_all(number, routine, now_ns)


def quiescent_take(job: Job, now_ns: int) -> Taken | Quiet | None:
    """Nothing runs any more: each policy is asked once more; a batch that is not full is flushed."""
    if job.is_open:
        return None  # more may be posted
    for number in job.topology.grouped:
        policy = job.topology.routines[number].policy
        routine = job.routines[number]
        if policy.kind in ("batch_size", "time_interval") and any(routine.slots):
            return _take_all(number, routine, now_ns)
    question = asking.last_question(job)
    if question is not None:
        return question
    for number in job.topology.grouped:
        if job.topology.routines[number].policy.kind == "upstream_done":
            routine, upstream = job.routines[number], job.topology.upstream[number]
            if routine.has_fired or any(d.routine in upstream for d in job.deferred):
                continue
            if any(job.routines[u].has_run for u in upstream):
                return _take_all(number, routine, now_ns)
    return None


def next_due_ns(job: Job, now_ns: int) -> int:
    """When an interval policy wants to be asked again; 0: never, or it was asked and the job is not running."""
    due = 0
    for number in job.topology.grouped:
        policy, routine = job.topology.routines[number].policy, job.routines[number]
        if policy.kind == "time_interval" and any(routine.slots):
            at = routine.last_taken_ns + int(policy.interval_s * 1e9)
            if at > now_ns:
                due = min(due, at) if due else at
    return due


def _take_all(number: int, routine: RoutineState, now_ns: int) -> Taken:
    return Taken(now_ns, number, tuple(_held(routine, slot) for slot in range(len(routine.slots))))


def _held(routine: RoutineState, slot: int) -> int:
    return sum(run.count for run in routine.slots[slot])


def _is_batch(routine: RoutineState, count: int) -> bool:
    """Every slot holds as many. Cheap for long runs: stop counting as soon as there are enough."""
    for queue in routine.slots:
        have = 0
        for run in queue:
            have += run.count
            if have >= count:
                break
        if have < count:
            return False
    return bool(routine.slots)


def _is_exhausted(job: Job, number: int) -> bool:
    """Nothing is left in this routine, not even what its policy has not taken yet."""
    routine = job.routines[number]
    kind = job.topology.routines[number].policy.kind
    if kind == "upstream_done" and not routine.has_fired:
        return not any(job.routines[u].has_run for u in job.topology.upstream[number])
    is_deferring = any(d.routine == number for d in job.deferred)
    return routine.is_idle and not any(routine.slots) and not is_deferring
