"""A handler defined in a test may assert: in a worker process it fails with the text that pytest gives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TEST = """
from routilux_mp import Flow, Routine, Runtime

def test_that_asserts(tmp_path):
    class Asserts(Routine):
        def __init__(self):
            super().__init__()
            self.add_slot("trigger", handler=self.go)

        def go(self, **data):
            found = [1]
            assert found == [2], "told"

    flow = Flow()
    flow.add_routine(Asserts(), "asserts")
    with Runtime(1, checkpoint_dir=str(tmp_path)):
        state = flow.execute("asserts")
        flow.wait_for_completion(30, state)
    print(state.error)
"""


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_the_text_of_a_failed_assertion(tmp_path: Path, mode: str) -> None:
    (tmp_path / "test_of_a_user.py").write_text(TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider",
         f"--import-mode={mode}", "test_of_a_user.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "asserts: AssertionError: told\nassert [1] == [2]" in done.stdout, done.stdout + done.stderr
