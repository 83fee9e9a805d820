"""Type variables and aliases by value: ``typing`` pickles them by a name that is not there where code is loaded.

Annotations refer to them, so most functions of a typed script bring some along.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Iterator
from typing import Any

Reduced = tuple[Any, ...]

#: Of a class on Python 3.14: how its annotations are found, by way of all that stood in its body.
LAZY_ANNOTATIONS = frozenset(("__annotate_func__", "__annotations_cache__", "__conditional_annotations__"))


def annotations_of(thing: Any) -> dict[str, Any]:
    """Of a function or class, as values; as text where one names what is not there, which Python 3.14 sees only now."""
    try:
        return thing.__annotations__  # type: ignore[no-any-return]
    except Exception:  # it is the user's code
        annotationlib = importlib.import_module("annotationlib")  # of Python 3.14
        return annotationlib.get_annotations(thing, format=annotationlib.Format.STRING)  # type: ignore[no-any-return]


def take_variable(variable: Any) -> Reduced:
    """(maker, arguments) of a TypeVar, ParamSpec or TypeVarTuple."""
    options = {}
    for option in ("bound", "covariant", "contravariant", "infer_variance"):  # the last one: Python 3.12
        if value := getattr(variable, f"__{option}__", None):
            options[option] = value
    if getattr(variable, "has_default", bool)():  # Python 3.13
        options["default"] = variable.__default__
    constraints = getattr(variable, "__constraints__", ())
    return make_variable, (type(variable), variable.__name__, constraints, options, variable.__module__)


def make_variable(
    kind: Callable[..., Any], name: str, constraints: tuple[Any, ...], options: dict[str, Any], module: str
) -> Any:
    """The variable again."""
    variable = kind(name, *constraints, **options)
    variable.__module__ = module
    return variable


def take_alias(alias: Any) -> Reduced:
    """(maker, arguments) of ``type X = ...`` (Python 3.12); one that is made of itself stands for anything there."""
    value = Any if any(part is alias for part in _parts(alias.__value__, {alias})) else alias.__value__
    return make_alias, (alias.__name__, value, alias.__type_params__)


def make_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """The alias again."""
    return typing.TypeAliasType(name, value, type_params=parameters)  # type: ignore[attr-defined]


def _parts(annotation: Any, known: set[Any]) -> Iterator[Any]:
    """All that an annotation is made of, aliases opened, each of them once."""
    yield annotation
    if hasattr(annotation, "__value__") and annotation not in known:
        known.add(annotation)
        yield from _parts(annotation.__value__, known)
    origin = typing.get_origin(annotation)
    for part in (*([origin] if origin is not None else []), *typing.get_args(annotation)):
        yield from _parts(part, known)


RULES: dict[type, Callable[[Any], Reduced]] = {
    typing.TypeVar: take_variable,
    typing.ParamSpec: take_variable,
    typing.TypeVarTuple: take_variable,
}
if hasattr(typing, "TypeAliasType"):
    RULES[typing.TypeAliasType] = take_alias
