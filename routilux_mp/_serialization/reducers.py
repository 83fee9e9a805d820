"""How functions, classes and the other things that pickle refuses are taken apart and built again.

Pure mechanism: each ``take_*`` gives what ``pickle`` calls a reduced value, each ``make_*`` or ``fill_*``
is named in it and runs in the process that loads the code. What is sent, and under which number, is
decided in ``code``.
"""

from __future__ import annotations

import contextvars
import dataclasses
import dis
import enum
import functools
import importlib
import io
import marshal
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import type_names

Reduced = tuple[Any, ...]

_GLOBAL_OPS = frozenset(
    dis.opmap[name]
    for name in ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in dis.opmap
)
_TYPES_BY_VALUE = {value: name for name, value in vars(types).items() if isinstance(value, type)}
_LOCK, _RLOCK = type(threading.Lock()), type(threading.RLock())
_PROPERTY_PARTS = ("fget", "fset", "fdel", "__doc__")


class CannotBeSent(Exception):
    """Why this one object stays where it is."""


@functools.lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """The global names that *code* and the code inside it use, in order of appearance."""
    names: dict[str, None] = {}
    for instruction in dis.get_instructions(code):
        if instruction.opcode in _GLOBAL_OPS:
            names[instruction.argval] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(global_names(constant)))
    return tuple(names)


def attribute_names(code: types.CodeType) -> Iterator[str]:
    """Every name in *code* and the code inside it, attributes included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from attribute_names(constant)


# -- functions ----------------------------------------------------------------------------------


def take_function(function: types.FunctionType, namespace: object) -> Reduced:
    """A function by value; *namespace* stands for the dictionary of its globals."""
    state = {
        "__defaults__": function.__defaults__,
        "__kwdefaults__": function.__kwdefaults__,
        "__qualname__": function.__qualname__,
        "__module__": function.__module__,
        "__doc__": function.__doc__,
        "__annotations__": type_names.annotations_of(function),
        "__type_params__": getattr(function, "__type_params__", ()),  # Python 3.12
        "__dict__": function.__dict__,
    }
    state = {name: value for name, value in state.items() if value}
    arguments = (function.__code__, namespace, function.__name__, function.__closure__)
    return make_function, arguments, state, None, None, fill_function


def make_function(
    code: types.CodeType, namespace: dict[str, Any], name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """The bare function."""
    return types.FunctionType(code, namespace, name, None, closure)


def fill_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    """Lay defaults, annotations and attributes over the bare function."""
    function.__dict__.update(state.pop("__dict__", {}))
    for name, value in state.items():
        setattr(function, name, value)


def take_cell(cell: types.CellType) -> Reduced:
    """A closure's cell: made empty first, so that it may lead back to its function."""
    try:
        content = cell.cell_contents
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), (content,), None, None, fill_cell


def fill_cell(cell: types.CellType, state: tuple[Any]) -> None:
    """Put the content in."""
    cell.cell_contents = state[0]


def take_code(code: types.CodeType) -> Reduced:
    """A code object, in the form of this version of Python."""
    return marshal.loads, (marshal.dumps(code),)


def take_method(method: types.MethodType, *, is_of_new_class: bool) -> Reduced:
    """A bound method: by the attribute it is found under, else by its function.

    ``is_of_new_class``: it is bound to a class that is made where this is loaded, and has no attributes when this is.
    """
    owner, function = method.__self__, method.__func__
    if is_of_new_class:
        return types.MethodType, (function, owner)
    mro = owner.__mro__ if isinstance(owner, type) else type(owner).__mro__
    for cls in mro:
        for name, value in cls.__dict__.items():
            if value is function or getattr(value, "__func__", None) is function:
                return getattr, (owner, name)
    return types.MethodType, (function, owner)


# -- classes ------------------------------------------------------------------------------------


def take_skeleton(cls: type) -> Reduced:
    """(maker, arguments) that create *cls* without its content; an Enum whole, since members are made once."""
    if isinstance(cls, enum.EnumMeta):
        boundary = getattr(cls, "_boundary_", None)
        members: dict[str, Any] = {name: one.value for name, one in cls.__members__.items()}  # type: ignore[var-annotated]
        return make_enum, (type(cls), cls.__name__, cls.__bases__, _enum_namespace(cls), members, boundary)
    names = ("__module__", "__qualname__", "__doc__", "__orig_bases__", "__slots__")
    namespace = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    namespace["__qualname__"] = cls.__qualname__
    return make_class, (type(cls), cls.__name__, cls.__bases__, namespace)


def make_class(metaclass: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
    """The class without its content."""
    try:
        return types.new_class(name, bases, {"metaclass": metaclass}, lambda body: body.update(namespace))
    except TypeError:
        # A metaclass with an opinion about how its classes are written (TypedDict): past its own __new__.
        return type.__new__(metaclass, name, bases, dict(namespace))


def take_content(cls: type) -> dict[str, Any]:
    """Everything that ``fill_class`` lays over the skeleton."""
    slots = cls.__dict__.get("__slots__", ())
    left_out = {"__module__", "__qualname__", "__slots__", "__dict__", "__weakref__", "_abc_impl", "__orig_bases__"}
    left_out.update((slots,) if isinstance(slots, str) else slots)
    left_out |= type_names.LAZY_ANNOTATIONS
    if isinstance(cls, enum.EnumMeta):
        return {}
    content = {
        name: value
        for name, value in cls.__dict__.items()
        if name not in left_out and not isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
    }
    if not type_names.LAZY_ANNOTATIONS.isdisjoint(cls.__dict__):
        content["__annotations__"] = type_names.annotations_of(cls)
    return content


def fill_class(cls: type, content: dict[str, Any]) -> None:
    """Methods and attributes, past any ``__setattr__`` of the metaclass."""
    for name, value in content.items():
        if name != "__doc__" or value is not None:
            type.__setattr__(cls, name, value)


def _enum_namespace(cls: enum.EnumMeta) -> dict[str, Any]:
    """What else than members it has."""
    made_by_enum = {"_generate_next_value_", "__new__", "_new_member_", "__new_member__", "__dict__", "__weakref__"}
    made_by_enum |= type_names.LAZY_ANNOTATIONS
    namespace = {}
    for name, value in cls.__dict__.items():
        if name in made_by_enum or name in cls.__members__ or _is_of_enum(name):
            continue
        if getattr(enum.Enum, name, None) is value or getattr(enum.Flag, name, None) is value:
            continue
        namespace[name] = value
    own_new = cls.__dict__.get("__new_member__")
    if isinstance(own_new, staticmethod | types.FunctionType):
        namespace["__new__"] = own_new
    return namespace


def _is_of_enum(name: str) -> bool:
    """``_sunder_`` names are the library's, more of them with each Python, but for what users may define."""
    return _is_sunder(name) and name not in ("_missing_", "_numeric_repr_") and not name.startswith("_repr_")


def _is_sunder(name: str) -> bool:
    return len(name) > 2 and name[0] == name[-1] == "_" and "_" not in (name[1], name[-2])


def make_enum(
    metaclass: Any, name: str, bases: tuple[type, ...], namespace: dict[str, Any], members: dict[str, Any],
    boundary: Any,
) -> type:  # fmt: skip
    """The Enum class with its members and methods."""
    body = metaclass.__prepare__(name, bases)
    for key, value in namespace.items():
        is_ordinary = not (key.startswith(("__", f"_{name.lstrip('_')}__")) or _is_sunder(key))
        body[key] = enum.nonmember(value) if is_ordinary else value
    for key, value in members.items():
        body[key] = enum.member(value)
    keywords = {} if boundary is None else {"boundary": boundary}
    return metaclass.__new__(metaclass, name, bases, body, **keywords)  # type: ignore[no-any-return]


# -- other things -------------------------------------------------------------------------------


def _take_lock(lock: Any) -> Reduced:
    if not lock.acquire(blocking=False):
        raise CannotBeSent("a lock that is held cannot be sent; release it before the flow is submitted")
    lock.release()
    return (threading.Lock if type(lock) is _LOCK else threading.RLock), ()


def _take_context_variable(variable: contextvars.ContextVar[Any]) -> Reduced:
    """With its default; what it is set to is a matter of the context, which stays where it is."""
    try:
        defaults = {"default": contextvars.Context().run(variable.get)}
    except LookupError:
        defaults = {}
    return _make_context_variable, (variable.name, defaults)


def _make_context_variable(name: str, defaults: dict[str, Any]) -> contextvars.ContextVar[Any]:
    return contextvars.ContextVar(name, **defaults)


def _take_lru_cache(function: Any) -> Reduced:
    return _make_lru_cache, (function.__wrapped__, function.cache_parameters())


def _make_lru_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


#: By exact type. What is here has one right meaning in another process: the same thing, fresh.
RULES: dict[type, Callable[[Any], Reduced]] = {
    types.CellType: take_cell,
    types.CodeType: take_code,
    types.MappingProxyType: lambda value: (types.MappingProxyType, (dict(value),)),
    property: lambda value: (property, tuple(getattr(value, part) for part in _PROPERTY_PARTS)),
    classmethod: lambda value: (classmethod, (value.__func__,)),
    staticmethod: lambda value: (staticmethod, (value.__func__,)),
    functools._lru_cache_wrapper: _take_lru_cache,
    _LOCK: _take_lock,
    _RLOCK: _take_lock,
    contextvars.ContextVar: _take_context_variable,
    **type_names.RULES,
}


def take_module(module: types.ModuleType, importable: bool) -> Reduced:
    """A module by its name."""
    if not importable and module.__name__ != "__main__":
        raise CannotBeSent(
            f"module '{module.__name__}' cannot be imported by a fresh process; put it where sys.path finds it"
        )
    return importlib.import_module, (module.__name__,)


def take_builtin_type(cls: type) -> Reduced | None:
    """A type of the interpreter that has no name of its own in ``builtins``."""
    if getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls:
        return None
    name = _TYPES_BY_VALUE.get(cls)
    return None if name is None else (getattr, (types, name))


def take_standard_object(value: Any) -> Reduced | None:
    """Standard streams and the sentinels of ``dataclasses``, which are compared by identity; no files, no threads."""
    if isinstance(value, threading.Thread):
        raise CannotBeSent("a thread stays in its process; start it in the handler")
    if isinstance(value, io.IOBase) and not isinstance(value, io.BytesIO | io.StringIO):
        for name in ("stdin", "stdout", "stderr"):
            if value is getattr(sys, name) or value is getattr(sys, f"__{name}__"):
                return getattr, (sys, name)
        raise CannotBeSent("an open file cannot be sent; open it in the handler")
    if type(value).__module__ == "dataclasses":
        for name, candidate in vars(dataclasses).items():
            if candidate is value:
                return getattr, (dataclasses, name)
    return None


def take_by_protocol(value: Any, by_dill: Callable[[Any], Reduced]) -> Any:
    """What the object itself says, else what dill knows about it."""
    try:
        return value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    except (TypeError, pickle.PicklingError) as refusal:
        try:
            return by_dill(value)
        except (TypeError, pickle.PicklingError):
            raise refusal from None
