"""The end of a script: what goes on is waited for, what is paused stays paused and can be resumed."""

from __future__ import annotations

import time
from pathlib import Path

from tests.acceptance.conftest import Program

SCRIPT = """
import sys
from pathlib import Path
from routilux_mp import Flow, JobState, Routine

class Count(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger", handler=self.count)
        self.add_event("output")
    def count(self):
        for number in range(self.resume_cursor or 0, 200):
            self.emit("output", number=number)
            import time; time.sleep(0.002)
            yield number + 1

flow = Flow("counts")
flow.add_routine(Count(), "count")
if sys.argv[1] == "start":
    paused, free = flow.execute("count", settle_s=0), flow.execute("count", settle_s=0)
    JobState.wait_until_condition(flow, paused, lambda f, s: len(s.execution_history) > 3, 30, 0.005)
    flow.pause(paused)
    Path("state.json").write_text(__import__("json").dumps(paused.serialize()))
    print(paused.status, paused.job_id, free.job_id)
else:
    state = flow.resume(JobState.load("state.json"))
    flow.wait_for_completion(timeout=60)
    print(state.status, [r["number"] for r in state.results("count", "output")] == list(range(200)))
"""


def test_what_is_paused_stays_paused(python: Program, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    begin = time.monotonic()
    done = python("script.py", "start")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    status, paused, free = done.stdout.split()
    assert status == "paused"
    assert time.monotonic() - begin < 50  # it did not wait for the paused job
    found = python("-m", "routilux_mp.cli", "status", "--json")
    assert f'"{free}"' in found.stdout, found.stdout
    done = python("script.py", "resume")
    assert (done.stdout, done.stderr) == ("completed True\n", "")
