"""Which jobs the loop has to look at, so that a turn costs what has happened and not what is there.

Nothing is decided here. The rule it owns: a job that is in none of these sets has nothing to be given
out, committed or shown, and will have nothing before something happens to it.
"""

from __future__ import annotations

from collections.abc import Iterator


class Attention:
    """Sets of job ids; dictionaries, because sets have no order."""

    def __init__(self) -> None:
        #: Something happened: there may be work to give out.
        self.touched: dict[str, None] = {}
        #: There may be something to commit, to show or to seal.
        self.unsettled: dict[str, None] = {}
        #: There is work, and no worker had room for it: looked at when one has.
        self.hungry: dict[str, None] = {}
        #: Its routines have time limits.
        self.limited: dict[str, None] = {}
        self._due_ns: dict[str, int] = {}
        self._show_ns: dict[str, int] = {}

    def touch(self, job_id: str) -> None:
        """Something happened to the job."""
        self.touched[job_id] = None
        self.unsettled[job_id] = None

    def take_touched(self) -> list[str]:
        """Whom to look at now."""
        taken = list(self.touched)
        self.touched.clear()
        return taken

    def set_due(self, job_id: str, due_ns: int) -> None:
        """The job wants to know when it is so late; 0: no more."""
        _set(self._due_ns, job_id, due_ns)

    def is_due(self, job_id: str, now_ns: int) -> bool:
        """Whether the time has come that it wants to know of."""
        return 0 < self._due_ns.get(job_id, 0) <= now_ns

    def take_due(self, now_ns: int) -> list[str]:
        """Jobs whose time has come; what is to be shown by now becomes unsettled."""
        for job_id in [job_id for job_id, due_ns in self._show_ns.items() if due_ns <= now_ns]:
            del self._show_ns[job_id]
            self.unsettled[job_id] = None
        return [job_id for job_id, due_ns in self._due_ns.items() if due_ns <= now_ns]

    def show_at(self, job_id: str, due_ns: int) -> None:
        """There is something to show that may wait until then."""
        _set(self._show_ns, job_id, due_ns)

    def times_ns(self) -> Iterator[int]:
        """When somebody has to be looked at though nothing happens."""
        yield from self._due_ns.values()
        yield from self._show_ns.values()

    def forget(self, job_id: str) -> None:
        """The job has left."""
        for jobs in (self.touched, self.unsettled, self.hungry, self.limited, self._due_ns, self._show_ns):
            jobs.pop(job_id, None)


def _set(times_ns: dict[str, int], job_id: str, due_ns: int) -> None:
    if due_ns:
        times_ns[job_id] = due_ns
    else:
        times_ns.pop(job_id, None)
