"""What fails in a job is told to the log: a job that goes on without it would be silent about it.

The rule it owns: nothing is told before it stands, and no more than one line for each routine and one at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .._core.job import Job
from .._core.records import Durable, Ended, Failed

log = logging.getLogger(__name__)

_CONSEQUENCES = {
    "stop": "and so does the job",
    "dead": "it is a dead letter now, and the job goes on",
    "dead_stop": "it is a dead letter now, and the job fails",
}
_GOES_ON = "and the job goes on"
_IS_TRIED_AGAIN = frozenset(("retry", "again"))
_ENDED = {"completed": "is completed", "failed": "has failed", "cancelled": "was cancelled"}


class Failings:
    """Of one job, by its owner; only the loop's thread uses it."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # of those that failed for good, per routine
        self._taken: list[tuple[int, Failed | Ended]] = []  # told when commit so-and-so stands

    def note(self, records: Iterable[Durable], commit: int) -> None:
        """These happened, and are part of that commit."""
        for record in records:
            if type(record) is Failed and record.action not in _IS_TRIED_AGAIN:
                if record.routine not in self._counts:
                    self._taken.append((commit, record))
                self._counts[record.routine] = self._counts.get(record.routine, 0) + 1
            elif type(record) is Ended and self._counts:
                self._taken.append((commit, record))

    def stands(self, job: Job, commit: int) -> None:
        """What happened up to that commit is durable: tell what is worth it."""
        while self._taken and self._taken[0][0] <= commit:
            _, record = self._taken.pop(0)
            if isinstance(record, Failed):
                _tell_first(job, record)
            else:
                self._tell_all(job, record.status)

    def _tell_all(self, job: Job, status: str) -> None:
        if max(self._counts.values()) > 1:
            counts = ", ".join(f"{count} of {job.routine_id(routine)}" for routine, count in self._counts.items())
            log.warning("job %s %s; activations that failed: %s", job.job_id, _ENDED.get(status, status), counts)
        self._counts.clear()


def _tell_first(job: Job, record: Failed) -> None:
    routine_id, failure = job.routine_id(record.routine), record.failure
    what = f"{routine_id}/{record.seq}" if record.seq >= 0 else f"the policy of {routine_id}"
    trace = f"\n{failure.traceback.rstrip()}" if failure.traceback else f": {failure.type_name}: {failure.message}"
    then = _CONSEQUENCES.get(record.action, _GOES_ON)
    # What names a file may hold what no log file can be written with.
    printable = trace.encode("utf-8", "backslashreplace").decode()
    log.warning("job %s: %s failed, %s%s", job.job_id, what, then, printable)
