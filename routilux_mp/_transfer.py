"""What one job takes over from another: a new run from an ended one, a job from a document.

The rule owned here: a document is checked against the flow before anything is begun.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._core.job import Job
from ._core.stimuli import StateOp
from ._core.topology import Topology
from ._documents import ENGINE
from ._history import Timestamp
from ._serialization.signing import Signer
from ._state_values import HIDDEN, Values
from .errors import CheckpointDamaged, UnknownName

if TYPE_CHECKING:
    from ._documents import Document
    from ._supervisor.compiled import CompiledFlow
    from ._supervisor.handle import JobHandle
    from ._supervisor.supervisor import Supervisor
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


def import_job(supervisor: Supervisor, compiled: CompiledFlow, state: JobState, document: Document) -> JobHandle:
    """Go on with a job that only a document tells of.

    One that this package made holds everything. Of any other its state and its pending tasks are used.
    """
    text = document.unknown.get(ENGINE)
    if text is None:
        return _begin_anew(supervisor, compiled, state)
    from ._supervisor.adoption import Adoption, adopt
    from ._supervisor.entering import pack_metadata

    values = Values(document.job_id, supervisor.signer)
    own_entries = sum(method == "log" for method, _ in document.edits)
    past: dict[str, list[Any]] = {
        "history": [(r.routine_id, r.event_name, r.data, r.timestamp.nanoseconds) for r in document.execution_history],
        "log": document.shared_log[: len(document.shared_log) - own_entries],
        "outputs": [
            (o["routine_id"], o["output_type"], o["data"], Timestamp.of(o["timestamp"]).nanoseconds)
            for o in document.output_log
        ],
    }
    adoption = Adoption(
        document.job_id, engine_of(document), past, pack_metadata(document.metadata), edits_of(document, values)
    )
    return adopt(supervisor, compiled, adoption)


def engine_of(document: Document) -> bytes:
    """What is needed to go on, as the document carries it.

    Raises:
        CheckpointDamaged: it is no text of it.
    """
    try:
        return base64.b64decode(document.unknown[ENGINE], validate=True)
    except (TypeError, ValueError) as error:
        raise CheckpointDamaged(f"the document of job {document.job_id} is damaged: {error}") from None


def is_older(supervisor: Supervisor, document: Document, found_ns: int) -> bool:
    """Whether the log that was found here goes on after the document was made."""
    if document.unknown.get(ENGINE) is None or not found_ns:
        return False
    from ._supervisor.cut import read_engine

    _, updated_ns = read_engine(engine_of(document), document.job_id, supervisor.settings, 0)
    return updated_ns < found_ns


def edits_of(document: Document, values: Values) -> Callable[[Job], list[StateOp]]:
    """What was changed in the document, to be done to the job that it tells of."""
    edits = list(document.edits)

    def ops(job: Job) -> list[StateOp]:
        return [op for method, arguments in edits for op in _ops_of(method, arguments, values, job)]

    return ops


def _ops_of(method: str, arguments: tuple[Any, ...], values: Values, job: Job) -> list[StateOp]:
    match method, arguments:
        case "put_routine_state", (rid, state):
            gone = [k for k in job.state.get(rid, {}) if k not in state and not k.startswith(HIDDEN)]
            deletes = [StateOp("delete", rid, key) for key in gone]
            return deletes + [StateOp("set", rid, key, values.encode(value, rid, key)) for key, value in state.items()]
        case "drop_routine_state", (rid,):
            return [StateOp("delete", rid, key) for key in job.state.get(rid, {}) if not key.startswith(HIDDEN)]
        case "put_shared", (key, value):
            return [StateOp("set", "", key, values.encode(value, "", key))]
        case "drop_shared", (key,):
            return [StateOp("delete", "", key)]
        case "increment", (key, by):
            return [StateOp("increment", "", key, by)]
        case "append", (key, item):
            return [StateOp("append", "", key, values.encode_bytes(item, "", key))]
        case "log", (entry,):
            return [StateOp("log", "", "", values.encode_log(entry))]
        case "defer", (rid, event, data):
            number = job.topology.index_of(rid)
            if number is None or event not in job.topology.routines[number].events:
                raise UnknownName(f"Event '{event}' not found in routine '{rid}'")
            return [StateOp("defer", rid, event, values.encode_emission(data, rid, event))]
    raise AssertionError(f"no edit {method}")


def _begin_anew(supervisor: Supervisor, compiled: CompiledFlow, state: JobState) -> JobHandle:
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
