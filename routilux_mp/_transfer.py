"""What one job takes over from another: a new run from an ended one, a job from a document.

The rule owned here: a document is checked against the flow before anything is begun.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._core.batch import Batch
from ._core.job import Group, Job
from ._core.stimuli import Annotate, Edit, StateOp
from ._core.topology import Topology
from ._documents import ENGINE, ENGINE_OMITTED, TASKS_AS_WRITTEN, task_digests
from ._history import Timestamp
from ._serialization.json_values import to_json
from ._serialization.signing import Signer
from ._state_values import HIDDEN, Values
from .errors import CheckpointDamaged, DefinitionError, UnknownName, UsageError

if TYPE_CHECKING:
    from ._documents import Document
    from ._supervisor.compiled import CompiledFlow, Edits
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
    if ENGINE_OMITTED in document.unknown:
        raise CheckpointDamaged(
            f"the document of job {document.job_id} is a summary: {document.unknown[ENGINE_OMITTED]:,} bytes of queued "
            f"data were too much for it. Resume the job from its whole directory, or from what `JobState.save` wrote"
        )
    if text is None:
        return _begin_anew(supervisor, compiled, state)
    from ._supervisor.adoption import Adoption, adopt
    from ._supervisor.beginning import pack_metadata

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
    return job_of(supervisor, document).updated_ns < found_ns


def job_of(supervisor: Supervisor, document: Document) -> Job:
    """The job that a document of this package tells of, as it was then.

    Raises:
        CheckpointDamaged: it does not tell of it what it should.
    """
    from ._supervisor.cut import read_engine

    return read_engine(engine_of(document), document.job_id, supervisor.settings, 0)[0]


def edits_of(document: Document, values: Values) -> Edits:
    """What was changed in the document, to be done to the job that it tells of."""
    edits, tasks = list(document.edits), _changed_tasks(document)

    def stimuli(job: Job) -> list[Annotate | Edit]:
        ops = [op for method, arguments in edits for op in _ops_of(method, arguments, values, job)]
        found: list[Annotate | Edit] = [Annotate(tuple(ops))] if ops else []
        return [*found, _edit_of(tasks, values, job)] if tasks else found

    return stimuli


def _changed_tasks(document: Document) -> list[tuple[dict[str, Any], bool, bool]]:
    """Pending tasks that are not as they were written: (task, whether its input is another, whether its time is)."""
    written = document.unknown.get(TASKS_AS_WRITTEN)
    if not isinstance(written, dict):
        return []
    changed = []
    for task in document.pending_tasks:
        if "routine_id" not in task or "data" not in task:
            raise DefinitionError(f"a pending task of job {document.job_id!r} lacks 'routine_id' or 'data': {task!r}")
        activation_id = task.get("activation_id")
        if activation_id is not None and activation_id not in written:
            raise DefinitionError(
                f"JobState {document.job_id!r}: there was no pending task {activation_id!r}; one that is new has none"
            )
        before = written.get(activation_id, [None, None])
        as_json = {**task, "data": to_json(task["data"], None, "JobState pending_tasks")}
        now = task_digests(as_json)
        if now != before:
            changed.append((task, now[0] != before[0], now[1] != before[1]))
    return changed


def _edit_of(tasks: list[tuple[dict[str, Any], bool, bool]], values: Values, job: Job) -> Edit:
    inputs, posts, priorities, due_now = [], [], [], []
    for task, has_other_input, has_other_time in tasks:
        check_task(job.topology, task)
        number, priority = job.topology.index_of(task["routine_id"]), task.get("priority") or 0
        assert number is not None
        if type(priority) is not int:
            raise DefinitionError(f"the priority of a pending task is a whole number, got {priority!r}")
        activation_id = task.get("activation_id")
        if activation_id is None:
            slots = job.topology.routines[number].slots
            for slot, data in inputs_of(task):
                batch = values.encode_input(_checked_input(data), task["routine_id"], slot)
                posts.append((number, slots.index(slot), batch, priority))
            continue
        seq = int(str(activation_id).rpartition("/")[2])
        other = _input_of(task, values, job, number, seq) if has_other_input else None
        if other is not None:
            inputs.append((number, seq, other))
        if priority:
            priorities.append((number, seq, priority))
        if has_other_time and task.get("not_before") is None:
            due_now.append((number, seq))
    return Edit(tuple(inputs), tuple(posts), tuple(priorities), tuple(due_now))


def _input_of(task: Mapping[str, Any], values: Values, job: Job, number: int, seq: int) -> Batch | None:
    """The changed input, as if it had come the same way; None when the activation has run meanwhile."""
    routine = job.routines[number]
    queued = [*(special.item for special in routine.special.values()), *routine.ready]
    item = next((one for one in queued if one.seq <= seq < one.seq + one.count), None)
    if item is None:
        return None
    if isinstance(item, Group):
        raise UsageError(
            f"the input of activation '{task['activation_id']}' was put together by the policy of its routine and "
            f"cannot be changed; add a task without 'activation_id' to a slot instead"
        )
    data, spec = _checked_input(task["data"]), job.topology.routines[number]
    if item.connection < 0:
        return values.encode_input(data, spec.routine_id, spec.slots[item.slot])
    connection = job.topology.connections[item.connection]
    source = job.topology.routines[connection.source]
    return Batch(1, values.encode_emission(data, source.routine_id, source.events[connection.event]))


def _checked_input(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise DefinitionError(f"the data of a pending task is a dictionary, got {data!r}")
    return data


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
