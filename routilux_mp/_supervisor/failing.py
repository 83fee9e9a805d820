"""What fails in a job is told to the log: a job that goes on without it would be silent about it.

The rule it owns: nothing is told before it stands, and no more than one line for each routine and one at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .._core.job import Job
from .._core.records import Durable, Ended, Failed
from .._worker.logs import as_text

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

    def stands(self, job: Job, commit: int) -> list[str]:
        """What happened up to that commit is durable: what of it is worth a line in the log, as :func:`as_text`."""
        told = []
        while self._taken and self._taken[0][0] <= commit:
            _, record = self._taken.pop(0)
            text = _first(job, record) if isinstance(record, Failed) else self._all(job, record.status)
            if text:
                told.append(as_text(log.makeRecord(log.name, logging.WARNING, __file__, 0, text, (), None)))
        return told

    def _all(self, job: Job, status: str) -> str:
        most = max(self._counts.values())
        counts = ", ".join(f"{count} of {job.routine_id(routine)}" for routine, count in self._counts.items())
        self._counts.clear()
        how = _ENDED.get(status, status)
        return f"job {job.job_id} {how}; activations that failed: {counts}" if most > 1 else ""


def _first(job: Job, record: Failed) -> str:
    routine_id, failure = job.routine_id(record.routine), record.failure
    what = f"{routine_id}/{record.seq}" if record.seq >= 0 else f"the policy of {routine_id}"
    trace = f"\n{failure.traceback.rstrip()}" if failure.traceback else f": {failure.type_name}: {failure.message}"
    return f"job {job.job_id}: {what} failed, {_CONSEQUENCES.get(record.action, _GOES_ON)}{trace}"
