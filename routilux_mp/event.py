"""An output port of a routine. An event is only that: what is sent through it is an *emission*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._serialization.registry import Serializable, register_serializable
from .errors import UsageError

if TYPE_CHECKING:
    from .routine import Routine


@register_serializable
class Event(Serializable):
    """Made by :meth:`Routine.add_event`; connected by :meth:`Flow.connect`."""

    def __init__(
        self, name: str = "", routine: Routine | None = None, output_params: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        #: Unique among the events of its routine.
        self.name = name
        #: The routine it belongs to.
        self.routine = routine
        #: Names that are usually emitted; documentation, not a check (the seeds emit others too).
        self.output_params: list[str] = list(output_params or [])

    def emit(self, *args: Any, **kwargs: Any) -> None:
        """The same as ``routine.emit(event.name, …)``."""
        if self.routine is None:
            raise UsageError(f"Event '{self.name}' belongs to no routine; make it with routine.add_event")
        self.routine.emit(self.name, *args, **kwargs)

    def serialize(self) -> dict[str, Any]:
        """As JSON-able data, without the routine."""
        return {"_type": type(self).__name__, "name": self.name, "output_params": list(self.output_params)}

    def _restore(self, data: dict[str, Any]) -> None:
        self.name = data.get("name", self.name)
        self.output_params = list(data.get("output_params") or [])

    def __repr__(self) -> str:
        owner = self.routine._id if self.routine is not None else None
        return f"Event[{owner}.{self.name}]" if owner else f"Event[{self.name}]"
