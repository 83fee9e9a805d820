"""A program that forks while its jobs run: they are its own, and the fork may run jobs too."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
    import gc, os, sys
    from contextlib import nullcontext
    from routilux_mp import Flow, Routine, Runtime

    class Source(Routine):
        def __init__(self):
            super().__init__()
            self.define_slot("trigger", handler=self.go)
            self.define_event("out")

        def go(self, gate):
            self.emit("out", data=b"x" * 3_000_000)
            with open(gate) as fifo:                     # until somebody says that it may go on
                fifo.read()

    class Sink(Routine):
        def __init__(self):
            super().__init__()
            self.define_slot("in", handler=self.go)
            self.define_event("size")

        def go(self, data):
            self.emit("size", n=len(data))

    flow = Flow(flow_id="forked")
    flow.add_routine(Source(), "source")
    flow.add_routine(Sink(), "sink")
    flow.connect("source", "out", "sink", "in")

    def run(gate):
        os.mkfifo(gate)
        return flow.execute("source", entry_params={"gate": gate}, settle_s=0)

    def end(state, gate):
        open(gate, "w").close()
        assert flow.wait_for_completion(job_state=state, timeout=30), state.status
        return state.status, [item["n"] for item in state.results("sink", "size")]

    with Runtime(2) if sys.argv[1] == "leaves" else nullcontext():
        state = run("gate")
        pid = os.fork()
        if pid == 0:
            theirs, state = state, None
            del theirs
            gc.collect()
            if sys.argv[1] == "runs":
                print("fork", *end(run("other"), "other"), flush=True)
            sys.exit(0)                                  # as a program ends, with all that is registered for it
        assert os.waitpid(pid, 0)[1] == 0
        print("caller", *end(state, "gate"))
"""


@pytest.mark.parametrize("durability", ["commit", "none"])
@pytest.mark.parametrize("what", ["ends", "runs", "leaves"])
def test_a_fork_leaves_the_callers_jobs_alone(what: str, durability: str, tmp_path: Path) -> None:
    (tmp_path / "forked.py").write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "forked.py", what],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "ROUTILUX_MP_DURABILITY": durability},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "durability='none'" not in line]
    assert (done.returncode, said) == (0, []), done.stderr
    forked = ["fork completed [3000000]"] if what == "runs" else []
    assert done.stdout.splitlines() == [*forked, "caller completed [3000000]"]


def test_what_a_fork_lets_go_of_stays(tmp_path: Path) -> None:
    script = """
        import gc, os
        from routilux_mp._supervisor.unkept import NullTenure
        tenure = NullTenure(10, "payloads")
        pid = os.fork()
        if pid == 0:
            del tenure
            gc.collect()
            os._exit(0)
        os.waitpid(pid, 0)
        print(os.path.isdir("payloads"))
        del tenure
        gc.collect()
        print(os.path.isdir("payloads"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["True", "False"], "")
