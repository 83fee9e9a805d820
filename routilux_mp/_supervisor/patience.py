"""How long a caller waits for a disk that takes nothing, and what it is told then.

The rule it owns: what was asked for is kept and goes to the disk with the job, whether its caller waits or not;
nobody is made to wait for it for ever, and nobody is led to ask twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .._core.view import JobView
from ..errors import StorageBlocked

if TYPE_CHECKING:
    from .handle import JobHandle
    from .live import LiveJob
    from .supervisor import Supervisor

#: A caller waits so long for a job that is blocked: as for the answer of another process (``remote.ask``).
BLOCKED_S = 10.0


def wait_until_durable(handle: JobHandle, stands: Callable[[JobView], bool], *, is_kept: bool = True) -> None:
    """Wait for the view that shows it, however slow the disk is. ``is_kept``: what was asked for is, till it stands.

    Raises:
        StorageBlocked: the job has been blocked for :data:`BLOCKED_S` while this waited.
        Fenced, OutcomeUnknown, BackendError: the job was given up before.
    """
    while True:
        handle.wait(lambda v: stands(v) or v.blocked is not None)
        if stands(handle.view):
            return
        handle.wait(lambda v: stands(v) or v.blocked is None, BLOCKED_S)
        blocked = handle.view.blocked
        if blocked is not None and not stands(handle.view):
            if not is_kept:
                raise StorageBlocked(
                    f"job {handle.job_id} has ended, and nothing was done; but its end is not on the disk yet, which "
                    f"has taken nothing for {BLOCKED_S:.0f} s: {blocked[0]}. Ask again when `JobState.blocked` is None"
                )
            raise StorageBlocked(
                f"job {handle.job_id}: it has been told, but that is not on the disk yet, which has taken nothing for "
                f"{BLOCKED_S:.0f} s: {blocked[0]}. It is kept in this process and holds as soon as it can be written "
                "(`JobState.blocked` is None then), so do not ask for it again; if this process ends before, it is lost"
            )


def settle(handle: JobHandle, live: LiveJob, supervisor: Supervisor) -> None:
    """Wait until what the job was told so far is durable. Raises: as :func:`wait_until_durable`."""

    def shown() -> int:
        supervisor.loop.show(live)
        return live.version + 1

    if supervisor.may_wait and not live.is_finished:
        version = supervisor.look(shown)
        wait_until_durable(handle, lambda v: v.version >= version or v.is_terminal)
