"""What the supervisor is given of a flow. By itself, so that whoever compiles one need not import the engine."""

# Annotations are not postponed here: of a NamedTuple each one that is text is compiled, at every start.
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .._core.topology import Topology

if TYPE_CHECKING:
    from .._core.job import Job
    from .._core.stimuli import Annotate, Edit

#: What the caller changed in a document, as stimuli of the job that it tells of.
Edits: TypeAlias = "Callable[[Job], Sequence[Annotate | Edit]]"


def unportable(topology: Topology, why: str) -> dict[str, Any]:
    """What flow.json says of a flow that cannot be rebuilt from it."""
    return {
        "_type": "Flow", "flow_id": topology.flow_id, "portable": False, "why": why, "topology": topology.to_plain()
    }  # fmt: skip


class ShippedCode(NamedTuple):
    """The code of a flow that another process has packed."""

    code_id: str
    bundle: bytes
    environment: Mapping[str, Any]
    sources: bytes


class CompiledFlow(NamedTuple):
    """A flow, ready to run."""

    topology: Topology
    routines: Mapping[str, Any]
    flow_doc: bytes
    flow_id: str
    max_workers: int = 0  # the flow's own bound on worker processes; 0: the runtime's
    code: ShippedCode | None = None  # then there are no routines: they were never here
