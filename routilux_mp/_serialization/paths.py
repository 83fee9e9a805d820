"""Where inside a value something sits, as a person would write it: ``value['a'][3].conn``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

#: Tries before the search settles for what it has: it runs only to explain an error.
TRIES_MAX = 2_000


def path_to(root: Any, name: str, target: Any) -> str:
    """The shortest path from *root* (called *name*) to *target*; *name* alone when it is not found."""
    for path, value in _breadth_first(root, name, lambda _value: True):
        if value is target:
            return path
    return name


def deepest_failure(root: Any, name: str, works: Callable[[Any], bool]) -> tuple[str, Any]:
    """(path, value) of the nearest part of *root* that does not work though all of its own parts do."""
    found = (name, root)
    for path, value in _breadth_first(root, name, lambda value: not works(value)):
        if value is root:
            continue
        if not works(value):
            found = (path, value)
            if all(works(part) for _, part in parts(value)):
                break
    return found


def nesting_fault(root: Any, name: str, depth_max: int) -> str:
    """How *root* is nested wrongly: the path that leads back to itself, or that goes too deep."""
    stack: list[tuple[str, Iterator[tuple[str, Any]], int]] = [("", parts(root), id(root))]
    open_ids = {id(root)}
    while stack:
        _, rest, ident = stack[-1]
        step, value = next(rest, (None, None))
        if step is None:
            stack.pop()
            open_ids.discard(ident)
        elif isinstance(value, (dict, list, tuple)):
            path = _shortened(name + "".join(entry[0] for entry in stack) + step)
            if id(value) in open_ids:
                return f"{path} contains itself"
            if len(stack) > depth_max:
                return f"{path} is nested deeper than {depth_max} levels"
            stack.append((step, parts(value), id(value)))
            open_ids.add(id(value))
    return f"{name} is nested deeper than {depth_max} levels"


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """(step, part) of everything directly inside *value*: items, attributes, what a closure holds."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{_shortened(repr(key), 60)}]", item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in value:
            yield f"{{{_shortened(repr(item), 60)}}}", item
    if isinstance(value, (type, ModuleType)):
        return
    for attribute, item in list(getattr(value, "__dict__", {}).items()):
        yield f".{attribute}", item
    for attribute in _slots(type(value)):
        if hasattr(value, attribute):
            yield f".{attribute}", getattr(value, attribute)
    function = getattr(value, "__func__", value)
    if function is not value and hasattr(value, "__self__"):  # a classmethod has only a function
        yield ".__self__", value.__self__
    for variable, cell in zip(
        getattr(getattr(function, "__code__", None), "co_freevars", ()),
        getattr(function, "__closure__", None) or (),
        strict=False,
    ):
        try:
            yield f".<{variable}>", cell.cell_contents
        except ValueError:
            continue  # an empty cell holds nothing


def _slots(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        names = base.__dict__.get("__slots__", ())
        for slot in (names,) if isinstance(names, str) else tuple(names):
            if slot in ("__dict__", "__weakref__"):
                continue
            private = slot.startswith("__") and not slot.endswith("__")
            yield f"_{base.__name__.lstrip('_')}{slot}" if private else slot


def _breadth_first(root: Any, name: str, enter: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    waiting = deque([(name, root)])
    seen = {id(root)}
    for _ in range(TRIES_MAX):
        if not waiting:
            return
        path, value = waiting.popleft()
        yield path, value
        if enter(value):
            for step, part in parts(value):
                if id(part) not in seen:
                    seen.add(id(part))
                    waiting.append((path + step, part))


def _shortened(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[: length // 2]}…{text[-length // 2 :]}"
