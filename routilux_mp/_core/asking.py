"""Custom policies: the user's own code, asked in a worker about what has arrived.

It is asked about every emission in the order of arrival, each time with everything that is still there up
to that one, so that its answers do not depend on how emissions were batched. Only a yes is recorded
(``Taken``) and is never asked for again; what it declined it is asked about again by a successor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from .effects import Changed, Part
from .job import Dispatch, Job, RoutineState, Run
from .records import Asked, Declined, Failed, Quiet, Taken
from .retry import action_for
from .stimuli import Completion, Failure


class Question(NamedTuple):
    """The policy is to be asked about arrivals from ``asked`` on, below ``until``."""

    asked: int
    until: int
    is_final: bool


def question(job: Job, number: int, now_ns: int) -> Question | None:
    """What the policy of this routine is to be asked now, if anything. Only what is durable is asked about."""
    if number not in job.topology.custom:
        return None
    routine = job.routines[number]
    if routine.asking or max(routine.ask_due_ns, routine.rest_until_ns) > now_ns or not any(routine.slots):
        return None
    asked = max(routine.asked, routine.given_up)
    until = _durable_until(routine, job.stands)
    if until > asked:
        return Question(asked, until, False)
    if routine.is_quiet and not routine.is_asked_finally and until == routine.arrived:
        return Question(until, until, True)
    return None


def answered(job: Job, d: Dispatch, s: Completion, now_ns: int) -> Iterator[Asked | Declined | Taken | Changed]:
    """What the policy said; nothing if it was not asked in the end."""
    assert d.question is not None
    if not s.done:
        return
    routine = job.routines[d.routine]
    yield Asked(d.routine, *d.question)
    if not s.answers and (routine.ask_attempt > 1 or routine.ask_crashes):
        yield Declined(now_ns, d.routine)
    for takes, message in s.answers:
        yield Taken(now_ns, d.routine, takes, message)
        yield Changed()


def failed(job: Job, d: Dispatch, failure: Failure, now_ns: int) -> Iterator[Failed | Asked | Changed]:
    """The policy failed, hung or crashed: as a handler would, but its input stays where it is."""
    assert d.question is not None
    spec, routine = job.topology.routines[d.routine], job.routines[d.routine]
    attempt, crashes = routine.ask_attempt, routine.ask_crashes
    action, due = action_for(spec, d.routine == job.entry, failure, attempt, crashes, job.max_crashes, now_ns)
    yield Failed(now_ns, d.routine, -d.question[0], attempt, action, failure, due)
    if action not in ("retry", "again"):
        yield Asked(d.routine, *d.question)
    yield Changed()


def last_question(job: Job) -> Quiet | None:
    """Nothing runs any more: a policy whose slots still hold something is asked for the last time."""
    for number in job.topology.custom:
        routine = job.routines[number]
        if any(routine.slots) and not routine.is_asked_finally and not job.is_open:
            return Quiet(number)
    return None


def is_waiting(job: Job) -> bool:
    """A policy is still to be asked about something, now or when it is tried again."""
    return any(_is_unasked(job.routines[number]) for number in job.topology.custom)


def next_due_ns(job: Job, now_ns: int) -> int:
    """When a policy that failed is asked again; 0: none waits."""
    waiting = (job.routines[n].ask_due_ns for n in job.topology.custom if any(job.routines[n].slots))
    return min((due for due in waiting if due > now_ns), default=0)


def parts_of(routine: RoutineState, until: int) -> Iterator[tuple[int, Part]]:
    """(number of the first arrival, part) of everything below ``until``, slot by slot."""
    for queue in routine.slots:
        for run in queue:
            if run.seq < until:
                yield run.seq, Part(run.slot, run.connection, run.batch, run.start, run.count)


def _durable_until(routine: RoutineState, stands: int) -> int:
    """Arrivals come in commit order: those that stand are the first ones."""
    waiting = [_first_waiting(queue, stands) for queue in routine.slots if queue and queue[-1].commit > stands]
    return min(waiting, default=routine.arrived)


def _first_waiting(queue: deque[Run], stands: int) -> int:
    return next(run.seq for run in queue if run.commit > stands)


def _is_unasked(routine: RoutineState) -> bool:
    return any(routine.slots) and (
        routine.arrived > max(routine.asked, routine.given_up) or routine.is_quiet or routine.ask_due_ns > 0
    )
