"""Callables in a flow document: handlers, logics, merge strategies, conditions, by name.

Not how code travels to workers (that is ``_serialization.code``); this is what ``Flow.serialize``
writes for another host, which has the classes but not the objects. The rule owned here: what is
written can be found again by name, as a method of the routine itself, as something its
constructor makes, or by import; everything else travels as signed code, and what cannot is refused.
"""

from __future__ import annotations

import base64
import importlib
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, ModuleType
from typing import Any

from ..errors import CheckpointDamaged, NotSerializable, UnknownName

#: The place that signed code in a document belongs to.
_CODE_PLACE = b"routilux_mp document code"


def describe_callable(function: Any, owner: Any, where: str) -> dict[str, str] | None:
    """A JSON-able reference to ``function``; None for None.

    ``owner`` is the object being serialised and ``where`` says which place of it, for errors.

    Raises:
        ValueError: a method of another object.
        NotSerializable: a callable that has no name elsewhere and cannot be sent as code either.
    """
    if function is None:
        return None
    bound_to = getattr(function, "__self__", None)
    if isinstance(function, BuiltinFunctionType) and isinstance(bound_to, ModuleType):
        return {"kind": "function", "module": bound_to.__name__, "name": function.__name__}
    if bound_to is not None and not isinstance(bound_to, type):
        return _describe_method(function, bound_to, owner)
    name = getattr(function, "__qualname__", "")
    module = getattr(function, "__module__", None) or ""
    if _is_made_by_constructor(name, module, owner):
        return {"kind": "constructed", "name": name}
    if name and module and "<" not in name and _is_found(function, module, name):
        return {"kind": "function", "module": module, "name": name}
    return {"kind": "code", "name": name, "code": _signed_code(function, where)}


def _signed_code(function: Any, where: str) -> str:
    """The function by value, signed: reading it back runs code."""
    from .code import ship_value  # only documents of such functions need the door to dill
    from .signing import Signer

    try:
        data = ship_value(function)
    except Exception as error:  # the user's __reduce__ runs here
        raise NotSerializable(
            f"{where} cannot be serialized: {_text(function)} cannot be found by name in another process, nor sent as "
            f"code ({error}). Use a method of the routine, a function made in its __init__, or a function defined at "
            f"module level."
        ) from error
    return base64.b64encode(Signer(may_create=True).sign(_CODE_PLACE, data) + data).decode("ascii")


def _load_code(text: Any, where: str) -> Callable[..., Any]:
    """The function again; nothing is loaded before the signature is verified."""
    from .code import load_value
    from .signing import SIGNATURE_BYTES, Signer

    try:
        signed = base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise CheckpointDamaged(f"{where}: not the text of signed code: {error}") from None
    data = signed[SIGNATURE_BYTES:]
    Signer().verify(_CODE_PLACE, data, signed[:SIGNATURE_BYTES])
    found = load_value(data)
    if not callable(found):
        raise CheckpointDamaged(f"{where}: the signed code holds no function")
    return found


def resolve_callable(reference: Any, owner: Any, kept: Any, where: str) -> Callable[..., Any] | None:
    """The callable of a reference. ``kept``: what the owner's constructor put in the same place.

    Raises:
        UnknownName: it cannot be found, naming it, the place and the cure.
        SignatureInvalid, KeyUnavailable: code that was not signed with a key of ours.
    """
    if reference is None:
        return kept if callable(kept) else None
    kind, name = reference.get("kind"), reference.get("name", "")
    if kind == "constructed":
        if callable(kept):
            return kept  # type: ignore[no-any-return]
        raise UnknownName(f"{where}: the constructor of {type(owner).__name__} no longer makes '{name}'")
    if kind == "method":
        method = getattr(owner, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
        raise UnknownName(f"{where}: {type(owner).__name__} has no method '{name}'")
    if kind == "code":
        return _load_code(reference.get("code"), where)
    if kind == "function":
        return _find(reference.get("module", ""), name, owner, where)
    raise UnknownName(f"{where}: {reference!r} is not a reference to a callable")


def _describe_method(function: Any, bound_to: Any, owner: Any) -> dict[str, str]:
    name = getattr(function, "__name__", type(function).__name__)
    if bound_to is owner:
        return {"kind": "method", "name": name}
    raise NotSerializable(
        f"Cannot serialize method '{name}' from {_label(bound_to)}. Only methods of the serialized object itself "
        f"({_label(owner)}) can be serialized for cross-process execution."
    )


def _label(thing: Any) -> str:
    return f"{type(thing).__name__}[{getattr(thing, '_id', None) or hex(id(thing))}]"


def _is_made_by_constructor(name: str, module: str, owner: Any) -> bool:
    """A closure or lambda of ``__init__``: calling the class again makes it again, bound to the new object."""
    if owner is None or "<locals>" not in name:
        return False
    classes = [cls for cls in type(owner).__mro__ if cls.__module__ == module]
    return any(name.startswith(f"{cls.__qualname__}.__init__.<locals>.") for cls in classes)


def _is_found(function: Any, module: str, name: str) -> bool:
    """Whether the name leads back to this very object; a module that is not loaded is believed."""
    found: Any = sys.modules.get(module)
    if found is None:
        return True
    for part in name.split("."):
        found = getattr(found, part, None)
    # A class method is a new object at every access, but an equal one.
    return found is function or found == function


def _find(module: str, name: str, owner: Any, where: str) -> Callable[..., Any]:
    """Look a function up. A document is data: it makes nothing be imported that the class's own package is not."""
    for candidate in (module, "__main__"):
        found: Any = sys.modules.get(candidate)
        if found is None and candidate.split(".")[0] == type(owner).__module__.split(".")[0]:
            found = _imported(candidate)
        for part in name.split("."):
            found = getattr(found, part, None)
        if callable(found):
            return found  # type: ignore[no-any-return]
    raise UnknownName(
        f"{where}: function '{module}:{name}' not found; import the module that defines it before deserializing"
    )


def _imported(module: str) -> ModuleType | None:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _text(function: Any) -> str:
    return f"'{getattr(function, '__qualname__', None) or repr(function)}'"
