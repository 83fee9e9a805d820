"""From a flow of objects to plain data: what the core routes by, and what is shipped to workers.

Everything that can be wrong with a flow is found here, before anything is changed, started or
written. Nothing is executed here, and the flow itself is not changed (its routines get two private
attributes that their workers need).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ._core.topology import ConnectionSpec, ErrorSpec, PolicySpec, RoutineSpec, Topology
from ._supervisor.compiled import CompiledFlow, unportable
from .connection import Connection
from .error_handler import ErrorHandler
from .errors import DefinitionError, NotSerializable
from .routine import Routine
from .settings import Settings
from .slot import ASYNCHRONOUS

#: ``inspect.CO_COROUTINE`` and ``CO_ASYNC_GENERATOR``; that module takes milliseconds to import.
_IS_ASYNCHRONOUS = 0x80 | 0x200
STRATEGIES = ("concurrent", "sequential")


class RoutineOptions(NamedTuple):
    """How a routine is to be run in a flow; what ``add_routine`` was told besides the routine."""

    workers: int = 1  # 0: as many as the backlog asks for
    is_ordered: bool = False
    timeout_s: float | None = None

    @classmethod
    def checked(cls, rid: str, workers: int | str, ordered: bool, timeout_s: float | None) -> RoutineOptions:
        """The options, if they are possible.

        Raises:
            DefinitionError: which one is not, and what it may be.
        """
        count = 0 if workers == "auto" else workers
        if type(count) is not int or count < 0 or (count == 0 and workers != "auto"):
            raise DefinitionError(
                f"Routine '{rid}': workers must be a whole number of at least 1 or 'auto', got {workers!r}"
            )
        if timeout_s is not None and not timeout_s > 0:
            raise DefinitionError(f"Routine '{rid}': timeout_s must be above 0, got {timeout_s!r}")
        return cls(count, bool(ordered), timeout_s)


class FlowLike(Protocol):
    """What compiling needs to know of a flow."""

    flow_id: str
    routines: dict[str, Routine]
    connections: list[Connection]
    execution_strategy: str
    max_workers: int | None

    @property
    def error_handler(self) -> ErrorHandler | None: ...
    def options_of(self, routine_id: str) -> RoutineOptions: ...
    def serialize(self) -> dict[str, Any]: ...


def compile_flow(flow: FlowLike, settings: Settings, strategy: str | None = None) -> CompiledFlow:
    """Check a flow and turn it into plain data.

    Args:
        flow: the definition.
        settings: limits that the flow leaves open.
        strategy: instead of the flow's own: ``"concurrent"`` or ``"sequential"``.

    Raises:
        DefinitionError: the flow cannot run, naming what is wrong and the cure.
    """
    if not flow.routines:
        raise DefinitionError(f"Flow '{flow.flow_id}' has no routines; add one with flow.add_routine(routine, 'name')")
    strategy = check_strategy(strategy or flow.execution_strategy)
    numbers = {routine_id: number for number, routine_id in enumerate(flow.routines)}
    specs = [_routine_spec(flow, rid, routine, settings) for rid, routine in flow.routines.items()]
    connections = tuple(_connection_spec(i, c, numbers, specs) for i, c in enumerate(flow.connections))
    topology = Topology(flow.flow_id, strategy, tuple(specs), connections)
    _check_cycles(topology)
    _prepare(flow, topology)
    document = json.dumps(_document(flow, topology)).encode()
    return CompiledFlow(topology, dict(flow.routines), document, flow.flow_id, flow.max_workers or 0)


def problems_of(flow: FlowLike) -> list[str]:
    """Everything that is wrong or looks wrong with a flow, as sentences; empty when it is fine."""
    found: list[str] = []
    try:
        compile_flow(flow, Settings())
    except DefinitionError as error:
        found.append(str(error))
    fed = {(c.target_id, c.target_slot.name) for c in flow.connections if c.target_slot is not None}
    for rid, routine in flow.routines.items():
        for name, slot in routine._slots.items():
            if routine._logic is None and slot.handler is None:
                found.append(f"Slot '{rid}.{name}' has no handler and routine '{rid}' no logic: its data has no effect")
            if (rid, name) not in fed and any(target == rid for target, _ in fed):
                found.append(f"Slot '{rid}.{name}' is not connected")
    return found


def check_strategy(strategy: str) -> str:
    """The strategy, if there is such a one."""
    if strategy not in STRATEGIES:
        raise DefinitionError(f"execution_strategy must be 'concurrent' or 'sequential', got {strategy!r}")
    return strategy


def _routine_spec(flow: FlowLike, rid: str, routine: Routine, settings: Settings) -> RoutineSpec:
    with_handler = [name for name, slot in routine._slots.items() if slot.handler is not None]
    if routine._logic is not None and with_handler:
        raise DefinitionError(
            f"Routine '{rid}' ({type(routine).__name__}) has a logic and a handler on slot '{with_handler[0]}'; "
            f"use set_logic, or handlers on slots, not both"
        )
    if routine._activation_policy is not None and routine._logic is None:
        raise DefinitionError(
            f"Routine '{rid}' ({type(routine).__name__}) has an activation policy but no logic for it to activate; "
            f"call set_logic"
        )
    for function in (routine._logic, *(slot.handler for slot in routine._slots.values())):
        if getattr(getattr(function, "__code__", None), "co_flags", 0) & _IS_ASYNCHRONOUS:
            raise DefinitionError(f"Routine '{rid}' ({type(routine).__name__}): {ASYNCHRONOUS}")
    options = flow.options_of(rid)
    limits = [slot.max_queue_length for slot in routine._slots.values() if slot.max_queue_length is not None]
    policy = routine._activation_policy.spec if routine._activation_policy is not None else PolicySpec()
    return RoutineSpec(
        routine_id=rid,
        class_name=type(routine).__name__,
        slots=tuple(routine._slots),
        events=tuple(routine._events),
        style="handler" if routine._logic is None else "logic",
        policy=policy,
        workers=options.workers,
        is_ordered=options.is_ordered,
        timeout_s=options.timeout_s,
        error=_error_spec(routine, flow),
        queue_max=min(limits, default=settings.slot_queue_max),
    )


def _error_spec(routine: Routine, flow: FlowLike) -> ErrorSpec | None:
    handler = routine._error_handler or flow.error_handler
    return None if handler is None else handler.spec()


def _connection_spec(
    number: int, connection: Connection, numbers: Mapping[str, int], specs: Sequence[RoutineSpec]
) -> ConnectionSpec:
    event, slot = connection.source_event, connection.target_slot
    source, target = connection.source_id, connection.target_id
    if event is None or slot is None or source is None or target is None or not {source, target} <= numbers.keys():
        raise DefinitionError(f"Connection {number} ({connection!r}) does not join two routines of this flow")
    source_number, target_number = numbers[source], numbers[target]
    if event.name not in specs[source_number].events:
        raise DefinitionError(f"Connection {number}: Event '{event.name}' not found in routine '{source}'")
    if slot.name not in specs[target_number].slots:
        raise DefinitionError(f"Connection {number}: Slot '{slot.name}' not found in routine '{target}'")
    return ConnectionSpec(
        source_number,
        specs[source_number].events.index(event.name),
        target_number,
        specs[target_number].slots.index(slot.name),
    )


def _check_cycles(topology: Topology) -> None:
    for number, routine in enumerate(topology.routines):
        if routine.policy.kind == "upstream_done" and number in topology.upstream[number]:
            others = sorted(
                topology.routines[r].routine_id
                for r in topology.upstream[number]
                if r != number and number in topology.upstream[r] and r in topology.upstream[r]
            )
            through = f" (through {', '.join(repr(o) for o in others)})" if others else ""
            raise DefinitionError(
                f"Routine '{routine.routine_id}' uses upstream_done_policy but is on a cycle{through}: what it emits "
                f"comes back to it, so its upstream is never done. Take it off the cycle or use another policy"
            )


def _prepare(flow: FlowLike, topology: Topology) -> None:
    """Give each routine what its workers must know of the flow around it."""
    for number, routine in enumerate(flow.routines.values()):
        routine._incoming = {
            index: dict(flow.connections[index].param_mapping) or None
            for index, spec in enumerate(topology.connections)
            if spec.target == number
        }
        routine._effective_error_handler = routine._error_handler or flow.error_handler


def _document(flow: FlowLike, topology: Topology) -> dict[str, Any]:
    """The flow as ``flow.json`` shows it; one that only this code can run says so."""
    try:
        return flow.serialize()
    except NotSerializable as error:
        return unportable(topology, str(error))
