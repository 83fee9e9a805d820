"""An input port of a routine, and the view of it that an activation policy is given.

Queued data is not here: it belongs to a job, and lives in that job's log. A slot only says what
is to be done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ._serialization.callables import describe_callable, resolve_callable
from ._serialization.registry import Serializable, register_serializable

if TYPE_CHECKING:
    from .routine import Routine

#: Why an ``async def`` is refused, when the flow is compiled or, if it hides in another function, when it is called.
ASYNCHRONOUS = (
    "a handler or logic must be an ordinary function or generator, not `async def`. "
    "Run what is asynchronous inside of it: asyncio.run(...)"
)
MergeStrategy = str | Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


@register_serializable
class Slot(Serializable):
    """Made by :meth:`Routine.add_slot`; connected by :meth:`Flow.connect`."""

    def __init__(
        self,
        name: str = "",
        routine: Routine | None = None,
        handler: Callable[..., Any] | None = None,
        merge_strategy: MergeStrategy = "override",
        *,
        max_queue_length: int | None = None,
        watermark: float | None = None,
    ) -> None:
        super().__init__()
        #: Unique among the slots of its routine.
        self.name = name
        #: The routine it belongs to.
        self.routine = routine
        #: Called once per emission (handler style); None in a routine with a logic.
        self.handler = handler
        #: ``"override"``, ``"append"`` or a callable ``(old, new) -> dict``; anything else overrides.
        self.merge_strategy = merge_strategy
        #: Emissions that may wait here before the routines that feed it are held; None: the setting.
        self.max_queue_length = max_queue_length
        #: Accepted for compatibility: no emission is ever dropped, so there is nothing to warn of early.
        self.watermark = watermark

    def serialize(self) -> dict[str, Any]:
        """As JSON-able data, without the routine; the handler by name.

        Raises:
            ValueError: the handler or the merge strategy is a method of another object.
            NotSerializable: it cannot be found by name on another host.
        """
        data: dict[str, Any] = {"_type": type(self).__name__, "name": self.name}
        where = f"Slot '{self.routine._id if self.routine is not None else None}.{self.name}'"
        data["handler"] = describe_callable(self.handler, self.routine, where)
        merge = self.merge_strategy
        data["merge_strategy"] = merge if isinstance(merge, str) else describe_callable(merge, self.routine, where)
        if self.max_queue_length is not None:
            data["max_queue_length"] = self.max_queue_length
        if self.watermark is not None:
            data["watermark"] = self.watermark
        return data

    def _restore(self, data: dict[str, Any]) -> None:
        self.name = data.get("name", self.name)
        where = f"Slot '{self.routine._id if self.routine is not None else None}.{self.name}'"
        self.handler = resolve_callable(data.get("handler"), self.routine, self.handler, where)
        merge = data.get("merge_strategy", "override")
        if isinstance(merge, str):
            self.merge_strategy = merge
        else:
            kept = self.merge_strategy if callable(self.merge_strategy) else None
            self.merge_strategy = resolve_callable(merge, self.routine, kept, where) or "override"
        self.max_queue_length = data.get("max_queue_length", self.max_queue_length)
        self.watermark = data.get("watermark", self.watermark)

    def __repr__(self) -> str:
        owner = self.routine._id if self.routine is not None else None
        return f"Slot[{owner}.{self.name}]" if owner else f"Slot[{self.name}]"


class SlotView:
    """What is waiting in one slot of one job, as an activation policy may look at it and take of it.

    Taking is only noted: it counts when the policy says that the routine is to be activated.
    """

    def __init__(self, name: str, items: Sequence[Any]) -> None:
        self.name = name
        self._items = items
        self._taken = 0

    @property
    def taken_count(self) -> int:
        """How many items, from the oldest on, have been consumed through this view."""
        return self._taken

    def consume_all_new(self) -> list[Any]:
        """Take everything that is new, oldest first."""
        new = list(self._items[self._taken :])
        self._taken = len(self._items)
        return new

    def consume_one_new(self) -> Any | None:
        """Take the oldest new item; None if there is none."""
        if self._taken >= len(self._items):
            return None
        self._taken += 1
        return self._items[self._taken - 1]

    def consume_all(self) -> list[Any]:
        """Take everything; what earlier activations consumed is gone, so this is everything new."""
        return self.consume_all_new()

    def consume_latest_and_mark_all_consumed(self) -> Any | None:
        """Take everything and return only the newest item; None if there is none."""
        new = self.consume_all_new()
        return new[-1] if new else None

    def peek_all_new(self) -> list[Any]:
        """Everything that is new, without taking it."""
        return list(self._items[self._taken :])

    def peek_one_new(self) -> Any | None:
        """The oldest new item without taking it; None if there is none."""
        return self._items[self._taken] if self._taken < len(self._items) else None

    def peek_latest(self) -> Any | None:
        """The newest item without taking it; None if there is none."""
        return self._items[-1] if self._items else None

    def get_unconsumed_count(self) -> int:
        """How many items are new."""
        return len(self._items) - self._taken

    def get_total_count(self) -> int:
        """How many items this view was given, taken ones included."""
        return len(self._items)

    def get_queue_state(self) -> dict[str, int]:
        """The counts, for inspection."""
        return {
            "total_count": len(self._items),
            "unconsumed_count": len(self._items) - self._taken,
            "consumed_count": self._taken,
        }

    def __len__(self) -> int:
        return self.get_unconsumed_count()

    def __repr__(self) -> str:
        return f"SlotView[{self.name}: {self.get_unconsumed_count()} new]"
