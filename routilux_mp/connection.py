"""A connection: emissions of one event go to one slot, perhaps under other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._serialization.registry import Serializable, register_serializable
from .errors import DefinitionError
from .event import Event
from .slot import Slot


@register_serializable
class Connection(Serializable):
    """Made by :meth:`Flow.connect`. An event may feed many slots, a slot be fed by many events."""

    def __init__(
        self,
        source_event: Event | None = None,
        target_slot: Slot | None = None,
        param_mapping: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.source_event = source_event
        self.target_slot = target_slot
        #: ``{event_param: slot_param}``; other keys keep their names unless they collide.
        self.param_mapping: dict[str, str] = _checked(param_mapping)

    @property
    def source_id(self) -> str | None:
        """Id of the routine that emits."""
        return _owner_id(self.source_event)

    @property
    def target_id(self) -> str | None:
        """Id of the routine that is activated."""
        return _owner_id(self.target_slot)

    def serialize(self) -> dict[str, Any]:
        """As JSON-able data: both ends by routine id and name."""
        return {
            "_type": type(self).__name__,
            "source_routine_id": self.source_id,
            "source_event_name": self.source_event.name if self.source_event is not None else None,
            "target_routine_id": self.target_id,
            "target_slot_name": self.target_slot.name if self.target_slot is not None else None,
            "param_mapping": dict(self.param_mapping),
        }

    def _restore(self, data: dict[str, Any]) -> None:
        # The ends are objects of a flow: Flow.deserialize looks them up.
        self.param_mapping = _checked(data.get("param_mapping"))

    def __repr__(self) -> str:
        return f"Connection[{self.source_event!r} -> {self.target_slot!r}]"


def map_params(data: dict[str, Any], mapping: Mapping[str, str] | None) -> dict[str, Any]:
    """``data`` under the slot's names: mapped keys renamed, the others kept unless they collide."""
    if not mapping:
        return data
    mapped = {mapping[key]: value for key, value in data.items() if key in mapping}
    return {**{key: value for key, value in data.items() if key not in mapping and key not in mapped}, **mapped}


def _owner_id(port: Event | Slot | None) -> str | None:
    return port.routine._id if port is not None and port.routine is not None else None


def _checked(mapping: Mapping[str, str] | None) -> dict[str, str]:
    checked: dict[Any, Any] = dict(mapping or {})
    for source, target in checked.items():
        if not (isinstance(source, str) and isinstance(target, str)):
            raise DefinitionError(f"param_mapping maps names to names, got {source!r}: {target!r}")
    if len(set(checked.values())) < len(checked):
        raise DefinitionError(f"param_mapping gives two parameters the same name: {checked!r}")
    return checked
