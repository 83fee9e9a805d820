"""Objects that are passed on without being opened: what a process shows that must not run users' code.

The rule it owns: of a value that holds closed objects as little as possible is hidden. The smallest part of
it that holds all of them becomes one ``Sealed``; everything beside it stays plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class ClosedObject(NamedTuple):
    """Stands for an object while its item is decoded: which one of which pickle."""

    part: int
    number: int


class Sealed:
    """A value that was not opened: signed bytes, good wherever values of documents are."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sealed) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)


class Joined(NamedTuple):
    """A list that was not opened, and what was appended to it since."""

    first: Sealed
    items: list[Any]


def seal(value: Any, close: Callable[[Any], Sealed]) -> Any:
    """*value* with its closed objects sealed; *close* seals one value whole."""
    inside = [place for place, inner in _parts(value) if _has_closed(inner)]
    if len(inside) != 1 or inside[0] is None:
        return close(value)
    [place] = inside
    inner = seal(value[place], close)
    if type(value) is tuple:
        return (*value[:place], inner, *value[place + 1 :])
    value[place] = inner
    return value


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """(place, what is there) of what a container holds; place is None where nothing can be put instead."""
    match value:
        case ClosedObject():
            return
        case dict():
            for key, item in value.items():
                yield None, key
                yield (key if not _has_closed(key) else None), item
        case list() | tuple():
            yield from enumerate(value)
        case set() | frozenset():
            yield from ((None, item) for item in value)


def _has_closed(value: Any) -> bool:
    left = [value]
    while left:
        found = left.pop()
        match found:
            case ClosedObject():
                return True
            case dict():
                left += found.keys()
                left += found.values()
            case list() | tuple() | set() | frozenset():
                left += found
    return False
