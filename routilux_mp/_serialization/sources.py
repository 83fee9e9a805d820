"""What a routine's code is, as text and as a digest, so that a change between two runs can be seen.

Source text is kept because syntax trees can be compared without comments and positions; where there is no
source (typed at a prompt), the digest of the code objects stands in, good for one version of Python only.
Not here: whether a change matters (``_supervisor.recoding``).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import linecache
import re
import sys
import textwrap
import threading
import weakref
import zlib
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, Final

from ..errors import CheckpointDamaged
from . import shipped
from .packing import pack, unpack

#: A source longer than this is represented by its digest alone, characters.
SOURCE_CHARACTERS_MAX: Final = 200_000
#: Of the sources of one flow, unpacked.
SOURCES_BYTES_MAX: Final = 64 * 1024 * 1024

#: Where an object lies says nothing about the code.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

#: CPython 3.11 fails with a SystemError when two threads parse at once (gh-106905).
_parsing: Final = threading.Lock()
#: file -> its lines, and where its classes are: finding one means to parse the whole file, so all are looked for.
_files: Final[dict[str, tuple[list[str], dict[str, slice]]]] = {}
_classes: weakref.WeakKeyDictionary[type, dict[str, Any]] = weakref.WeakKeyDictionary()


def pack_sources(routines: Mapping[str, object], *, is_loaded: bool = False) -> bytes:
    """The sources of all routines of a flow, to be kept with a job.

    ``is_loaded``: they were made from a bundle, whose own classes and functions cannot have changed since.
    """
    return zlib.compress(pack({rid: source_of(routine, is_loaded) for rid, routine in routines.items()}), 1)


def unpack_sources(data: bytes) -> dict[str, Any]:
    """What :func:`pack_sources` packed.

    Raises:
        CheckpointDamaged: it is something else, or too large.
    """
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, SOURCES_BYTES_MAX)
        sources = unpack(text) if unpacker.eof else None
    except (zlib.error, ValueError, TypeError) as error:
        raise CheckpointDamaged(f"the sources of the job's code are damaged: {error}") from None
    if not isinstance(sources, dict):
        raise CheckpointDamaged("the sources of the job's code are damaged, or too large")
    return sources


def source_of(routine: object, is_loaded: bool = False) -> dict[str, Any]:
    """Plain data: module, qualified name and Python version, and for each part of the code its source and digest.

    Parts are the classes of the routine (without those of this package and of Python) and the functions that
    were set from outside: its logic, and the handlers and merge strategies of its slots. A module's name is no
    part of it: a script is ``__main__`` to itself and has a name for others.
    """
    cls = type(routine)
    parts: dict[str, dict[str, Any]] = {}
    for base in cls.__mro__:
        if base is not object and base.__module__.partition(".")[0] not in ("routilux_mp", "abc", "typing"):
            place = f"class {base.__qualname__}"
            while place in parts:
                place += "'"
            parts[place] = _CARRIED if is_loaded and shipped.is_by_value(base) else _part_of_class(base)
    for place, function in _functions_from_outside(routine):
        is_carried = is_loaded and shipped.is_by_value(function)
        parts[place] = _CARRIED if is_carried else _part(function, _code_of_function(function))
    return {
        "module": cls.__module__,
        "qualname": cls.__qualname__,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "parts": parts,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two answers of :func:`source_of`, as phrases for people; empty: nothing."""
    old, new = before["parts"], now["parts"]
    is_same_python = before["python"] == now["python"]
    found = []
    for place in old | new:
        if place not in new:
            found.append(f"{place} is gone")
        elif place not in old:
            if new[place] != _CARRIED:
                found.append(f"{place} is new{_where(new[place])}")
        elif why := _difference(old[place], new[place], is_same_python):
            found.append(f"{place}{_where(new[place])}: {why}")
    return found


def _where(part: Mapping[str, Any]) -> str:
    return f" ({part['file']})" if part.get("file") else ""


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], is_same_python: bool) -> str:
    """What differs between two parts, or nothing."""
    if new == _CARRIED or old == _CARRIED:
        return ""
    texts = old["source"], new["source"]
    if None not in texts:
        if texts[0] == texts[1]:
            return ""
        trees = _tree(texts[0]), _tree(texts[1])
        if trees[0] is not None and trees[1] is not None:
            if trees[0] == trees[1]:
                return ""
            return ", ".join(sorted(name for name in trees[0] | trees[1] if trees[0].get(name) != trees[1].get(name)))
    if is_same_python:
        return "" if old["code"] == new["code"] else "its code"
    return "unknown: there is no source of both, and it was compiled by another version of Python"


def _tree(source: str) -> dict[str, str] | None:
    """The syntax tree of each definition in a text, without comments and positions; None: this is no whole text."""
    if len(source) > SOURCE_CHARACTERS_MAX:
        return None
    try:
        with _parsing:
            module = ast.parse(textwrap.dedent(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: dict[str, str] = {}
    for statement in module.body:
        inner = statement.body if isinstance(statement, ast.ClassDef) else [statement]
        for child in inner:
            name = getattr(child, "name", "") or ast.unparse(getattr(child, "targets", [child])[0]).partition("\n")[0]
            found[name] = found.get(name, "") + ast.dump(child)
        if isinstance(statement, ast.ClassDef):
            statement.body = []
            found["its head"] = ast.dump(statement)
    return found


def _functions_from_outside(routine: Any) -> Iterator[tuple[str, FunctionType]]:
    places = [("logic", getattr(routine, "_logic", None))]
    for name, slot in getattr(routine, "_slots", {}).items():
        places.append((f"slot {name} handler", getattr(slot, "handler", None)))
        places.append((f"slot {name} merge strategy", getattr(slot, "merge_strategy", None)))
    for place, found in places:
        while isinstance(found, functools.partial):
            found = found.func
        if isinstance(found, FunctionType):
            yield place, found


#: A part that travels with the job: it is what it was.
_CARRIED: Final[dict[str, Any]] = {"source": None, "code": "carried"}


def _part_of_class(cls: type) -> dict[str, Any]:
    part = _classes.get(cls)
    if part is None:
        part = _classes[cls] = _part(cls, _code_of_class(cls))
    return part


def _part(thing: type | FunctionType, code: bytes) -> dict[str, Any]:
    source, file = None, None
    try:
        file = inspect.getsourcefile(thing)
        if isinstance(thing, FunctionType):
            source = inspect.getsource(thing)
        elif file is not None:
            source = _text_of_class(thing, file)
    except (OSError, TypeError, IndexError, SyntaxError, ValueError, RecursionError):
        pass  # typed at a prompt, or its file has changed since
    if source is not None and len(source) > SOURCE_CHARACTERS_MAX:
        source = None
    return {"source": source, "code": hashlib.sha256(code).hexdigest(), "file": file}


def _text_of_class(cls: type, file: str) -> str | None:
    """What ``inspect.getsource`` would find, with one look at each file for all of its classes."""
    linecache.checkcache(file)
    lines = linecache.getlines(file, vars(sys.modules[cls.__module__]))
    known = _files.get(file)
    if known is None or known[0] is not lines:
        with _parsing:
            tree = ast.parse("".join(lines))
        known = _files[file] = lines, dict(reversed(list(_classes_in(tree, ""))))
    place = known[1].get(cls.__qualname__)
    return None if place is None else "".join(lines[place])


def _classes_in(node: Any, prefix: str) -> Iterator[tuple[str, slice]]:
    """Qualified name and lines of every class that is defined under a node, in order."""
    for name in ("body", "orelse", "handlers", "finalbody", "cases"):
        statements = getattr(node, name, ())
        for child in statements if isinstance(statements, list) else ():
            inner = prefix
            if isinstance(child, ast.ClassDef):
                first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                yield prefix + child.name, slice(first - 1, child.end_lineno)
                inner = f"{prefix}{child.name}."
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = f"{prefix}{child.name}.<locals>."
            yield from _classes_in(child, inner)


def _code_of_class(cls: type) -> bytes:
    pieces = []
    for name, value in sorted(cls.__dict__.items()):
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            pieces.append(name.encode() + b"\0" + _code_of_function(function))
    return b"\0".join(pieces)


def _code_of_function(function: FunctionType) -> bytes:
    text = repr((_essence(function.__code__), function.__defaults__, function.__kwdefaults__))
    return _ADDRESS.sub("", text).encode("utf-8", "backslashreplace")


def _essence(code: CodeType) -> tuple[object, ...]:
    """A code object without names of files and numbers of lines; equal for equal code of one Python version."""
    constants = tuple(_essence(item) if isinstance(item, CodeType) else _stable(item) for item in code.co_consts)
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_flags


def _stable(constant: object) -> object:
    """Sets of constants have no order of their own."""
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
