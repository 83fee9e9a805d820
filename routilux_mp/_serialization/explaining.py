"""What stands in the way of shipping a flow, said in the user's words: which routine, which attribute or global."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import NotShippable
from . import limits
from .paths import deepest_failure, parts, path_to

log = logging.getLogger(__name__)

#: Says what stands at a path, and of which type it is.
Label = Callable[[str, str], str]


class Weighed(NamedTuple):
    """What something takes, and how it is named."""

    size: int
    value: Any
    label: Label
    asker: str


def in_routine(path: str, kind: str) -> str:
    return f"attribute '{path[1:]}' ({kind})" if path.startswith(".") else f"the object itself{path} ({kind})"


def in_class(cls: type) -> Label:
    return lambda path, kind: f"class attribute '{cls.__qualname__}{path}' ({kind})"


def in_global(name: str, user: str) -> Label:
    return lambda path, kind: f"global '{name}{path}' ({kind}), used by {user},"


def place_of(root: Any, culprit: tuple[Any, ...], works: Callable[[Any], bool]) -> tuple[str, Any]:
    """(path, thing): what of *root* cannot be sent; ``culprit`` has it, if that is known."""
    if culprit:
        path = path_to(root, "", culprit[0])
        if path or culprit[0] is root:
            return path, culprit[0]
    return deepest_failure(root, "", works)


def too_heavy(heaviest: Weighed, weight: int, size_of: Callable[[Any], int]) -> NotShippable:
    """Which one thing takes most of *weight*, all the code; of an object, which of its parts, if one does."""
    return NotShippable(
        f"{_named(heaviest, size_of)} cannot be sent to a worker: it takes {heaviest.size:,} bytes of the {weight:,} "
        f"that this flow would write with every job, and {limits.CODE_BYTES_MAX:,} is the most. {_LIGHTER}"
    )


def say_heavy(heaviest: Weighed, size_of: Callable[[Any], int]) -> None:
    """Warn, once, of what makes every job large and slow to begin."""
    known = (heaviest.asker, heaviest.label("", type(heaviest.value).__name__))
    if known not in _said:
        _said.add(known)
        log.warning(
            "%s takes %s bytes, which every job of this flow writes and keeps. %s",
            _named(heaviest, size_of), f"{heaviest.size:,}", _LIGHTER,
        )  # fmt: skip


def _named(heaviest: Weighed, size_of: Callable[[Any], int]) -> str:
    size, value, label, asker = heaviest
    found = []
    for step, part in parts(value):
        try:
            part_size = size_of(part)
        except Exception:  # whatever the user's __reduce__ raises: it goes with the rest, not alone
            continue
        if part_size >= size // 2:
            found.append((part_size, step, part))
    # What leads back to the object takes as much as all of it: the smallest is what it is about.
    _, path, part = min(found, key=lambda one: one[0], default=(0, "", value))
    return f"{asker}: {label(path, type(part).__name__)}"


_said: set[tuple[str, str]] = set()
_LIGHTER = (
    "Load it in the handler when it is first needed (functools.cache keeps it in the worker), or emit it: large "
    "emissions go to files of their own"
)
