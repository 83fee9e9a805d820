"""What is sent with a routine, what is not, and what is refused by name."""

from __future__ import annotations

import io
import linecache
import os
import subprocess
import sys
import threading
import types

import pytest

from routilux_mp._serialization import explaining, limits, shipped
from routilux_mp._serialization.code import load_code, pack_code, ship_value
from routilux_mp._storage.layout import COMMIT_FILE_BYTES_MAX
from routilux_mp.errors import CheckpointDamaged, CheckpointFormat, NotShippable, RoutiluxError


@pytest.fixture
def main():
    """A main module of our own: what a script or a notebook is to its functions."""
    module = types.ModuleType("__main__")

    def run(text: str) -> types.ModuleType:
        exec(compile(text, "<cell>", "exec"), module.__dict__)
        return module

    kept = sys.modules["__main__"]
    sys.modules["__main__"] = module
    run("import threading, socket, sys, os, io, types")
    yield run
    sys.modules["__main__"] = kept


def refusal(module: types.ModuleType, name: str = "R") -> str:
    with pytest.raises(NotShippable) as caught:
        pack_code({"x": getattr(module, name)()}, main=module)
    return str(caught.value)


def test_unused_globals_are_not_in_the_way(main) -> None:
    module = main(
        "log = open(os.devnull)\nlock = threading.Lock(); lock.acquire()\nlines = (i for i in '')\n"
        "class R:\n    def go(self): return self.log, self.lines\n"
    )
    assert type(load_code(pack_code({"x": module.R()}, main=module).data).routine("x")) is module.R
    module.log.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "class R:\n    def go(self): return log.read()",
            "Routine 'x': global 'log' (TextIOWrapper), used by R.go(), cannot be sent to a worker",
        ),
        (
            "class R:\n    def go(self): return helper()\ndef helper(): return lines",
            "Routine 'x': global 'lines' (generator), used by helper(), cannot be sent",
        ),
        (
            "class R:\n    def go(self): return (lambda: [held for i in ''])()",
            "global 'held' (lock), used by R.go(), cannot be sent to a worker: a lock that is held",
        ),
        (
            "class R:\n    def __init__(self): self.deep = {'a': [1, log]}",
            "Routine 'x': attribute 'deep['a'][1]' (TextIOWrapper)",
        ),
        (
            "class R:\n    def __init__(self):\n        f = log\n        self._logic = lambda: f",
            "Routine 'x': attribute '_logic.<f>' (TextIOWrapper)",
        ),
        ("class R:\n    shared = lines", "Routine 'x': class attribute 'R.shared' (generator)"),
        (
            "class P: pass\np = P(); p.q = {'k': log}\nclass R:\n    def go(self): return p",
            "Routine 'x': global 'p.q['k']' (TextIOWrapper), used by R.go(),",
        ),
        (
            "class R:\n    def __init__(self): self.t = threading.Thread()",
            "attribute 't' (Thread) cannot be sent to a worker: a thread stays in its process",
        ),
        (
            "class R:\n    def __init__(self): self.m = types.ModuleType('made_up')",
            "module 'made_up' cannot be imported by a fresh process",
        ),
    ],
    ids=["global", "global of a function", "held lock", "attribute", "closure", "class", "deep", "thread", "module"],
)
def test_what_is_used_and_cannot_be_sent_is_named(main, text, said) -> None:
    module = main("log = open(os.devnull)\nheld = threading.Lock(); held.acquire()\nlines = (i for i in '')\n" + text)
    try:
        assert said in refusal(module)
    finally:
        module.log.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m = b'x' * 20000\nclass R:\n    def go(self): return m", "Routine 'x': global 'm' (bytes), used by R.go(),"),
        (
            "class R:\n    def __init__(self): self.me, self.small, self.m = [self], 1, {'a': b'x' * 20000}",
            "Routine 'x': attribute 'm' (dict) cannot be sent to a worker: it takes 20,",
        ),
        ("class R:\n    table = b'x' * 20000", "Routine 'x': class attribute 'R.table' (bytes)"),
        (
            "class R:\n    def __init__(self):\n        for i in range(9): setattr(self, f'm{i}', b'%d' % i * 3000)",
            "Routine 'x': the object itself (R) cannot be sent to a worker: it takes 27,",
        ),
    ],
    ids=["global", "attribute", "class", "many things"],
)
def test_code_that_weighs_too_much_is_refused_and_what_of_it_is_named(
    main, text, said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pack_code({"x": main(text).R()}, main=main(text))
    monkeypatch.setattr(limits, "CODE_BYTES_MAX", 20_000)
    told = refusal(main(text))
    assert said in told
    assert "and 20,000 is the most. Load it in the handler" in told


def test_code_that_weighs_much_is_told_once(
    main, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(explaining, "_said", set())
    monkeypatch.setattr(limits, "CODE_BYTES_HEAVY", 20_000)
    module = main("m = b'x' * 100\nclass R:\n    def __init__(self, n): self.w = b'x' * n\n    def go(self): return m")
    pack_code({"x": module.R(10)}, main=module)
    assert not caplog.messages
    for _ in range(2):
        pack_code({"x": module.R(20_000)}, main=module)
    (told,) = caplog.messages
    assert told.startswith("Routine 'x': attribute 'w' (bytes) takes 20,")
    assert "bytes, which every job of this flow writes and keeps. Load it in the handler" in told


def test_no_code_is_too_large_for_a_commit() -> None:
    """With parameters as large as they may be by default, and some more for what else is in the first one."""
    assert limits.CODE_BYTES_MAX + 33_554_432 + 10_000_000 < COMMIT_FILE_BYTES_MAX


def test_an_object_that_refuses_gives_its_own_reason_and_cure(main) -> None:
    module = main(
        "from routilux_mp.errors import NotShippable\n"
        "class Engine:\n    def __reduce__(self): raise NotShippable('it runs here; use its name instead')\n"
        "class R:\n    def __init__(self): self.engine = Engine()"
    )
    text = refusal(module)
    assert "Routine 'x': attribute 'engine' (Engine) cannot be sent to a worker: it runs here; use its name" in text
    assert "__getstate__" not in text


def test_a_flow_or_runtime_without_a_form_for_workers_does_not_come_along() -> None:
    class Flow:
        __module__ = "routilux_mp.flow"

    class MyFlow(Flow):
        def __init__(self) -> None:
            self.lines = (line for line in "")  # not the reason: the flow as a whole stays

    class R:
        def __init__(self) -> None:
            self.flow = MyFlow()

    with pytest.raises(NotShippable, match=r"attribute 'flow' \(MyFlow\) .* belongs to the process that runs it"):
        pack_code({"x": R()}, main=None)


def test_free_locks_and_standard_streams_arrive_as_the_workers_own() -> None:
    class R:
        def __init__(self) -> None:
            self.lock, self.event = threading.RLock(), threading.Event()
            self.out, self.text = sys.stdout, io.StringIO("kept")

    routine = R()
    back = load_code(pack_code({"x": routine}, main=None).data).routine("x")
    assert back.lock is not routine.lock
    assert back.lock.acquire(blocking=False)
    assert back.out is sys.stdout
    assert back.text.getvalue() == "kept"
    assert not back.event.is_set()


def test_every_build_is_fresh_and_has_the_same_classes() -> None:
    class R:
        def __init__(self) -> None:
            self.seen: list[int] = []
            self._logic = lambda n: self.seen.append(n)  # noqa: PLW0108 - a closure over self is the point
            self.handler = self.take
            self.private = self.__hidden

        def take(self) -> object:
            return self

        def __hidden(self) -> str:
            return "found"

    original = R()
    code = load_code(pack_code({"x": original}, main=None).data)
    first, second = code.routine("x"), code.routine("x")
    assert type(first) is type(second) is R
    first._logic(1)
    assert (first.seen, second.seen, original.seen) == ([1], [], [])
    assert second.handler() is second
    assert second.handler.__func__ is R.take
    assert second.private() == "found"


def test_the_digest_changes_with_the_code_and_only_then(main) -> None:
    text = "limit = 5\nclass R:\n    def go(self): return limit\n"
    module = main(text)
    before = pack_code({"x": module.R()}, main=module).digest
    assert pack_code({"x": module.R()}, main=module).digest == before
    module.unused = 7
    assert pack_code({"x": module.R()}, main=module).digest == before
    module.limit = 6
    assert pack_code({"x": module.R()}, main=module).digest != before
    module = main(text.replace("return limit", "return -limit"))
    assert pack_code({"x": module.R()}, main=module).digest != before


def test_classes_of_main_go_along_even_if_only_payloads_use_them(main) -> None:
    module = main("class Item: pass\nclass Stuck:\n    lines = (i for i in '')\nclass R: pass\n")
    code = pack_code({"x": module.R()}, main=module)
    assert b"Item" in code.data
    assert b"Stuck" not in code.data


def test_an_unknown_routine_is_named() -> None:
    code = load_code(pack_code({"a": object(), "b": object()}, main=None).data)
    with pytest.raises(NotShippable, match="Routine 'c' is not in this code; it has: a, b"):
        code.routine("c")
    assert code.routine_ids == ["a", "b"]


def test_a_bundle_of_another_python_or_none_at_all() -> None:
    data = pack_code({"a": object()}, main=None).data
    version = f"{sys.version_info.major}.{sys.version_info.minor}".encode()
    with pytest.raises(CheckpointFormat, match=r"cpython 9\.9+ and this is cpython"):
        load_code(data.replace(version, b"9." + b"9" * (len(version) - 2), 1))
    for damaged in (b"", b"\xc1", b"\x80", data[:-1], data + b"\0"):
        with pytest.raises(CheckpointDamaged):
            load_code(damaged)


def test_a_class_that_is_missing_at_the_other_end_is_named(tmp_path) -> None:
    (tmp_path / "vanishing.py").write_text("class Gone:\n    pass\n")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import vanishing\n"
        "from routilux_mp._serialization.code import pack_code\n"
        "sys.stdout.buffer.write(pack_code({'x': vanishing.Gone()}, main=None).data)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["."])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=True, env=environment
    )
    with pytest.raises(RoutiluxError, match=r"Routine 'x' cannot be loaded .* No module named 'vanishing'; install it"):
        load_code(done.stdout).routine("x")


def test_lines_that_are_in_no_file_travel_with_the_code(main, tmp_path, monkeypatch) -> None:
    cache: dict[str, object] = {}
    monkeypatch.setattr(linecache, "cache", cache)
    text = "class R:\n    def go(self): return 1\ndef other(): return 'another cell'\n"
    typed, script, unused = "/nowhere/typed", str(tmp_path / "script.py"), "/nowhere/unused"
    for name, changed_at in ((typed, None), (script, 1.0), (unused, None)):
        cache[name] = (len(text), changed_at, text.splitlines(True), name)
    cache["/nowhere/lazy"] = (lambda: text,)
    module = main("")
    for name in (typed, script, "/nowhere/lazy"):
        exec(compile(text, name, "exec"), module.__dict__)
        data = pack_code({"x": module.R()}, main=module).data
        assert (b"another cell" in data) == (name == typed), "what has a file, or is read when it is needed, stays"
        if name == typed:
            there = data
        assert b"another cell" not in ship_value(module.R.go), "a function in a payload is small"
    cache.clear()
    monkeypatch.setattr(shipped, "_tables", {})  # as in a process that has never seen it
    load_code(there)
    assert linecache.getline(typed, 3) == "def other(): return 'another cell'\n"
    linecache.checkcache()
    assert linecache.getline(typed, 1) == "class R:\n", "it is not looked for on the disk"
    assert unused not in cache
