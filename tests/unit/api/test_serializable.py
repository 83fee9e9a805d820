"""The registry of classes and the values of documents."""

from __future__ import annotations

import functools
import inspect
import json
import math
import types
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from routilux_mp._serialization import registry
from routilux_mp._serialization.json_values import from_json, to_json
from routilux_mp._serialization.registry import remember_class, required_parameters
from routilux_mp.errors import KeyUnavailable, SignatureInvalid
from routilux_mp.serilux import Serializable, register_serializable


def class_in(module: str, name: str = "Thing") -> type:
    """A class as another module would define it."""
    return types.new_class(name, (Serializable,), exec_body=lambda ns: ns.update(__module__=module, __qualname__=name))


@register_serializable
class Box(Serializable):
    def __init__(self) -> None:
        super().__init__()
        self.content: Any = None
        self.add_serializable_fields(["content"])


class Plain:
    """An object without any support."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


def test_the_decorator_checks_the_constructor() -> None:
    with pytest.raises(TypeError) as caught:

        @register_serializable
        class Bad(Serializable):
            def __init__(self, required: int, *, also: int, optional: int = 1, **more: Any) -> None: ...

    assert " ".join(str(caught.value).split()) == (
        "Bad cannot be deserialized because its __init__ method requires parameters: required, also Serializable "
        "classes must support initialization with no arguments. For Routine subclasses, use _config dictionary "
        "instead of constructor parameters."
    )


def test_required_parameters_of_odd_classes() -> None:
    assert required_parameters(object) == []
    assert required_parameters(Exception) == []
    assert required_parameters(Plain) == ["x"]


def test_one_name_belongs_to_one_module() -> None:
    first = class_in("module_one", "OnlyOnce")
    assert register_serializable(first) is first
    again = class_in("module_one", "OnlyOnce")
    assert register_serializable(again) is again
    with pytest.raises(ValueError, match=r"'OnlyOnce' is already registered from module 'module_one'"):
        register_serializable(class_in("module_two", "OnlyOnce"))


def test_the_newest_definition_counts_and_a_subclass_is_not_registered_by_its_base() -> None:
    one, two = class_in("module_x", "Redefined"), class_in("module_x", "Redefined")
    remember_class(one)
    remember_class(two)
    assert type(Serializable.deserialize({"_type": "Redefined", "_module": "module_x"})) is two


def test_a_class_is_found_by_its_short_name_on_another_host() -> None:
    remember_class(class_in("module_here", "Moved"))
    found = Serializable.deserialize({"_type": "Moved", "_module": "module_there", "_qualname": "Moved"})
    assert type(found).__module__ == "module_here"


def test_fields_recurse() -> None:
    outer, inner = Box(), Box()
    inner.content = [1, {"a": (2, {3})}]
    outer.content = {"inner": inner, "list": [inner]}
    again = Box.deserialize(json.loads(json.dumps(outer.serialize())))
    assert again.content["inner"].content == inner.content
    assert again.content["list"][0].content == inner.content


def test_fields_are_names() -> None:
    box = Box()
    box.add_serializable_fields("extra")
    box.add_serializable_fields(["extra", "content"])
    assert box.fields_to_serialize == ["content", "extra"]
    assert box.serialize()["extra"] is None
    box.remove_serializable_fields(["extra"])
    assert "extra" not in box.serialize()
    with pytest.raises(ValueError, match="'not a name'"):
        box.add_serializable_fields(["not a name"])


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**80),
        1.5,
        "text",
        [],
        {},
        [1, [2, [3]]],
        {"a": {"b": [None]}},
        (1, (2,)),
        {1, 2},
        frozenset({3}),
        b"\x00\xff",
        {1: "int key", None: "none key"},
        {"$tuple": [1]},
        {"$tuple": [1], "more": 2},
        datetime(2024, 1, 2, 3, 4, 5, 6),
        math.inf,
        {"deep": [({"x": b"y"},)]},
    ],
    ids=repr,
)
def test_values_come_back_exactly(value: Any) -> None:
    again = from_json(json.loads(json.dumps(to_json(value), allow_nan=False)))
    assert again == value
    assert type(again) is type(value)


def test_nan_is_kept() -> None:
    assert math.isnan(from_json(json.loads(json.dumps(to_json(math.nan), allow_nan=False))))


def test_objects_are_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTILUX_MP_KEY_FILE", str(tmp_path / "key"))
    data = json.loads(json.dumps(to_json({"p": Plain(3)})))
    assert from_json(data) == {"p": Plain(3)}
    (tmp_path / "key").write_text("ab" * 32 + "\n")
    with pytest.raises((KeyUnavailable, SignatureInvalid)):
        from_json(data)


def test_unsigned_pickles_are_not_loaded() -> None:
    import base64
    import os
    import pickle

    class Hostile:
        def __reduce__(self) -> Any:
            return (os.putenv, ("ROUTILUX_MP_WAS_HERE", "1"))

    raw = base64.b64encode(pickle.dumps(Hostile())).decode()
    with pytest.raises(Exception, match=r"damaged|format|encoded") as caught:
        from_json({"$encoded": raw})
    assert type(caught.value).__module__ == "routilux_mp.errors"
    for broken in ("not base64!", 3, None):
        with pytest.raises(Exception, match="encoded") as caught:
            from_json({"$encoded": broken})
        assert type(caught.value).__module__ == "routilux_mp.errors"


def _everything(self, a, /, b, c=1, *args, d, e=2, **kwargs) -> None: ...


@pytest.mark.parametrize(
    "init",
    [
        lambda self: None,
        lambda self, a: None,
        lambda self, a=1: None,
        lambda self, a, b=1, *, c: None,
        lambda self, *, c=1, d: None,
        lambda self, *args, **kwargs: None,
        lambda *args, c: None,
        _everything,
        functools.wraps(_everything)(lambda self, *args: None),
    ],
)
def test_what_a_constructor_requires_is_what_inspect_says(init) -> None:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = [*inspect.signature(init).parameters.values()][1:]
    expected = [p.name for p in found if p.default is inspect.Parameter.empty and p.kind not in variadic]
    assert registry._required_of(init) == expected
