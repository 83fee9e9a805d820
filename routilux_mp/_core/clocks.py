"""Times that another host's clock told: what they mean to whoever goes on with the job.

Clocks of two hosts differ by any amount, and a due time is worth only as much as the clock that made it.
The rule owned here: nothing waits longer than it was to wait when that was recorded, and a limit of time
does not run while nobody runs the job.
"""

from __future__ import annotations

from .job import Job

#: A resumed job runs at least this long, even with nothing left to do (spec/api-details, "Pausing and resuming").
RESUMED_FOR_NS = 100_000_000


def take_over(job: Job, now_ns: int) -> None:
    """Make the times of a job that was read from its log those of this host; to be called once, before it goes on."""

    def sooner(due_ns: int, since_ns: int) -> int:
        return min(due_ns, now_ns + max(0, due_ns - since_ns)) if due_ns else 0

    for routine in job.routines:
        routine.last_taken_ns = min(routine.last_taken_ns, now_ns)
        routine.ask_due_ns, routine.ask_since_ns = sooner(routine.ask_due_ns, routine.ask_since_ns), now_ns
        for seq, special in routine.special.items():
            due_ns = sooner(special.due_ns, special.since_ns)
            routine.special[seq] = special._replace(due_ns=due_ns, since_ns=now_ns if due_ns else 0)
    job.ends_after_ns = min(job.ends_after_ns, now_ns + RESUMED_FOR_NS)
    if job.fails_at_ns and job.status == "running":  # else ``Resumed`` gives it what was left when it was paused
        left_ns = max(0, job.fails_at_ns - job.updated_ns)
        job.fails_at_ns = now_ns + min(left_ns, job.limit_ns)
        job.is_postponed = True
