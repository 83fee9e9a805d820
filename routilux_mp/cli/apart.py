"""A flow, taken from what a person typed by a process of its own: its code is imported there and not here.

The process that owns jobs runs nobody's code but the engine's, so that an import that hangs, crashes or holds the
interpreter lock cannot cost it its jobs. What comes back is plain data, and the code as a bundle that is not opened.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, NamedTuple

from .._compile import compile_flow
from .._core.topology import Topology
from .._serialization.packing import pack, unpack
from .._supervisor.compiled import CompiledFlow, ShippedCode
from ..backends._spawn import spawn_python
from ..errors import DefinitionError, NotShippable
from ..flow import Flow
from ..settings import Settings
from .target import TargetError, load_flow


class LoadedApart(NamedTuple):
    """A flow as the other process found it."""

    compiled: CompiledFlow
    timeout_s: float | None


def load_apart(target: str) -> LoadedApart:
    """The flow that ``target`` names, compiled and packed.

    Raises:
        TargetError: it names none, or the process that loaded it ended before it had.
        DefinitionError, NotShippable: the flow cannot be run, and why.
    """
    answer = _ask("load", target)
    topology, code = Topology.from_plain(answer["topology"]), ShippedCode(*answer["code"])
    compiled = CompiledFlow(topology, {}, answer["document"], topology.flow_id, answer["workers"], code)
    return LoadedApart(compiled, answer["timeout_s"])


def plan_apart(target: str) -> tuple[list[str], list[str]]:
    """(the flow in lines, what is wrong with it); raises as :func:`load_apart` does."""
    answer = _ask("plan", target)
    return list(answer["lines"]), list(answer["problems"])


def _ask(question: str, target: str) -> dict[str, Any]:
    reader, writer = os.pipe()
    statement = (
        f"sys.argv[:] = {sys.argv!r}; "
        f"__import__('routilux_mp.cli.apart', fromlist=['answer']).answer({writer}, {question!r}, {target!r})"
    )
    try:
        pid = spawn_python(statement, [writer])
    except OSError as error:
        os.close(reader)
        raise TargetError(f"'{target}': the process that is to load it cannot be started: {error}") from error
    finally:
        os.close(writer)
    try:
        with os.fdopen(reader, "rb") as file:
            data = file.read()
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        answer = unpack(data)
    except ValueError:
        how = f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"
        raise TargetError(f"'{target}' could not be loaded: the process that imported it {how}") from None
    if "error" in answer:
        kind = {cls.__name__: cls for cls in (TargetError, NotShippable)}.get(answer["kind"], DefinitionError)
        raise kind(answer["error"])
    return answer  # type: ignore[no-any-return]


def answer(writer: int, question: str, target: str) -> None:
    """In the other process: load the flow and tell what there is to know of it."""
    try:
        flow = load_flow(target)
        told = _plan(flow) if question == "plan" else _shipped(flow)
    except DefinitionError as error:
        told = {"error": str(error), "kind": type(error).__name__}
    except Exception as error:  # the user's module may raise anything; it is theirs to see whole
        traceback.print_exc()
        told = {"error": f"'{target}' cannot be imported: {type(error).__name__}: {error}", "kind": "TargetError"}
    with os.fdopen(writer, "wb") as file:
        file.write(pack(told))


def _shipped(flow: Flow) -> dict[str, Any]:
    from .._serialization.code import pack_code
    from .._serialization.sources import pack_sources
    from .._supervisor.recovery import environment

    compiled = compile_flow(flow, Settings.load(), "concurrent")
    bundle = pack_code(compiled.routines, main=sys.modules["__main__"])
    return {
        "topology": compiled.topology.to_plain(),
        "document": compiled.flow_doc,
        "workers": compiled.max_workers,
        "timeout_s": flow.execution_timeout,
        "code": (bundle.digest, bundle.data, environment(), pack_sources(compiled.routines)),
    }


def _plan(flow: Flow) -> dict[str, Any]:
    lines = [f"flow {flow.flow_id}"]
    for routine_id, routine in flow.routines.items():
        slots = ", ".join(routine._slots) or "-"
        events = ", ".join(routine._events) or "-"
        lines.append(f"  {routine_id}  ({type(routine).__name__})  slots: {slots}  events: {events}")
    lines += [f"  {connection}" for connection in flow.connections]
    return {"lines": lines, "problems": flow.validate()}
