"""What handlers log goes where the caller's log goes, in its format; what it does not want to see is not sent."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
    import logging, os, sys
    from routilux_mp import Flow, Routine

    class Says(Routine):
        def __init__(self):
            super().__init__()
            self.define_slot("trigger", handler=self.go)

        def go(self):
            log.debug("not wanted")
            log.info("item %d of %d", 1, 2, extra=told)
            try:
                {}["missing"]
            except KeyError:
                logging.getLogger("other").exception("it went wrong", extra=told)
            quiet.info("not wanted either")

    shown = "%(levelname)s|%(name)s|%(funcName)s|%(job)s|%(message)s"
    logging.basicConfig(level=logging.INFO, format=shown, stream=sys.stdout)
    told = {"job": "j"}
    log, quiet = logging.getLogger("mine"), logging.getLogger("quiet")
    quiet.setLevel(logging.WARNING)
    flow = Flow(flow_id="says")
    flow.add_routine(Says(), "says")
    state = flow.execute("says", entry_params={})
    assert flow.wait_for_completion(job_state=state, timeout=60) and state.status == "completed", state.error
"""


def _ran(folder: Path, **environment: str) -> str:
    (folder / "says.py").write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, "-W", "error", "says.py"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", ["local", "inline"])
def test_records_meet_the_callers_handlers(backend: str, tmp_path: Path) -> None:
    out = _ran(tmp_path, ROUTILUX_MP_BACKEND=backend)
    assert "INFO|mine|go|j|item 1 of 2\n" in out
    assert "ERROR|other|go|j|it went wrong\nTraceback" in out
    assert "KeyError: 'missing'\n" in out
    assert "not wanted" not in out
