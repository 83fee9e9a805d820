"""A job is resumed, and its code is not what it was: refused, reused, run again; nothing else is disturbed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from routilux_mp import Flow, Runtime
from routilux_mp.errors import CodeChanged, SettingInvalid

DEADLINE_S = 60.0
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, time
from pathlib import Path
from routilux_mp import Flow, Routine

SEEN = str(Path(__file__).parent / "seen")
with (Path(__file__).parent / "imported").open("a") as file:
    file.write(f"{os.getpid()}\\n")


class Source(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger", handler=self.start)
        self.add_event("number")

    def start(self, n, gate=""):
        for i in range(self.resume_cursor or 0, n):
            self.emit("number", i=i)
            if gate and i == 3 and not os.path.exists(gate):
                while not os.path.exists(SEEN):
                    time.sleep(0.001)
                context = self.get_execution_context()
                context.flow.pause(context.job_state, "half")
            yield i + 1


class Square(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("number", handler=self.square)
        self.add_event("squared")

    def square(self, i):
        open(SEEN, "w").close()
        self.emit("squared", value=i * i)


class Total(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("squared", handler=self.add)
        self.add_event("sum")

    def add(self, value):
        self.emit("sum", value=value)


def flow():
    made = Flow(flow_id="numbers")
    made.add_routine(Source(), "source")
    made.add_routine(Square(), "square")
    made.add_routine(Total(), "total")
    made.connect("source", "number", "square", "number")
    made.connect("square", "squared", "total", "squared")
    return made
"""
NEW_SQUARE = PROGRAM.replace("value=i * i", "value=i * i + 1000")
_numbers = itertools.count()


def load(folder: Path, text: str) -> ModuleType:
    """The program as a module that nobody else could import."""
    path = folder / f"program_{next(_numbers)}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def paused_half(folder: Path, text: str = PROGRAM) -> str:
    """A job of which a part of the squares is done; its id."""
    with Runtime(3, checkpoint_dir=str(folder / "root")) as runtime:
        state = runtime.exec(load(folder, text).flow(), {"n": 8, "gate": str(folder / "gate")}, settle_s=0)
        until(lambda: state.status == "paused")
    (folder / "gate").touch()
    return state.job_id


def finish(folder: Path, job_id: str, flow: Flow, **how: Any) -> tuple[Any, list[int]]:
    with Runtime(3, checkpoint_dir=str(folder / "root")) as runtime:
        state = runtime.resume_job(job_id, flow, **how)
        assert runtime.wait_until_all_jobs_finished(timeout=DEADLINE_S)
        assert state.status == "completed", state.error
        return state, [result["value"] for result in state.results("total", "sum")]


def test_the_same_code_under_another_name_and_with_comments_is_the_same_code(tmp_path: Path) -> None:
    job_id = paused_half(tmp_path)
    text = PROGRAM.replace("def square", "# why not\n\n    def square").replace('"numbers")', '"numbers" )')
    _, values = finish(tmp_path, job_id, load(tmp_path, text).flow())
    assert values == [i * i for i in range(8)]


def test_changed_code_of_unfinished_work_is_refused_and_named(tmp_path: Path) -> None:
    job_id = paused_half(tmp_path)
    before = sorted(path.name for path in (tmp_path / "root" / job_id / "epochs").rglob("*"))
    new = load(tmp_path, NEW_SQUARE)
    with Runtime(3, checkpoint_dir=str(tmp_path / "root")) as runtime, pytest.raises(CodeChanged) as found:
        runtime.resume_job(job_id, new.flow())
    text = str(found.value)
    for part in ("'square'", "class Square", str(new.__file__), ": square", "old code", "reuse", "rerun", job_id):
        assert part in text, part
    assert "'source'" not in text
    assert "'total'" not in text
    assert before == sorted(path.name for path in (tmp_path / "root" / job_id / "epochs").rglob("*"))
    assert isinstance(found.value, ValueError)


def test_reuse_keeps_what_is_done_and_is_remembered(tmp_path: Path) -> None:
    job_id = paused_half(tmp_path)
    new = load(tmp_path, NEW_SQUARE)
    with Runtime(3, checkpoint_dir=str(tmp_path / "root")) as runtime:
        (tmp_path / "gate").unlink()
        state = runtime.resume_job(job_id, new.flow(), on_code_change="reuse")
        runtime.pause(state)
    (tmp_path / "gate").touch()
    # Accepted once, it is the job's code: also for those who bring none.
    with Runtime(3, checkpoint_dir=str(tmp_path / "root")) as runtime:
        state = runtime.resume_job(job_id)
        assert runtime.wait_until_all_jobs_finished(timeout=DEADLINE_S)
        values = [result["value"] for result in state.results("total", "sum")]
    old = [i * i for i in range(8)]
    assert [value % 1000 for value in values] == old
    assert values[0] == 0
    assert values[-1] == 1049
    assert values == sorted(values)
    with Runtime(3, checkpoint_dir=str(tmp_path / "root")) as runtime:
        assert runtime.resume_job(job_id, load(tmp_path, PROGRAM).flow()).status == "completed"


def test_rerun_begins_again_as_a_new_job(tmp_path: Path) -> None:
    job_id = paused_half(tmp_path)
    state, values = finish(tmp_path, job_id, load(tmp_path, NEW_SQUARE).flow(), on_code_change="rerun")
    assert values == [i * i + 1000 for i in range(8)]
    assert state.job_id != job_id
    assert state.metadata["rerun_of"] == job_id
    with Runtime(3, checkpoint_dir=str(tmp_path / "root")) as runtime:
        old = runtime.resume_job(job_id)
        assert old.status == "cancelled"
        assert state.job_id in old.routine_states["_cancellation"]["reason"]


def test_rerun_of_what_has_not_changed_just_goes_on(tmp_path: Path) -> None:
    job_id = paused_half(tmp_path)
    state, values = finish(tmp_path, job_id, load(tmp_path, PROGRAM).flow(), on_code_change="rerun")
    assert state.job_id == job_id
    assert values == [i * i for i in range(8)]


def test_code_that_is_not_used_yet_may_change(tmp_path: Path) -> None:
    waiting = PROGRAM.replace(
        'made.connect("square"',
        'made.routines["total"].set_activation_policy(upstream_done_policy())\n    made.connect("square"',
    )
    waiting = waiting.replace(
        'self.add_slot("squared", handler=self.add)', 'self.add_slot("squared")\n        self.set_logic(self.add)'
    )
    waiting = waiting.replace("def add(self, value):", "def add(self, squared):").replace(
        "value=value", "value=len(squared)"
    )
    waiting = waiting.replace("import Flow, Routine", "import Flow, Routine, upstream_done_policy")
    job_id = paused_half(tmp_path, waiting)
    later = waiting.replace("value=len(squared)", "value=100 + len(squared)")
    with pytest.raises(CodeChanged, match="'total' has unfinished work"):  # it holds what has come in so far
        finish(tmp_path, job_id, load(tmp_path, later).flow())
    _, values = finish(tmp_path, job_id, load(tmp_path, later).flow(), on_code_change="reuse")
    assert values == [108]


def test_code_that_is_not_used_any_more_may_change(tmp_path: Path) -> None:
    only_first = PROGRAM.replace("if gate and i == 3 and", "if False and")
    only_first = only_first.replace(
        'self.emit("sum", value=value)',
        """if value == 49 and not os.path.exists(GATE):
            context = self.get_execution_context()
            context.flow.pause(context.job_state, "last")
        self.emit("sum", value=value)""",
    ).replace("class Source", f"GATE = {str(tmp_path / 'gate')!r}\n\n\nclass Source", 1)
    job_id = paused_half(tmp_path, only_first)
    changed = only_first.replace("value=i * i", "value=i * i + 1000")
    _, values = finish(tmp_path, job_id, load(tmp_path, changed).flow())
    assert values == [i * i for i in range(8)]


def test_an_impossible_choice_is_refused(tmp_path: Path) -> None:
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime, pytest.raises(SettingInvalid, match="on_code_change"):
        runtime.resume_job("no-job", on_code_change="maybe")
    with pytest.raises(SettingInvalid, match="on_code_change"):
        Runtime(1, checkpoint_dir=str(tmp_path), on_code_change="maybe")


# -- from the command line: code is imported by other processes only --------------------------------


def rmp(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "routilux_mp.cli", *arguments],
        cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "ROUTILUX_MP_CHECKPOINT_DIR": str(folder / "checkpoints")}


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_the_command_line_notices_changed_modules_and_imports_none_itself(tmp_path: Path) -> None:
    script = tmp_path / "numbers_flow.py"
    script.write_text(PROGRAM)
    run = rmp(tmp_path, "run", "numbers_flow.py", "-p", "n=8", "-p", f"gate={tmp_path / 'gate'}", "--json")
    assert run.returncode == 4, run.stderr
    job = Path(json.loads(run.stdout)["directory"])
    (tmp_path / "gate").touch()

    script.write_text(NEW_SQUARE)
    for flow in ((), ("--flow", "numbers_flow.py")):
        refused = rmp(tmp_path, "resume", str(job), *flow)
        assert refused.returncode == 2, refused.stderr
        assert "'square'" in refused.stderr
        assert str(script) in refused.stderr
        assert "--on-code-change" in refused.stderr
    reused = rmp(tmp_path, "resume", str(job), "--on-code-change", "reuse", "--json")
    assert reused.returncode == 0, reused.stderr
    assert json.loads(reused.stdout)["job_id"] == job.name

    run = rmp(tmp_path, "run", "numbers_flow.py", "-p", "n=8", "-p", f"gate={tmp_path / 'gate2'}", "--json")
    job = Path(json.loads(run.stdout)["directory"])
    (tmp_path / "gate2").touch()
    script.write_text(PROGRAM)
    again = rmp(tmp_path, "resume", str(job), "--on-code-change", "rerun", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["job_id"] != job.name


@pytest.mark.slow
def test_run_keeps_user_code_out_of_the_process_that_owns_the_job(tmp_path: Path) -> None:
    (tmp_path / "numbers_flow.py").write_text(PROGRAM)
    running = subprocess.Popen(
        [sys.executable, "-m", "routilux_mp.cli", "run", "numbers_flow:flow", "-p", "n=4", "--plain"],
        cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert running.wait(DEADLINE_S) == 0
    imported = {int(line) for line in (tmp_path / "imported").read_text().split()}
    assert imported
    assert running.pid not in imported


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('not today')", "not today"),
        ("import os; os._exit(7)", "status 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", f"signal {signal.SIGSEGV}"),
        ("other = 3", "has no 'flow'"),
        ("from routilux_mp import Flow\nflow = Flow()", "has no routines"),
    ],
)
def test_a_flow_that_cannot_be_loaded_is_an_error_and_no_more(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad_flow.py").write_text(text)
    run = rmp(tmp_path, "run", "bad_flow.py")
    assert run.returncode == 2, run.stderr
    assert says in run.stderr
    assert not (tmp_path / "checkpoints").exists()
