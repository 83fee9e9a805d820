"""What one job takes over from another: a new run from an ended one, a job from a document.

The rule owned here: a document is checked against the flow before anything is begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._core.stimuli import StateOp
from ._core.topology import Topology
from ._serialization.signing import Signer
from ._state_values import Values
from .errors import UnknownName

if TYPE_CHECKING:
    from ._supervisor.handle import JobHandle
    from ._supervisor.supervisor import CompiledFlow, Supervisor
    from .job_state import JobState

#: Keys that the framework writes into routine states; a new run writes its own.
_FRAMEWORK_KEYS = frozenset({"status", "error", "error_type", "error_time"})


def state_ops(state: JobState, job_id: str, signer: Signer) -> list[StateOp]:
    """What makes a new job start with the state of ``state``."""
    values = Values(job_id, signer)
    scopes = {rid: content for rid, content in state.routine_states.items() if rid != "_cancellation"}
    ops = [
        StateOp("set", rid, key, values.encode(value, rid, key))
        for rid, content in scopes.items()
        for key, value in content.items()
        if key not in _FRAMEWORK_KEYS
    ]
    ops += [StateOp("set", "", key, values.encode(value, "", key)) for key, value in state.shared_data.items()]
    ops += [StateOp("log", "", "", values.encode_log(entry)) for entry in state.shared_log]
    return ops


def import_job(supervisor: Supervisor, compiled: CompiledFlow, state: JobState) -> JobHandle:
    """Begin a job that only a document tells of: its state, and what it had still to do."""
    tasks = state.pending_tasks
    for task in tasks:
        check_task(compiled.topology, task)
    handle = supervisor.submit(
        compiled,
        entry=None,
        slot=None,
        params=None,
        metadata=dict(state.metadata),
        job_id=state.job_id,
        initial=state_ops(state, state.job_id, supervisor.signer),
    )
    for task in tasks:
        for slot, data in inputs_of(task):
            handle.post(task["routine_id"], slot, data)
    handle.close_input()
    return handle


def check_task(topology: Topology, task: Mapping[str, Any]) -> None:
    number = topology.index_of(task["routine_id"])
    if number is None:
        raise UnknownName(f"Routine '{task['routine_id']}' not found in flow '{topology.flow_id}'")
    for slot, _ in inputs_of(task):
        if slot not in topology.routines[number].slots:
            raise UnknownName(f"Slot '{slot}' not found in routine '{task['routine_id']}'")


def inputs_of(task: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(slot, data) of every emission that a pending activation consists of."""
    if task.get("slot_name") is not None:
        return [(task["slot_name"], task["data"])]
    return [(slot, item) for slot, items in task["data"].items() for item in items]


def entry_params_of(state: JobState) -> dict[str, Any]:
    """What the job was started with: its first record says so."""
    first = next((r for r in state.execution_history if r.event_name == "start"), None)
    return {} if first is None else dict(first.data)
