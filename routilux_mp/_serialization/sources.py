"""What a routine's code is, as text and as a digest, so that a change between two runs can be seen.

Source text is kept because syntax trees can be compared without comments and positions; where there is no
source (typed at a prompt), the digest of the code objects stands in, good for one version of Python only.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

#: A source longer than this is represented by its digest alone, characters.
SOURCE_CHARACTERS_MAX = 200_000

#: Where an object lies says nothing about the code.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def source_of(routine: object) -> dict[str, Any]:
    """Plain data: module, qualified name and Python version, and for each part of the code its source and digest.

    Parts are the classes of the routine (without those of this package and of Python) and the functions that
    were set from outside: its logic, and the handlers and merge strategies of its slots.
    """
    cls = type(routine)
    parts: dict[str, dict[str, str | None]] = {}
    for base in cls.__mro__:
        if base is not object and base.__module__.partition(".")[0] not in ("routilux_mp", "abc", "typing"):
            parts[f"class {base.__module__}.{base.__qualname__}"] = _part(base, _code_of_class(base))
    for place, function in _functions_from_outside(routine):
        parts[place] = _part(function, _code_of_function(function))
    return {
        "module": cls.__module__,
        "qualname": cls.__qualname__,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "parts": parts,
    }


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


def _part(thing: type | FunctionType, code: bytes) -> dict[str, str | None]:
    try:
        source: str | None = inspect.getsource(thing)
    except (OSError, TypeError, IndexError, SyntaxError):
        source = None  # typed at a prompt, or its file has changed since
    if source is not None and len(source) > SOURCE_CHARACTERS_MAX:
        source = None
    return {"source": source, "code": hashlib.sha256(code).hexdigest()}


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
