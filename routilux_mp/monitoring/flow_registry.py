"""Flows by name, for ``Runtime.exec``. Holds definitions only; it knows nothing of jobs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from ..errors import DefinitionError

if TYPE_CHECKING:
    from ..flow import Flow


class FlowRegistry:
    """A registry of flows; ``get_instance()`` is the one that runtimes look into."""

    _instance: ClassVar[FlowRegistry | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._by_id: dict[str, Flow] = {}
        self._by_name: dict[str, Flow] = {}
        self._lock = threading.Lock()

    @classmethod
    def get_instance(cls) -> FlowRegistry:
        """The process's registry."""
        with cls._instance_lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    def register(self, flow: Flow) -> None:
        """Make a flow known under its own id."""
        with self._lock:
            self._by_id[flow.flow_id] = flow

    def register_by_name(self, name: str, flow: Flow) -> None:
        """Make a flow known under a name and its own id. Registering again replaces.

        Raises:
            ValueError: no name.
        """
        if not name:
            raise DefinitionError(f"a flow is registered under a non-empty name, got {name!r}")
        with self._lock:
            self._by_name[name] = flow
            self._by_id[flow.flow_id] = flow

    def unregister_by_name(self, name: str) -> bool:
        """Forget a name, and the flow's id unless another name leads to it; False if it was not known."""
        with self._lock:
            flow = self._by_name.pop(name, None)
            if flow is not None and flow not in self._by_name.values():
                self._by_id.pop(flow.flow_id, None)
            return flow is not None

    def get(self, flow_id: str) -> Flow | None:
        """The flow of an id, or None."""
        return self._by_id.get(flow_id)

    def get_by_name(self, name: str) -> Flow | None:
        """The flow of a registered name, or None."""
        return self._by_name.get(name)

    def find(self, name_or_id: str) -> Flow | None:
        """The flow of a registered name, else of an id, else None."""
        return self._by_name.get(name_or_id) or self._by_id.get(name_or_id)

    def list_all(self) -> list[Flow]:
        """Every registered flow, once."""
        with self._lock:
            return list({id(flow): flow for flow in (*self._by_id.values(), *self._by_name.values())}.values())

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._by_id.clear()
            self._by_name.clear()
