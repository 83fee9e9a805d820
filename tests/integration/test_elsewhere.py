"""A job goes on, from the code it keeps, on a machine where Python, its packages and its project lie elsewhere."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._storage.store import Store
from routilux_mp._supervisor import recovery
from routilux_mp.backends import nursery
from routilux_mp.errors import StorageError
from routilux_mp.settings import Settings

ELSEWHERE = "/elsewhere"


class Looks(Routine):
    def __init__(self, gate: Path) -> None:
        super().__init__()
        self.gate = gate
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self) -> Iterator[int]:
        while not self.gate.exists():
            time.sleep(0.01)
            yield 0  # where it can be paused
        import colorsys  # of the standard library, and in no worker yet

        import filelock  # of what is installed
        import of_the_project  # type: ignore[import-not-found]

        self.emit("out", cwd=os.getcwd(), found=[colorsys.__name__, filelock.__name__, of_the_project.NAME])


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a job that was begun elsewhere, and handed over."""
    project = tmp_path / "project"
    project.mkdir()
    project.joinpath("of_the_project.py").write_text("NAME = 'theirs'\n")
    here = recovery.environment()
    theirs = {
        **here,
        "sys_path": [f"{ELSEWHERE}/lib/python3", f"{ELSEWHERE}/lib/python3/site-packages", str(project)],
        "prefixes": [ELSEWHERE, ELSEWHERE],
        "cwd": f"{ELSEWHERE}/project",
    }
    flow = Flow("looks")
    flow.add_routine(Looks(tmp_path / "gate"), "looks")
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "environment", lambda: theirs)
        with Runtime(1, checkpoint_dir=str(tmp_path / "root"), settle_s=0) as runtime:
            state = runtime.execute(flow, "looks", {})
            flow.pause(state)
            runtime.shutdown(wait=False)
    tmp_path.joinpath("gate").touch()
    return state.job_id


def test_it_finds_what_is_here(begun: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Runtime(1, checkpoint_dir=str(tmp_path / "root")) as runtime:
        state = runtime.resume_job(begun)
        assert state._live_or_fail().handle.wait(lambda view: view.is_terminal, 30)
        assert (state.status, state.error) == ("completed", None)
        (result,) = state.results("looks", "out")
    assert result["found"] == ["colorsys", "filelock", "theirs"]
    assert result["cwd"] == os.getcwd()
    told = [record.getMessage() for record in caplog.records if ELSEWHERE in record.getMessage()]
    assert told == [
        f"job {begun} was begun in {ELSEWHERE}/project, which is not here: its handlers run in {os.getcwd()}"
    ]


@pytest.mark.parametrize(
    ("theirs", "prefixes", "places"),
    [
        (["/a/lib/python3.11", "/a/app"], ["/a", "/a"], ["/a/app", "here", "also here"]),
        (["/a/lib/python3.11", "/a/app"], [], ["/a/lib/python3.11", "/a/app", "here", "also here"]),
        (["also here", "/a/lib64/x"], ["/a"], ["also here", "here"]),
        (["/a/library"], ["/b"], ["/a/library", "here", "also here"]),
    ],
)
def test_modules_of_an_installation_are_those_of_this_one(
    monkeypatch: pytest.MonkeyPatch, theirs: list[str], prefixes: list[str], places: list[str]
) -> None:
    monkeypatch.setattr(nursery, "_begun_with", ["here", "also here"])
    assert nursery._places(theirs, prefixes) == places


def test_on_the_same_machine_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "_begun_with", list(sys.path))
    theirs = recovery.environment()
    assert nursery._places(theirs["sys_path"], theirs["prefixes"]) == [p or os.getcwd() for p in sys.path]  # type: ignore[arg-type]


@pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="it imports nothing where the directory of a -c is gone")
def test_a_server_whose_directory_was_removed_runs_jobs(tmp_path: Path) -> None:
    program = """
import os, sys
os.rmdir(os.getcwd())
from routilux_mp import Flow, Routine, Runtime
class Adds(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")
    def go(self, n):
        self.emit("out", n=n + 1)
flow = Flow("adds")
flow.add_routine(Adds(), "adds")
with Runtime(1, checkpoint_dir=sys.argv[1]) as runtime:
    state = runtime.execute(flow, "adds", {"n": 4})
print(state.status, *[r["n"] for r in state.results("adds", "out")])
"""
    gone = tmp_path / "gone"
    gone.mkdir()
    script = tmp_path / "server.py"
    script.write_text(program)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "root")],
        cwd=gone, env={"PYTHONPATH": str(root), "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("completed 5\n", "")


def test_a_directory_that_is_meant_from_one_that_was_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def removed() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", removed)
    with pytest.raises(StorageError, match=r"'checkpoints' is meant from .* Name it by its whole path"):
        Store("checkpoints", Settings())
