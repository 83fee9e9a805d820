"""Parts of a job's state as dictionaries.

The rule owned here: what is handed out is a copy, and writing to it is a command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class WriteThrough(dict[str, Any]):
    """A copy of some of a job's state. Setting, updating and deleting items changes the job too."""

    def __init__(
        self, content: Mapping[str, Any], write: Callable[[str, Any], None], delete: Callable[[str], None]
    ) -> None:
        super().__init__(content)
        self._write = write
        self._delete = delete

    def is_of(self, other: WriteThrough) -> bool:
        """Whether both write to the same place."""
        return self._write == other._write

    def __setitem__(self, key: str, value: Any) -> None:
        self._write(key, value)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._delete(key)
        super().__delitem__(key)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> WriteThrough:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        if key not in self:
            return super().pop(key, *default)
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        for key in list(self):
            del self[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (dict(self),))


def replace_all(target: WriteThrough, content: Mapping[str, Any]) -> None:
    """Make ``target`` have exactly this content."""
    if isinstance(content, WriteThrough) and content.is_of(target):
        return  # ``x.shared_data |= …`` has written it already
    for key in target.keys() - content.keys():
        del target[key]
    target.update(content)
