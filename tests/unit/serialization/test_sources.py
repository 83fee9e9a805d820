"""Digests of code change when the code does, and only then."""

from __future__ import annotations

import functools
import types

from routilux_mp._serialization.sources import source_of


def define(text: str, name: str = "R") -> object:
    namespace: dict = {"__name__": "typed_in", "functools": functools}
    exec(text, namespace)  # stands for a class typed at a prompt
    return namespace[name]()


BASE = "class R:\n    def go(self, x=1):\n        return x in {'a', 'b'}\n"


def code_of(routine: object) -> set[str | None]:
    return {part["code"] for part in source_of(routine)["parts"].values()}


def test_comments_and_places_do_not_count_and_everything_else_does() -> None:
    same = "\n\n# a comment\n" + BASE.replace("return", "\n        # why\n        return")
    assert code_of(define(BASE)) == code_of(define(same))
    for old, new in [("'b'", "'c'"), ("x=1", "x=2"), ("go", "went"), ("in", "not in")]:
        assert code_of(define(BASE)) != code_of(define(BASE.replace(old, new))), (old, new)


def test_base_classes_and_functions_set_from_outside_are_parts() -> None:
    routine = define(BASE + "class S(R):\n    pass\n", "S")
    routine._logic = lambda value: value + 1
    routine._slots = {
        "in": types.SimpleNamespace(handler=functools.partial(lambda k, v: v, 1), merge_strategy="append")
    }
    described = source_of(routine)
    assert [*described["parts"]] == ["class typed_in.S", "class typed_in.R", "logic", "slot in handler"]
    assert (described["module"], described["qualname"]) == ("typed_in", "S")


def test_an_object_as_a_default_is_the_same_code_wherever_it_lies() -> None:
    text = BASE.replace("x=1", "x=object()")
    kept = [define(text) for _ in range(3)]
    assert len({code for routine in kept for code in code_of(routine)}) == 1


class Here:
    def go(self) -> None:
        """Does nothing."""


def test_the_source_is_kept_where_there_is_one() -> None:
    [part] = source_of(Here())["parts"].values()
    assert part["source"].startswith("class Here:")
    [typed] = source_of(define(BASE))["parts"].values()
    assert typed["source"] is None
