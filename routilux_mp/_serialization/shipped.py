"""Classes that travel by value: which they are, and how payloads refer to them.

A class of ``__main__``, of a function body, or of a module that a fresh process could not import is sent
once, with the code of its flow, and is entered here in the process it came from and in every process that
loaded it. Payloads then name it; they never carry it. So ``isinstance`` holds across processes, and an
object that comes back to its maker has the maker's class.

The rule it owns: a reference names the exact class of the exact code when that is here, else the newest
class of that module and qualified name, else it is an error that says so. It never imports anything.
"""

from __future__ import annotations

import enum
import functools
import importlib.machinery
import sys
import weakref
from collections.abc import Iterable
from types import FunctionType
from typing import Any, Final, NamedTuple

from ..errors import NotShippable

_HEAP_TYPE = 1 << 9

#: The namespace of ``__main__``; others are the name of an importable module, or a number.
MAIN: Final = -1
Key = int | str


class Table(NamedTuple):
    """What one piece of code brought into this process, by number."""

    classes: list[type]
    #: Namespaces of functions whose module cannot be imported.
    spaces: list[dict[str, Any]]


_tables: dict[bytes, Table] = {}
_references: weakref.WeakKeyDictionary[type, tuple[bytes, int]] = weakref.WeakKeyDictionary()
_newest: weakref.WeakValueDictionary[tuple[str, str], type] = weakref.WeakValueDictionary()
_main_names: set[str] = set()


def enter(digest: bytes, table: Table, main_names: Iterable[str]) -> None:
    """Make the classes of the code *digest* known in this process."""
    _tables[digest] = table
    _main_names.update(main_names)
    for index, cls in enumerate(table.classes):
        _references[cls] = (digest, index)
        _newest[cls.__module__, cls.__qualname__] = cls


def leave(digest: bytes) -> None:
    """Forget the code *digest*: nothing of it is in use in this process any more, and nothing will refer to it."""
    _tables.pop(digest, None)


def table_of(digest: bytes) -> Table | None:
    """What the code *digest* brought here, if it is here."""
    return _tables.get(digest)


def reference_to(cls: type) -> tuple[bytes, int, str, str] | None:
    """The words by which another process finds *cls*; None when it was never sent."""
    place = _references.get(cls)
    return None if place is None else (*place, cls.__module__, cls.__qualname__)


def resolve(digest: bytes, index: int, module: str, qualname: str) -> type:
    """The class that ``reference_to`` described (called while unpickling signed bytes)."""
    table = _tables.get(digest)
    if table is not None and index < len(table.classes):
        return table.classes[index]
    found = _newest.get((module, qualname))
    if found is None:
        raise NotShippable(
            f"class {module}.{qualname} is not known in this process: the code it came with was not loaded here; "
            "run this from the script that defines it, or move the class to a module that can be imported"
        )
    return found


def is_in_main(name: str) -> bool:
    """Whether the name of ``__main__`` was sent with some code, or arrived with it."""
    return name in _main_names


def is_by_value(thing: type | FunctionType) -> bool:
    """Whether a fresh process could not import this class or function under its own name."""
    if isinstance(thing, type) and not thing.__flags__ & _HEAP_TYPE:
        return False
    module = getattr(thing, "__module__", None)
    if module is None or module == "__main__" or "<" in thing.__qualname__:
        return True
    return not is_importable(module) or by_name(module, thing.__qualname__) is not thing


def by_member_name(thing: Any) -> tuple[Any, ...] | None:
    """As pickle calls a reduced value: a member of an Enum that travels by value, if it has a name of its own.

    The Enum itself says its value, which does not find it where that is a function: no copy of one equals it.
    """
    if not isinstance(thing, enum.Enum) or not is_by_value(type(thing)):
        return None
    name = thing._name_
    return (getattr, (type(thing), name)) if name in type(thing).__members__ else None


def by_name(module: str, qualname: str) -> Any:
    """What stands under that name in an already imported module; None if nothing does."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def is_importable(module: str) -> bool:
    """Whether a fresh process with the same ``sys.path`` would import this module from the same place."""
    loaded = sys.modules.get(module)
    if loaded is None or module in ("__main__", "__mp_main__"):
        return False
    return module in sys.builtin_module_names or _finds(module, getattr(loaded, "__file__", None), len(sys.path))


@functools.lru_cache(maxsize=4096)
def _finds(module: str, file: str | None, _path_count: int) -> bool:
    parent, _, _ = module.rpartition(".")
    if parent and not is_importable(parent):
        return False
    where = getattr(sys.modules[parent], "__path__", None) if parent else None
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        spec = find_spec(module, where) if find_spec is not None else None
        if spec is not None:
            return _same_place(spec, file)
    return bool(parent) and file is None  # put there by its package when that is imported


def _same_place(spec: importlib.machinery.ModuleSpec, file: str | None) -> bool:
    return file is None or spec.origin is None or not spec.has_location or spec.origin == file
