"""Classes that can be written as JSON-able data and made again from it by name.

The registry is the only module-level mutable state of the package. The rule it owns: reading data
never imports anything. A class is found among those that were registered or are already loaded,
and nothing is made of data that is not a registered class.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ..errors import DefinitionError, NotSerializable, UnknownName
from .json_values import from_json, to_json

T = TypeVar("T", bound=type)

#: (module, qualified name) -> class; the newest definition of a name in a module counts.
_classes: dict[tuple[str, str], type] = {}
#: What constructors require, as far as anybody has asked.
_required: WeakKeyDictionary[FunctionType, list[str]] = WeakKeyDictionary()


class _Deserialize:
    """``X.deserialize(data)`` makes a new object; ``x.deserialize(data)`` restores ``x`` and returns it."""

    def __get__(self, instance: Any, owner: type) -> Callable[[dict[str, Any]], Any]:
        if instance is None:
            return functools.partial(_make, owner)
        return functools.partial(_restore_into, instance)


class Serializable:
    """Base of everything that ``serialize`` and ``deserialize`` work on."""

    deserialize = _Deserialize()

    def __init__(self) -> None:
        self.__dict__.setdefault("fields_to_serialize", [])

    def add_serializable_fields(self, fields: Iterable[str]) -> None:
        """Have these attributes serialised; a routine's are part of its transactional state besides.

        Raises:
            ValueError: not a sequence of names.
        """
        names: list[Any] = [fields] if isinstance(fields, str) else list(fields)
        for name in names:
            if not isinstance(name, str) or not name.isidentifier():
                raise DefinitionError(f"{type(self).__name__}: not the name of an attribute: {name!r}")
        known: list[str] = self.__dict__.setdefault("fields_to_serialize", [])
        known.extend(name for name in names if name not in known)

    def remove_serializable_fields(self, fields: Iterable[str]) -> None:
        """No longer have these attributes serialised."""
        gone = set(fields)
        self.__dict__["fields_to_serialize"] = [
            f for f in self.__dict__.get("fields_to_serialize", []) if f not in gone
        ]

    def serialize(self) -> dict[str, Any]:
        """Type and registered fields as JSON-able data; a field that does not exist is null."""
        check_constructible(type(self))
        data: dict[str, Any] = describe_type(type(self))
        label = getattr(self, "_id", None) or type(self).__name__
        for name in self.__dict__.get("fields_to_serialize", []):
            data[name] = to_json(getattr(self, name, None), self, f"Field '{label}.{name}'")
        return data

    def _accepts(self, data: dict[str, Any]) -> bool:
        """Whether ``data`` is of this object's type."""
        return bool(data["_type"] == type(self).__name__)

    def _restore(self, data: dict[str, Any]) -> None:
        """Lay ``data`` over this object; subclasses with a form of their own replace this."""
        for name in self.__dict__.get("fields_to_serialize", []):
            if name in data:
                label = getattr(self, "_id", None) or type(self).__name__
                setattr(self, name, from_json(data[name], self, f"Field '{label}.{name}'"))


def register_serializable(cls: T) -> T:
    """Class decorator: make the class known by name for deserialising.

    Raises:
        TypeError: its constructor has required parameters.
        ValueError: another module has registered a class of the same name.
    """
    check_constructible(cls)
    for (module, name), other in _classes.items():
        if name == cls.__qualname__ and module != cls.__module__ and "_is_registered_by_hand" in other.__dict__:
            raise DefinitionError(
                f"A class named '{name}' is already registered from module '{module}'; "
                f"rename the one of module '{cls.__module__}'"
            )
    remember_class(cls)
    cls._is_registered_by_hand = True  # type: ignore[attr-defined]
    return cls


def remember_class(cls: type) -> None:
    """Register without the checks: subclasses of Routine do so by themselves."""
    _classes[(cls.__module__, cls.__qualname__)] = cls


def check_constructible(cls: type, where: str | None = None) -> None:
    """Refuse a class that cannot be made again by calling it.

    Raises:
        NotSerializable: with the seeds' text; ``where`` is the object, like ``Routine 'a' (A)``.
    """
    required = required_parameters(cls)
    if not required:
        return
    name = cls.__name__
    head = f"{where} cannot be serialized: " if where else ""
    raise NotSerializable(
        f"{head}{name} cannot be deserialized because its __init__ method requires parameters: {', '.join(required)}\n"
        f"Serializable classes must support initialization with no arguments.\n"
        f"For Routine subclasses, use _config dictionary instead of constructor parameters."
    )


def required_parameters(cls: type) -> list[str]:
    """Constructor parameters without a default."""
    init = cls.__init__  # type: ignore[misc]
    if not isinstance(init, FunctionType):
        return _required_of(init)
    # Asked for every part of a flow at every submit, and slow to find out.
    known = _required.get(init)
    if known is None:
        known = _required[init] = _required_of(init)
    return known


def _required_of(init: Any) -> list[str]:
    if init is object.__init__:
        return []
    if type(init) is FunctionType and not vars(init):  # as most are; ``inspect`` takes 10 ms to import
        code, defaults = init.__code__, len(init.__defaults__ or ())
        by_name = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        given = init.__kwdefaults__ or {}
        return [*code.co_varnames[1 : code.co_argcount - defaults], *[name for name in by_name if name not in given]]
    import inspect

    try:
        parameters = list(inspect.signature(init).parameters.values())[1:]
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variadic]


def describe_type(cls: type) -> dict[str, Any]:
    """How data names its class."""
    return {"_type": cls.__name__, "_module": cls.__module__, "_qualname": cls.__qualname__}


def find_class(data: dict[str, Any], base: type = Serializable) -> type:
    """The class that ``data`` names: by module and qualified name, by short name, then in ``__main__``.

    Raises:
        UnknownName: not found, naming the class and the cure.
    """
    short = data.get("_type")
    module, qualname = data.get("_module"), data.get("_qualname", short)
    if not isinstance(short, str) or not isinstance(qualname, str):
        raise UnknownName(f"serialized data without a usable '_type': {short!r}")
    found = _classes.get((str(module), qualname)) or _loaded(str(module), qualname)
    if found is None:
        named = [cls for (_, name), cls in _classes.items() if name.rpartition(".")[2] == short]
        found = named[-1] if named else _loaded("__main__", short)
    if isinstance(found, type) and issubclass(found, base):
        return found
    if isinstance(found, type) and issubclass(found, Serializable):
        raise DefinitionError(f"Cannot deserialize data of type '{short}' into {base.__name__}")
    source = f"import module '{module}' first" if module not in (None, "__main__") else "define it first"
    raise UnknownName(f"Class '{short}' is not known here: {source}, or register it with @register_serializable")


def _loaded(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _make(owner: type, data: dict[str, Any]) -> Any:
    _check_data(data, owner)
    cls = owner if data["_type"] == owner.__name__ else find_class(data, owner)
    check_constructible(cls)
    instance = cls()
    instance._restore(data)
    return instance


def _restore_into(instance: Any, data: dict[str, Any]) -> Any:
    _check_data(data, type(instance))
    if not instance._accepts(data):
        raise DefinitionError(f"Cannot deserialize data of type '{data['_type']}' into {type(instance).__name__}")
    instance._restore(data)
    return instance


def _check_data(data: Any, cls: type) -> None:
    if not isinstance(data, dict):
        raise DefinitionError(
            f"{cls.__name__}.deserialize takes the dictionary that serialize made, got {type(data).__name__}"
        )
    if not isinstance(data.get("_type"), str):
        raise DefinitionError(f"Cannot deserialize into {cls.__name__}: the data has no '_type'")
