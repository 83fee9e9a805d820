"""What a failed attempt leads to: the rules of ``ErrorHandler``, of crashes and of dead letters."""

from __future__ import annotations

from collections.abc import Mapping

from .job import Job
from .stimuli import Failure
from .topology import ErrorSpec, RoutineSpec

#: Actions after which an activation is over, and those behind it have nothing to wait for.
SETTLES = frozenset(("continue", "skip", "tolerate"))
_ANY_ERROR = Failure("error", "", "")


def is_tolerant(spec: RoutineSpec, is_entry: bool) -> bool:
    """Whether an attempt of this routine that raises is always over with that, for good."""
    return action_for(spec, is_entry, _ANY_ERROR, 1, 0, 1, 0)[0] in SETTLES


def action_for(
    spec: RoutineSpec, is_entry: bool, failure: Failure, attempt: int, crashes: int, max_crashes: int, now_ns: int
) -> tuple[str, int]:
    """The action of the ``Failed`` record, and when the next attempt is due (ns; 0: at once).

    Without any handler an entry routine's failure fails the job, any other one is recorded and
    tolerated (spec/api.md, ErrorHandler). A critical routine must succeed, whatever its strategy.
    """
    error = spec.error or ErrorSpec("stop" if is_entry else "tolerate")
    if error.is_critical and error.strategy != "retry":
        error = ErrorSpec("stop")
    if failure.kind == "crash":
        if crashes + 1 < max_crashes:
            return "again", 0
        return ("dead_stop" if error.strategy in ("stop", "retry") else "dead"), 0
    if error.strategy == "retry":
        if failure.is_retryable and attempt <= error.max_retries:
            delay_s = error.retry_delay_s * error.retry_backoff ** (attempt - 1)
            return "retry", now_ns + int(delay_s * 1e9)
        return "stop", 0
    return error.strategy, 0


def has_retries_left(job: Job, rules: Mapping[str, ErrorSpec | None]) -> bool:
    """Whether a failed job may go on: something that failed, and is not done, may be tried again by these rules."""
    for spec, routine in zip(job.topology.routines, job.routines, strict=True):
        error = rules.get(spec.routine_id)
        if error is not None and error.strategy == "retry":
            if any(1 < special.attempt <= error.max_retries + 1 for special in routine.special.values()):
                return True
    return False
