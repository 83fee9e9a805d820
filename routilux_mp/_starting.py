"""Where a job starts, and the moment that is given to it before its caller goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core.topology import Topology
from .job_state import JobState
from .status import JobStatus

if TYPE_CHECKING:
    from ._core.view import JobView
    from ._supervisor.compiled import CompiledFlow
    from .runtime import Runtime

#: The slot that ``execute`` activates.
TRIGGER = "trigger"


def entry_of(topology: Topology) -> tuple[str | None, str | None]:
    """Where ``exec`` starts: the first ``trigger``, else the first slot of the first routine that nothing feeds."""
    for routine in topology.routines:
        if TRIGGER in routine.slots:
            return routine.routine_id, TRIGGER
    fed = {connection.target for connection in topology.connections}
    for number, routine in enumerate(topology.routines):
        if number not in fed and routine.slots:
            return routine.routine_id, routine.slots[0]
    return None, None


def start_compiled(
    runtime: Runtime, compiled: CompiledFlow, params: dict[str, Any], timeout_s: float | None
) -> JobState:
    """Start a job of a flow whose code is not in this process, and wait for nothing."""
    state = JobState(compiled.flow_id)
    runtime._submit(compiled, state, *entry_of(compiled.topology), params, timeout_s, None)
    return state


def settle(state: JobState, settle_s: float) -> None:
    """Wait for the entry to be dispatched, then ``settle_s`` at most for the job to end."""
    live = state._live
    if live is not None and settle_s > 0:
        live.handle.wait(_has_begun, None)
        live.handle.wait(lambda view: view.is_terminal, settle_s)


def _has_begun(view: JobView) -> bool:
    """Whether the entry was dispatched (or nothing will be, for now)."""
    if view.is_terminal or view.status == "paused" or view.running or view.activations or view.blocked is not None:
        return True
    return view.entry < 0 or view.history_count > 1


def refused(state: JobState, routine_id: str, reason: str) -> JobState:
    """The state of a job that cannot even start."""
    state.update_routine_state(routine_id, {"status": "failed", "error": reason})
    state.record_execution(routine_id, "error", {"error": reason})
    state.status = JobStatus.FAILED
    return state
