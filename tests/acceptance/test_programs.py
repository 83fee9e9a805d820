"""Programs as people write them: no main guard, typed into an interpreter, run from a notebook cell."""

import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

NO_GUARD = """
from routilux_mp import Flow, Routine

factor = 3

class Item:
    def __init__(self, value):
        self.value = value

class Source(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")
    def go(self, n):
        for i in range(n):
            self.emit("out", item=Item(i))

class Times(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("inp", handler=lambda item: self.go(item))
        self.define_event("out")
    def go(self, item):
        assert isinstance(item, Item), type(item)
        self.emit("out", value=factor * item.value)

flow = Flow(flow_id="no_guard")
flow.add_routine(Source(), "source")
flow.add_routine(Times(), "times")
flow.connect("source", "out", "times", "inp")
state = flow.execute("source", entry_params={"n": 10})
flow.wait_for_completion(timeout=30, job_state=state)
print(state.status, sum(r["value"] for r in state.results("times", "out")))
"""


def test_a_script_without_a_main_guard(python, tmp_path):
    (tmp_path / "script.py").write_text(NO_GUARD)
    done = python("script.py")
    assert (done.stdout, done.stderr) == ("completed 135\n", "")
    assert done.returncode == 0


@pytest.mark.parametrize(
    "how", [["-m", "app"], ["-c", "import runpy; runpy.run_module('app', run_name='__main__')"]], ids=["m", "runpy"]
)
def test_a_package_that_is_run_imports_its_own_modules(python, tmp_path, how):
    """Also where a handler does so, and says it relatively."""
    program = NO_GUARD.replace("factor = 3", "from .numbers import FACTOR").replace(
        'self.emit("out", value=factor *',
        'from .numbers import FACTOR as again\n        self.emit("out", value=again *',
    )
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "app" / "numbers.py").write_text("FACTOR = 3\n")
    (tmp_path / "app" / "__main__.py").write_text(program)
    done = python(*how)
    assert (done.stdout, done.stderr) == ("completed 135\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("opens", [False, True])
def test_with_standard_streams_closed(python, tmp_path, closed, opens):
    """As some daemons start programs. What is opened next gets their numbers, and nobody else's words."""
    mine = 'from pathlib import Path\nmine = Path("mine").open("w")\n' if opens else ""
    program = NO_GUARD.replace("        assert isinstance", '        print("printed")\n        assert isinstance')
    answer = 'open("answer", "w").write(f"{state.status}")\n'
    (tmp_path / "script.py").write_text(mine + program + answer)
    (tmp_path / "closed.sh").write_text(f'exec "$1" script.py {closed}\n')
    done = python("-c", "import os, sys; os.execv('/bin/sh', ['sh', 'closed.sh', sys.executable])")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "answer").read_text() == "completed"
    assert not opens or (tmp_path / "mine").read_text() == ""


def test_typed_into_an_interpreter(python):
    # A blank line ends a block there; blocks themselves hold none.
    typed = NO_GUARD.replace("\n    def", "\n    def").replace("\nflow =", "\n\nflow =")
    done = python("-i", "-q", "-c", "", stdin=typed)
    assert "completed 135" in done.stdout, done.stderr
    assert "Error" not in done.stderr


def test_from_standard_input_and_from_a_string(python):
    assert python("-", stdin=NO_GUARD).stdout == "completed 135\n"
    assert python("-c", NO_GUARD).stdout == "completed 135\n"


def test_cells_of_a_notebook(python, tmp_path):
    """A notebook's `__main__` has no file, and its cells are executed one after another; a class may be typed anew."""
    cells = NO_GUARD.split("\n\n")
    again = [cell.replace("factor * item.value", "factor * item.value + 1") for cell in cells]
    kernel = f"""
    import sys, types
    main = types.ModuleType("__main__")
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    for cell in {cells + again!r}:
        exec(compile(cell, "<cell>", "exec"), main.__dict__)
    """
    (tmp_path / "kernel.py").write_text(textwrap.dedent(kernel))
    done = python("kernel.py")
    assert (done.stdout, done.stderr) == ("completed 135\ncompleted 145\n", "")


def test_the_lines_of_a_cell_are_in_the_traceback(python, tmp_path):
    """They are in no file: a notebook keeps them where ``linecache`` finds them, and so do its workers."""
    cell = """
import inspect
from routilux_mp import Flow, Routine


class Breaks(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("trigger", handler=self.go)

    def go(self):
        assert "here it breaks" in inspect.getsource(Breaks.go), "its source is known"
        raise ValueError(len("x"))  # here it breaks


flow = Flow("f")
flow.add_routine(Breaks(), "breaks")
state = flow.execute("breaks")
flow.wait_for_completion(timeout=60, job_state=state)
print(state.status)
"""
    kernel = f"""
    import linecache, sys, types
    main = types.ModuleType("__main__")
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    cell = {cell!r}
    linecache.cache["/nowhere/cell_1.py"] = (len(cell), None, cell.splitlines(True), "/nowhere/cell_1.py")
    exec(compile(cell, "/nowhere/cell_1.py", "exec"), main.__dict__)
    """
    (tmp_path / "kernel.py").write_text(textwrap.dedent(kernel))
    done = python("kernel.py")
    assert done.stdout == "failed\n", done.stderr
    assert 'File "/nowhere/cell_1.py", line 13, in go' in done.stderr
    assert 'raise ValueError(len("x"))  # here it breaks' in done.stderr
    assert done.stderr.rstrip().endswith("ValueError: 1")


@pytest.mark.slow
@pytest.mark.parametrize("example", ["metrics_handlers", "metrics_runtime"])
def test_examples(python, tmp_path, example):
    pytest.importorskip("PIL")
    done = python(ROOT / "examples" / f"{example}.py", ROOT / "routilux_mp" / "demo")
    assert done.stdout.startswith("completed\n"), done.stderr
    assert "squarify" not in done.stderr
    picture = done.stdout.strip().splitlines()[-1]
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_the_flow_in_the_readme_runs_as_printed(python, tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    (tmp_path / "squares.py").write_text(program)
    done = python("squares.py")
    assert done.stdout == f"completed {sum(i * i for i in range(1000))}\n", done.stderr
