"""Digests of code change when the code does, and only then."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
import textwrap
import types
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from routilux_mp._serialization import sources
from routilux_mp._serialization.sources import changes, pack_sources, source_of, unpack_sources
from routilux_mp.errors import CheckpointDamaged


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
    assert [*described["parts"]] == ["class S", "class R", "logic", "slot in handler"]
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


CLASSES = """
import functools

def wrapped(cls):
    return cls

class Plain:
    def go(self):
        return 1  # one
    # the end

@wrapped
@functools.partial(lambda cls, n: cls, n=1)
class Decorated(Plain):
    class Inner:
        x = [
            1,
        ]

def local():
    try:
        class Local:
            pass
    finally:
        pass
    return Local

if True:
    class Twice: first = True
else:
    class Twice: first = False

match 1:
    case 1:
        class Matched: pass

Local = local()
Inner = Decorated.Inner
"""


@pytest.fixture
def classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    (tmp_path / "classes_of_a_user.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("classes_of_a_user")
    del sys.modules["classes_of_a_user"]


def text_of(cls: type) -> str:
    [text] = {part["source"] for place, part in source_of(cls())["parts"].items() if place.endswith(cls.__qualname__)}
    return str(text)


@pytest.mark.parametrize("name", ["Plain", "Decorated", "Inner", "Local", "Matched"])
def test_the_text_of_a_class_is_the_one_that_inspect_finds(classes: types.ModuleType, name: str) -> None:
    cls = getattr(classes, name)
    there, here = (ast.dump(ast.parse(textwrap.dedent(text))) for text in (inspect.getsource(cls), text_of(cls)))
    assert here == there
    assert "first = True" in text_of(classes.Twice)


def test_a_file_is_looked_through_once_for_all_of_its_classes(
    classes: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse, parsed = ast.parse, []
    monkeypatch.setattr(ast, "parse", lambda *a, **k: parsed.append(a) or parse(*a, **k))
    for name in ("Plain", "Decorated", "Inner", "Local"):
        assert text_of(getattr(classes, name))
    assert len(parsed) == 1


def test_a_file_that_has_changed_is_looked_through_again(classes: types.ModuleType) -> None:
    assert text_of(classes.Plain)
    Path(str(classes.__file__)).write_text("# another line\n" + CLASSES.replace("return 1", "return 22"))
    again = type("Plain", (), {"__module__": classes.__name__})  # of the one before the text is known
    assert "return 22" in text_of(again)


def described(source: str | None, code: str = "c", python: str = "3.11") -> dict:
    return {"python": python, "parts": {"class R": {"source": source, "code": code, "file": "r.py"}}}


def test_texts_are_compared_without_comments_and_positions() -> None:
    other = "\n\n# one\n" + BASE.replace("return", "# why\n        return").replace("x=1", "x = 1")
    assert changes(described(BASE), described(other, "other digest")) == []


def test_a_change_is_named_with_its_file() -> None:
    assert changes(described(BASE), described(BASE.replace("in {", "not in {"))) == ["class R (r.py): go"]
    more = BASE + "    limit = 3\n"
    assert changes(described(BASE), described(more)) == ["class R (r.py): limit"]
    assert changes(described(more), described(more.replace("3", "4"))) == ["class R (r.py): limit"]
    assert changes(described(BASE), described(BASE.replace("class R", "class R(S)"))) == ["class R (r.py): its head"]


def test_an_indented_definition_is_a_text_too() -> None:
    inner = "".join("    " + line + "\n" for line in BASE.splitlines())
    assert changes(described(inner), described(BASE)) == []


def test_without_a_text_the_digest_counts_for_one_version_of_python() -> None:
    assert changes(described(None), described(None)) == []
    assert changes(described(None), described(BASE)) == []
    assert changes(described(None), described(None, "d")) == ["class R (r.py): its code"]
    [unknown] = changes(described(None), described(BASE, python="3.12"))
    assert "unknown" in unknown
    assert changes(described(BASE), described(BASE, "d", "3.12")) == []


def test_a_piece_of_a_statement_is_compared_by_its_code() -> None:
    piece = "        logic=lambda x: x + 1)\n"
    assert changes(described(piece), described("  " + piece)) == []
    assert changes(described(piece), described(piece.replace("1", "2"), "d")) == ["class R (r.py): its code"]


def test_parts_that_came_or_went_are_changes() -> None:
    with_logic = {"python": "3.11", "parts": {**described(BASE)["parts"], "logic": {"source": "l", "code": "l"}}}
    assert changes(described(BASE), with_logic) == ["logic is new"]
    assert changes(with_logic, described(BASE)) == ["logic is gone"]


def test_what_came_with_the_job_has_not_changed() -> None:
    here = {"r": define(BASE)}
    kept = unpack_sources(pack_sources(here))
    assert changes(kept["r"], unpack_sources(pack_sources(here, is_loaded=True))["r"]) == []


def test_sources_of_a_flow_are_small_and_come_back() -> None:
    routines = {f"r{i}": Here() for i in range(50)}
    data = pack_sources(routines)
    assert unpack_sources(data)["r7"] == source_of(Here())
    assert len(data) < 2000


@pytest.mark.parametrize("data", [b"", b"x", zlib.compress(b"\xc1"), zlib.compress(b"\x01"), b"\0" * 9])
def test_damaged_sources_are_an_error_with_a_name(data: bytes) -> None:
    with pytest.raises(CheckpointDamaged, match="sources"):
        unpack_sources(data)


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCES_BYTES_MAX", 1000)
    with pytest.raises(CheckpointDamaged, match="too large"):
        unpack_sources(zlib.compress(bytes(100_000)))
