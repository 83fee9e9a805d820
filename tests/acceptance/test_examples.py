"""The long examples, each a user's file without a main guard, run in a fresh process; their output is asserted."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Program

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


FAILURE = "failing/0 failed, and so does the job"


def lines_of(done: subprocess.CompletedProcess[str], *, failures: int = 0) -> list[str]:
    """What it printed; nothing else but the log of so many activations that failed for good."""
    told = re.split(r"^(?=job )", done.stderr, flags=re.MULTILINE)[1:]
    assert [text.splitlines()[0].split(": ", 1)[1] for text in told] == [FAILURE] * failures, done.stderr
    assert (done.returncode, len(done.stderr)) == (0, len("".join(told))), done.stderr
    return done.stdout.splitlines()


def test_no_example_has_a_main_guard() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    assert [name for name, text in texts.items() if re.search(r"^if __name__", text, re.MULTILINE)] == []


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [path.stem for path in EXAMPLES.glob("*.py") if path.stem not in tests] == []


def test_resume_attempt(python: Program) -> None:
    lines = lines_of(python(EXAMPLES / "resume_attempt.py"))
    job_id = lines[1].removeprefix("First execution. Job ID: ")
    assert lines == [
        "Processed: first_input (attempt #1)",
        f"First execution. Job ID: {job_id}",
        "Loaded JobState. Status: completed",
        f"Original Job ID: {job_id}",
        "Processed: first_input (attempt #2)",
        "Resumed execution. Status: completed",
        f"A run of: {job_id}",
    ]
    assert re.fullmatch(r"[0-9a-f-]{36}", job_id)


@pytest.mark.parametrize("way", ["file", pytest.param("socket", marks=pytest.mark.slow), "sqlite"])
def test_cross_host(python: Program, tmp_path: Path, way: str) -> None:
    assert lines_of(python(EXAMPLES / "cross_host.py", way)) == [
        "Host A: paused, a part is done",
        "Host B: completed, 82 records",
        f"By {way}: every result once, in order, the first ones made by A and the last ones by B",
    ]
    assert (tmp_path / f"host_a_{way}").is_dir()
    assert (tmp_path / f"host_b_{way}").is_dir()


def test_retry_demo_with_a_directory_of_its_own_for_each_host(python: Program) -> None:
    """A does not know of B and goes on: at least once. B makes the three attempts that were left."""
    assert lines_of(python(EXAMPLES / "retry_demo.py", "own"), failures=2) == [
        "--- own checkpoint directory",
        "Host A: running",
        "State saved at 2 failures, retry count 2/4",
        "Host B: ['long_running', 'failing', 'success']",
        "  - Strategy: ErrorStrategy.RETRY",
        "  - Retry count: 2",
        "  - Status: running",
        "  - Final status: failed",
        "  - Final retry count: 4/4",
        "  - Failed attempts in the history: 5",
        "Host A in the end: failed",
        "Attempts on A: 1, 2, 3, 4, 5",
        "Attempts on B: 3, 4, 5",
        "SuccessRoutine executed: False",
    ]


def test_retry_demo_with_one_directory_for_both_hosts(python: Program) -> None:
    """Five attempts in all, whoever makes them."""
    assert lines_of(python(EXAMPLES / "retry_demo.py", "shared"), failures=1) == [
        "--- shared checkpoint directory",
        "Host A: running",
        "State saved at 2 failures, retry count 2/4",
        "Host B: ['long_running', 'failing', 'success']",
        "  - Strategy: ErrorStrategy.RETRY",
        "  - Retry count: 2",
        "  - Status: paused",
        "  - Final status: failed",
        "  - Final retry count: 4/4",
        "  - Failed attempts in the history: 5",
        "Attempts on A: 1, 2",
        "Attempts on B: 3, 4, 5",
        "SuccessRoutine executed: False",
    ]


# -- types ------------------------------------------------------------------------------------------


def test_typed_runs(python: Program) -> None:
    assert lines_of(python(EXAMPLES / "typed.py")) == ["True completed", "['start', 'output', 'output']", "10 3"]


def test_the_package_says_that_it_is_typed() -> None:
    spec = importlib.util.find_spec("routilux_mp")
    assert spec is not None
    assert spec.submodule_search_locations
    assert Path(spec.submodule_search_locations[0], "py.typed").is_file()


#: As strict as a user can be; that our own dependencies bring no types is not the user's concern.
MYPY = ["--strict", "--config-file=", "--disable-error-code=import-untyped"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mypy's, so that the standard library is looked at once."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_checker_has_nothing_to_say_about_typed(tmp_path: Path, cache: Path, checker: str) -> None:
    pytest.importorskip(checker)
    if checker == "pyright" and shutil.which("node") is None:
        pytest.skip("pyright needs node, and would download it")
    (tmp_path / "typed.py").write_text((EXAMPLES / "typed.py").read_text(encoding="utf-8"))
    options = {
        "mypy": [*MYPY, f"--cache-dir={cache}", "--no-error-summary"],
        "pyright": ["--pythonpath", sys.executable],
    }
    done = subprocess.run(
        [sys.executable, "-m", checker, *options[checker], str(tmp_path / "typed.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},  # or it asks the network for newer versions
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_checker_finds_what_is_wrong(tmp_path: Path, cache: Path) -> None:
    """The annotations say something: a wrong call is an error."""
    pytest.importorskip("mypy")
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from routilux_mp import Flow, Routine\n"
        "flow = Flow()\n"
        "number: int = flow.add_routine(Routine(), 'a')\n"
        "flow.connect('a', 1, 'b', 'input')\n"
        "flow.execute('a').no_such_thing\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *MYPY, f"--cache-dir={cache}", str(wrong)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert re.findall(r"\[([a-z-]+)\]", done.stdout) == ["assignment", "arg-type", "attr-defined"], done.stdout
