"""What must hold after every step. Run in the tests, in simulation, and under ``ROUTILUX_MP_VERIFY=1``."""

from __future__ import annotations

from .job import Group, Item, Job, RoutineState
from .lifecycle import JOB_MOVES


class InvariantBroken(AssertionError):
    """The core is wrong: please report it with the checkpoint directory."""


def check(job: Job) -> None:
    """Raise :class:`InvariantBroken` when the job contradicts itself."""
    for number, routine in enumerate(job.routines):
        _check_routine(job, number, routine)
    for key, d in job.dispatches.items():
        _must(d.dispatch == key and job.routines[d.routine].dispatches.get(key) is d, "dispatch tables differ")
    _must(set(job.holds.values()) <= set(job.dispatches), "keys are held by nobody")
    _must(not (job.is_terminal and job.dispatches), "an ended job has running activations")
    _must(job.status != "paused" or not job.dispatches, "a paused job has running activations")
    if job.status == "completed":
        _must(all(r.is_idle for r in job.routines), "completed with work left")
    _must(any(job.status in (a, *b) for (a, _), b in JOB_MOVES.items()), f"unknown status {job.status}")


def _check_routine(job: Job, number: int, routine: RoutineState) -> None:
    spec = job.topology.routines[number]
    items: list[Item] = [*routine.ready, *(s.item for s in routine.special.values())]
    items += [item for d in routine.dispatches.values() for item in d.items]
    numbers: set[int] = set()
    queued = [0] * len(spec.slots)
    for item in items:
        span = range(item.seq, item.seq + item.count)
        _must(numbers.isdisjoint(span), f"activation of {spec.routine_id} queued twice: {span}")
        numbers.update(span)
        for run in item.runs if isinstance(item, Group) else (item,):
            queued[run.slot] += run.count
            _must(run.count > 0 and run.start + run.count <= run.batch.count, "a run lies outside its batch")
    for slot, queue in enumerate(routine.slots):
        queued[slot] += sum(run.count for run in queue)
    _must(not numbers or max(numbers) < routine.next_seq, "an activation number from the future")
    _must(routine.done + len(numbers) <= routine.next_seq, "more is done or queued than has come")
    _must(queued == routine.queued, f"{spec.routine_id}: queued {routine.queued}, counted {queued}")
    _must(routine.ready_count == sum(item.count for item in routine.ready), "ready_count is off")
    seqs = [item.seq for item in routine.ready]
    _must(seqs == sorted(seqs), f"{spec.routine_id}: the queue is out of order")
    _must(all(s.item.count == 1 for s in routine.special.values()), "a special activation is not single")
    if spec.workers:
        workers = {d.worker for d in routine.dispatches.values()}
        _must(len(workers) <= spec.workers, f"{spec.routine_id} runs on {len(workers)} workers, allowed {spec.workers}")


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantBroken(what)
