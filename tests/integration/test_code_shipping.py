"""User code in real fresh processes: a script packs its code, another process that never saw it loads it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SEND = """
from pathlib import Path as _Path
from routilux_mp._serialization.batch import decode_batch as _decode, encode_batch as _encode
from routilux_mp._serialization.code import pack_code as _pack
from routilux_mp._serialization.signing import Signer as _Signer
_signer = _Signer([b"k" * 32])
_Path("bundle").write_bytes(_pack(routines, main=sys.modules["__main__"]).data)
_Path("there").write_bytes(_encode(globals().get("payloads", []), _signer, b"").data)
"""

RECEIVE = """
import os, sys
from pathlib import Path
from routilux_mp._serialization.batch import decode_batch, encode_batch
from routilux_mp._serialization.code import load_code
from routilux_mp._serialization.signing import Signer
signer = Signer([b"k" * 32])
def receive():
    code = load_code(Path("bundle").read_bytes())
    items = decode_batch(Path("there").read_bytes(), signer, b"")
    return code, items
def main():
    import __main__
    code, items = receive()
"""


def run(folder: Path, *arguments: str, text: str | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def ship(folder: Path, script: str, check: str, *, how: str = "script", after: str = "") -> None:
    """Run *script* as a main program that sends its code, *check* in a fresh process, *after* back in the script."""
    program = f"import sys\n{textwrap.dedent(script)}\n{SEND}"
    if after:
        receiver = f"{RECEIVE}{textwrap.indent(textwrap.dedent(check), '    ')}\nmain()\n"
        (folder / "receiver.py").write_text(receiver)
        program += "\nimport subprocess\nsubprocess.run([sys.executable, 'receiver.py'], check=True)\n"
        program += "back = _decode(_Path('back').read_bytes(), _signer, b'')\n" + textwrap.dedent(after)
    if how == "script":
        (folder / "user_script.py").write_text(program)
        run(folder, "user_script.py")
    else:
        run(folder, "-", text=program)
    if not after:
        run(folder, "-c", f"{RECEIVE}{textwrap.indent(textwrap.dedent(check), '    ')}\nmain()\n")


SCRIPT = """
import abc, collections, dataclasses, enum, functools, math, os, threading, typing
import xml
import xml.dom.minidom
never = (i for i in "")                      # cannot be sent, and nobody uses it
T = typing.TypeVar("T")
seen = {"count": 0}
lock = threading.Lock()

class Color(enum.Enum):
    RED = 1
    BLUE = (2, 3)
    def lower(self): return self.name.lower()
    @classmethod
    def _missing_(cls, value): return cls.RED
class Level(enum.IntFlag):
    HIGH = 2                                  # not in the order of their values: then enum makes more of its own
    LOW = 1
class Planet(enum.Enum):
    EARTH = (3, 4)
    def __init__(self, a, b): self.sum = a + b
@dataclasses.dataclass(order=True)
class Item:
    n: int
    tags: list = dataclasses.field(default_factory=list)
    hidden: int = dataclasses.field(default=0, repr=False, kw_only=True)
@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    n: int
Point = collections.namedtuple("Point", "x y", defaults=[7])
class Pair(typing.NamedTuple):
    a: int
    b: str = "q"
class Box(typing.Generic[T]):
    def __init__(self, v: T) -> None: self.v = v
class Slim:
    __slots__ = ("a", "__private")
    def __init__(self): self.a, self.__private = 1, 2
    def get(self): return self.__private
class Meta(type):
    def __new__(m, name, bases, body): return super().__new__(m, name, bases, {**body, "made_by": "Meta"})
class Made(metaclass=Meta): pass
class Base(abc.ABC):
    made = []
    def __init_subclass__(cls, **kw): Base.made.append(cls.__name__)
    def __init__(self): self.count = 0
    @abc.abstractmethod
    def go(self): ...
class Key:
    def __init__(self, n): self.n = n
    def __hash__(self): return hash_of(self.n)
    def __eq__(self, other): return self.n == other.n
def hash_of(n): return n + 1
table = {Key(1): "one"}
def helper(n):
    with lock:
        seen["count"] += 1
    return factorial(n)
def factorial(n): return 1 if n <= 1 else n * factorial(n - 1)
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
@functools.lru_cache(maxsize=8)
def cached(n): return n * 2
def logged(fn):
    @functools.wraps(fn)
    def inner(*a): return ("logged", fn(*a))
    return inner
@logged
def wrapped(n): return helper(n)

class Worker(Base):
    limit = 5
    def __init__(self):
        super().__init__()
        self.logic = lambda n: (self.bump(), helper(n))
        self.handler = self.go
        self.function = helper
        self.me = [self]
        self.partial = functools.partial(factorial, 4)
        def recurse(n): return n if n <= 0 else recurse(n - 1)
        self.recurse = recurse
    def bump(self):
        self.count += 1
        return self.count
    def go(self): return self.__secret(), self.twice, self.static(3), self.make().limit
    def __secret(self): return 7
    @property
    def twice(self): return self.limit * 2
    @staticmethod
    def static(n): return n
    @classmethod
    def make(cls): return cls()
    @functools.cached_property
    def slow(self): return math.floor(2.5)
    def dom(self): return xml.dom.minidom.parseString("<a/>").documentElement.tagName
    def is_item(self, x): return isinstance(x, Item)
routines = {"w": Worker(), "v": Worker()}
payloads = [Item(1, ["a"]), Color.RED, Level.LOW | Level.HIGH, Planet.EARTH, Frozen(2), Point(1), Pair(3), Box(4),
            Made(), Worker, helper, lambda n: helper(n) + 1, {Frozen(1): (Item(2),)}]
"""

CHECK = """
m = __main__
w, again, v = code.routine("w"), code.routine("w"), code.routine("v")
assert w is not again and type(w) is type(again) is type(v) is m.Worker
assert w.logic(3) == (1, 6) and again.count == 0 and w.count == 1
assert w.handler() == (7, 10, 3, 5) and w.handler.__self__ is w and w.me[0] is w
assert w.function is m.helper and w.partial() == 24 and w.recurse(3) == 0
assert w.slow == 2 and w.dom() == "a"
assert m.seen == {"count": 1}
assert m.even(10) if hasattr(m, "even") else True
item, red, level, earth, frozen, point, pair, box, made, cls, helper, function, table = items
assert type(item) is m.Item and w.is_item(item) and item == m.Item(1, ["a"])
assert red is m.Color.RED and m.Color.BLUE.lower() == "blue" and level is m.Level(3) and earth.sum == 7
assert m.Color("no such") is red and [part.name for part in level] == ["HIGH", "LOW"]
assert frozen == m.Frozen(2) and point == m.Point(1, 7) and pair == (3, "q") and box.v == 4
assert made.made_by == "Meta" and cls is m.Worker and helper is m.helper and function(3) == 7
assert table == {m.Frozen(1): (m.Item(2),)}
import dataclasses
assert [f.name for f in dataclasses.fields(m.Item)] == ["n", "tags", "hidden"] and m.Item(1) < m.Item(2)
assert m.Slim().get() == 2 and not hasattr(m.Slim(), "__dict__")
try: m.Base()
except TypeError as error: assert "abstract" in str(error)
else: raise AssertionError
assert not hasattr(m, "never")
assert "dill" not in sys.modules
Path("back").write_bytes(encode_batch(items, signer, b"").data)
"""


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    after = """
    assert type(back[0]) is Item and back[0] == payloads[0] and back[1] is Color.RED
    assert [type(b) for b in back] == [type(p) for p in payloads]
    assert back[9] is Worker and back[10] is helper and back[11](3) == 7
    assert seen == {"count": 1}
    """
    ship(tmp_path, SCRIPT, CHECK, after=after)


def test_what_is_typed_at_a_prompt_has_no_file(tmp_path: Path) -> None:
    script = SCRIPT + "\nassert '__file__' not in globals() or __file__ == '<stdin>'\n"
    ship(tmp_path, script, CHECK, how="prompt")


def test_enums_of_functions_and_with_other_things_than_members(tmp_path: Path) -> None:
    script = """
    import enum, functools
    def half(n): return n / 2
    class How(enum.Enum):
        TWICE = enum.member(lambda n: n * 2)
        HALF = enum.member(functools.partial(half))
        limit = enum.nonmember(5)
        _private = 1
        __hidden = 2
        def __call__(self, n): return self.value(n)
        def hidden(self): return self.__hidden
    default = How.TWICE
    class Worker:
        def go(self, n): return default(n), How.HALF(n), How.limit
    routines, payloads = {"w": Worker()}, [How.TWICE, How._private]
    """
    check = """
    twice, private = items
    assert code.routine("w").go(3) == (6, 1.5, 5)
    assert twice is type(twice).TWICE and twice(4) == 8 and private.value == 1 and private.hidden() == 2
    assert [one.name for one in type(twice)] == ["TWICE", "HALF", "_private"]
    """
    ship(tmp_path, textwrap.dedent(script), check)


def test_a_bound_method_that_a_class_of_the_script_keeps(tmp_path: Path) -> None:
    script = """
    class Keeps(type):                           # as libraries do that look for marked methods
        def __init__(cls, name, bases, body):
            cls.checks = [getattr(cls, key) for key in body if key.startswith("check")]
    class Model(metaclass=Keeps):
        @classmethod
        def check_name(cls, value): return cls.__name__, value
    class Worker:
        def go(self): return [check(1) for check in Model.checks]
    routines, payloads = {"w": Worker()}, [Model()]
    """
    check = """
    assert code.routine("w").go() == [("Model", 1)]
    assert type(items[0]).checks[0].__self__ is type(items[0])
    """
    ship(tmp_path, textwrap.dedent(script), check)


TYPED = """
import contextvars
from typing import Callable, ParamSpec, TypeVar, TypeVarTuple
P, T, Ts = ParamSpec("P"), TypeVar("T", bound=int, covariant=True), TypeVarTuple("Ts")
request, depth = contextvars.ContextVar("request"), contextvars.ContextVar("depth", default=3)
request.set("not sent")
def call(function: Callable[P, T], *rest: P.args) -> T: return function(*rest)
def many(*all: Callable[[int], tuple[*Ts]]): return all
class Worker:
    def go(self, n): return call(int, n), many(1), depth.get(), request.get("none"), (P, T, Ts)
routines, payloads = {"w": Worker()}, []
"""

CHECK_TYPED = """
assert code.routine("w").go("4")[:4] == (4, (1,), 3, "none")
p, t, ts = code.routine("w").go("4")[4]
assert [v.__name__ for v in (p, t, ts)] == ["P", "T", "Ts"] and t.__bound__ is int and t.__covariant__
assert {v.__module__ for v in (p, t, ts)} == {"__main__"}
"""


def test_what_annotations_name_and_context_variables(tmp_path: Path) -> None:
    ship(tmp_path, TYPED, CHECK_TYPED)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="its syntax is of Python 3.12")
def test_generic_functions_classes_and_aliases(tmp_path: Path) -> None:
    script = """
    type Rows = list[int]
    type Tree[A] = dict[str, Tree[A] | A]
    type Odd = list[Even]
    type Even = list[Odd]
    def first[Z: int](rows: Rows, tree: Tree[Z], odd: Odd) -> Z: return rows[0]
    class Box[X]:
        def __init__(self, v: X): self.v = v
        def get[Y](self, y: Y) -> tuple[X, Y]: return self.v, y
    class Worker:
        def go(self, rows: Rows): return first(rows, {}, []), Box(1).get(2), first, Box
    routines, payloads = {"w": Worker()}, [Box(3)]
    """
    check = """
    one, got, first, box = code.routine("w").go([7])
    assert (one, got, items[0].v) == (7, (1, 2), 3) and type(items[0]) is box
    assert [v.__name__ for v in first.__type_params__ + box.__type_params__] == ["Z", "X"]
    assert first.__annotations__["rows"].__value__ == list[int]
    assert first.__annotations__["tree"].__origin__.__name__ == "Tree"
    """
    ship(tmp_path, textwrap.dedent(script), check)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before that annotations are looked up at once")
def test_annotations_that_name_what_is_not_there(tmp_path: Path) -> None:
    script = """
    class Worker:
        kept: list[Worker]
        other: Missing
        def go(self, n: int, m: Missing = 3) -> Worker: return n + m
    class Whole:
        part: list[Worker]
    routines, payloads = {"w": Worker()}, [Whole()]
    """
    check = """
    worker = code.routine("w")
    assert worker.go(4) == 7 and type(worker).__annotations__ == {"kept": "list[Worker]", "other": "Missing"}
    assert worker.go.__annotations__ == {"n": "int", "m": "Missing", "return": "Worker"}
    assert type(items[0]).__annotations__ == {"part": list[type(worker)]}
    """
    ship(tmp_path, textwrap.dedent(script), check)


def test_cells_that_define_a_class_again(tmp_path: Path) -> None:
    script = """
    class Item:
        version = 1
    class R:
        def make(self): return Item
        def old(self): return "old"
    first = R()
    class Item:
        version = 2
    class R:
        def make(self): return Item
    routines = {"old": first, "new": R()}
    """
    check = """
    assert code.routine("old").old() == "old" and not hasattr(code.routine("new"), "old")
    assert code.routine("old").make() is code.routine("new").make() is __main__.Item
    assert __main__.Item.version == 2
    """
    ship(tmp_path, script, check)


def test_local_classes_closures_and_values_whose_methods_are_needed_to_build_them(tmp_path: Path) -> None:
    script = """
    class Key:
        def __init__(self, n): self.n = n
        def __hash__(self): return hash_of(self.n)
        def __eq__(self, other): return self.n == other.n
    def hash_of(n): return n * step
    step = 3
    table = {Key(1): "one"}
    keys = {Key(2)}
    class Restored:
        def __init__(self, n): self.n = n
        def __getstate__(self): return self.n
        def __setstate__(self, n): self.n = double(n)
    def double(n): return 2 * n
    restored = Restored(4)
    def make(offset):
        total = 0
        class Local:
            def who(self): return Local
            def base(self): return super().__init__
        class Child(Local):
            def __init__(self): super().__init__(); self.made = Local()
        def count(n):
            nonlocal total
            total += n + offset
            return total
        class R:
            def __init__(self): self.count, self.child = count, Child()
            def go(self): return table[Key(1)], Key(2) in keys, restored.n
        return R(), Local, Child
    r, Inner, Child = make(10)
    routines = {"r": r}
    payloads = [Inner(), Child(), r.count, {"k": Key(5)}]
    """
    check = """
    r = code.routine("r")
    assert r.go() == ("one", True, 8)
    assert r.count(1) == 11 and r.count(1) == 22 and code.routine("r").count(1) == 11
    local, child, count, keyed = items
    assert type(r.child) is type(child) and type(r.child.made) is type(local) is local.who()
    assert isinstance(child, type(local)) and count(0) == 10
    assert {keyed["k"]: 1}[__main__.Key(5)] == 1
    Path("back").write_bytes(encode_batch([local, r.child], signer, b"").data)
    """
    ship(tmp_path, script, check, after="assert type(back[0]) is Inner and type(back[1]) is Child\n")


def test_local_classes_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    script = """
    def make(n):
        class Local:
            number = n
        return Local
    One, Two = make(1), make(2)
    class R:
        def __init__(self): self.classes = [One, Two]
    routines = {"r": R()}
    payloads = [One(), Two()]
    """
    check = """
    assert [item.number for item in items] == [1, 2]
    assert [type(item) for item in items] == code.routine("r").classes
    Path("back").write_bytes(encode_batch(items, signer, b"").data)
    """
    ship(tmp_path, script, check, after="assert [type(b) for b in back] == [One, Two]\n")


def test_importable_modules_go_by_name_and_modules_that_are_not_by_value(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("class Importable:\n    def go(self): return __name__\ndef plain(): return 1\n")
    script = """
    import types
    import beside
    made = types.ModuleType("made")
    sys.modules["made"] = made
    exec("scale = 3\\ndef inner(n): return n * scale\\nclass C:\\n  def go(self, n): return inner(n)\\n", made.__dict__)
    routines = {"i": beside.Importable(), "c": made.C()}
    payloads = [beside.Importable(), made.C(), beside.plain, made.inner]
    """
    check = """
    sys.path.insert(0, os.getcwd())
    importable, c, plain, inner = items
    assert code.routine("i").go() == "beside" and sys.modules["beside"].Importable is type(importable)
    assert code.routine("c").go(2) == 6 and type(code.routine("c")) is type(c) and inner(3) == 9
    assert plain is sys.modules["beside"].plain
    """
    ship(tmp_path, script, check)


def test_a_second_bundle_brings_classes_defined_later(tmp_path: Path) -> None:
    script = """
    from routilux_mp._serialization.code import pack_code
    class A:
        def make(self): return helper()
    def helper(): return "first"
    open("first", "wb").write(pack_code({"a": A()}, main=sys.modules["__main__"]).data)
    class B(A):
        pass
    def helper(): return "second"
    routines = {"b": B()}
    payloads = [B(), A()]
    """
    check = """
    # The receiver of the second code has loaded the first before, as a nursery would have.
    assert isinstance(items[0], __main__.A) and type(items[1]) is __main__.A
    first = load_code(Path("first").read_bytes())
    assert first.routine("a").make() == "first" and code.routine("b").make() == "first"
    again = load_code(Path("bundle").read_bytes())
    assert type(again.routine("b")) is type(code.routine("b"))
    """
    ship(tmp_path, script, check)


def test_things_that_only_dill_knows(tmp_path: Path) -> None:
    script = """
    import functools, weakref
    class Target: pass
    target = Target()
    @functools.singledispatch
    def show(x): return "any"
    @show.register
    def _(x: int): return "int"
    class R:
        def __init__(self): self.ref, self.target = weakref.ref(target), target
        def go(self): return show(1), show("")
    routines = {"r": R()}
    """
    check = """
    r = code.routine("r")
    assert r.go() == ("int", "any")
    assert r.ref is not None
    """
    ship(tmp_path, script, check)


def test_a_class_defined_in_a_worker_comes_back(tmp_path: Path) -> None:
    script = """
    class R:
        def make(self):
            import dataclasses
            @dataclasses.dataclass
            class Result:
                n: int
                def twice(self): return self.n * factor
            return Result(4)
    factor = 2
    routines = {"r": R()}
    """
    check = """
    made = [code.routine("r").make() for _ in range(2)]
    Path("back").write_bytes(encode_batch([*made, made[0]], signer, b"").data)
    """
    after = """
    assert [b.n for b in back] == [4, 4, 4] and back[0].twice() == 8
    assert type(back[0]) is type(back[2])
    """
    ship(tmp_path, script, check, after=after)


@pytest.mark.parametrize("name", ["bundle", "there"])
def test_the_same_program_gives_the_same_bytes_every_time(tmp_path: Path, name: str) -> None:
    """Else every restart would look like a change of code."""
    contents = set()
    for seed in ("1", "2"):
        (tmp_path / "user_script.py").write_text(f"import sys\n{SCRIPT}\n{SEND}")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "user_script.py"], cwd=tmp_path, env=environment, check=True, timeout=60)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1
