"""``output_file``: whole or not there, across failures, retries and a supervisor that dies at the worst moment."""

import json

import pytest

PROGRAM = """
import os, sys
from pathlib import Path
from routilux_mp import Flow, Routine, Runtime
from routilux_mp._supervisor import commits

class Write(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("done")
    def go(self, fails):
        with self.output_file("result.txt") as file:
            file.write("whole")
        assert not Path("result.txt").exists()
        if self.attempt <= fails:
            raise ValueError("not this time")
        self.emit("done")

def die(outputs):
    if list(outputs):
        os._exit(9)

if "die" in sys.argv:
    commits.put_in_place = die  # the commit stands, the file is not in its place yet
flow = Flow(flow_id="writes")
write = Write()
write.set_as_critical(max_retries=1, retry_delay=0.0)
flow.add_routine(write, "write")
with Runtime(1) as runtime:
    if "resume" in sys.argv:
        state = runtime.resume_job(sys.argv[2], flow)
    else:
        state = flow.execute("write", {"fails": int(sys.argv[1])}, settle_s=0)
    flow.wait_for_completion(30, state)
    print(state.status)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def written(folder):
    """What is in the folder beside the program itself."""
    known = {"program.py", "checkpoints", "key", "__pycache__"}
    return {path.name for path in folder.iterdir()} - known


@pytest.mark.parametrize("fails", [0, 1])
def test_it_appears_when_the_activation_commits(python, folder, fails):
    done = python("program.py", fails)
    assert done.stdout == "completed\n", done.stderr
    assert (folder / "result.txt").read_text() == "whole"
    assert written(folder) == {"result.txt"}


def test_a_failed_activation_leaves_nothing(python, folder):
    done = python("program.py", 2)
    assert done.stdout == "failed\n", done.stderr
    assert written(folder) == set()


def test_a_successor_moves_what_a_dead_supervisor_had_committed(python, rmp, folder):
    died = python("program.py", 0, "die")
    assert died.returncode == 9, died.stderr
    assert not (folder / "result.txt").exists()
    (job,) = json.loads(rmp("status", "--json").stdout)["jobs"]
    resumed = python("program.py", "resume", job["job_id"])
    assert resumed.stdout == "completed\n", resumed.stderr
    assert (folder / "result.txt").read_text() == "whole"
    assert written(folder) == {"result.txt"}
