"""How a script may end while its jobs are under way: what goes on is waited for, what is paused stays paused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from routilux_mp._storage.store import Store
from routilux_mp.settings import Settings
from tests.acceptance.conftest import Program

#: Its handler leaves a file when it begins and one when it ends.
PRELUDE = """
import atexit, signal, threading, time
from pathlib import Path
from routilux_mp import Flow, Routine, Runtime

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may be in the background

class Source(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")
    def go(self, n):
        for i in range(n):
            self.emit("out", i=i)

class Slow(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("in", handler=self.go)
        self.define_event("done")
    def go(self, i):
        Path(f"begun-{i}").touch()
        time.sleep(0.2)
        Path(f"ended-{i}").touch()
        self.emit("done", i=i)

flow = Flow("f")
flow.add_routine(Source(), "source")
flow.add_routine(Slow(), "slow")
flow.connect("source", "out", "slow", "in")

def begin(n):
    state = flow.execute("source", {"n": n}, settle_s=0)
    print(state.job_id, flush=True)
    return state
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(program: str) -> subprocess.Popen[str]:
        (tmp_path / "script.py").write_text(PRELUDE + program)
        with_root = {**environment, "ROUTILUX_MP_CHECKPOINT_DIR": str(tmp_path / "root")}
        process = subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=tmp_path, env=with_root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("begin(100)\ntime.sleep(60)\n", True),
        ("begin(100)\n", True),
        ("with Runtime(2):\n    begin(100)\n", False),
    ],
    ids=["in the script", "at its end", "at the end of a with block"],
)
def test_ctrl_c_lets_what_runs_end_and_hands_over_the_rest(
    start: Start, tmp_path: Path, program: str, says: bool
) -> None:
    process = start(program)
    until(lambda: list(tmp_path.glob("begun-*")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    job_id = out.strip()
    begun, ended = (
        sorted(path.name.split("-")[1] for path in tmp_path.glob(f"{what}-*")) for what in ("begun", "ended")
    )
    assert begun == ended, "nobody was killed in the middle"
    assert len(ended) < 100
    with Store(str(tmp_path / "root"), Settings()) as store:
        log = store.read(job_id)
    assert log.seal_reason == "handover", "whoever comes next need not wait for a lease"
    if says:
        assert f"interrupted, 1 unfinished; go on by: routilux-mp resume {tmp_path / 'root' / job_id}" in err
    else:
        assert process.returncode == -signal.SIGINT
        assert err.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    "program",
    [
        "atexit.register(begin, 2)\n",
        "threading.Thread(target=begin, args=(2,)).start()\n",
        "def later():\n"
        "    threading.main_thread().join()\n"
        "    flow.wait_for_completion(job_state=begin(1))\n"
        "    begin(2)\n"
        "begin(2)\n"
        "threading.Thread(target=later).start()\n",
        "def later():\n    threading.main_thread().join()\n    begin(2)\nthreading.Thread(target=later).start()\n",
    ],
    ids=["by its atexit", "by a thread", "by a thread that goes on", "by a thread after its end"],
)
def test_what_is_begun_when_the_script_has_ended_is_waited_for(start: Start, tmp_path: Path, program: str) -> None:
    if sys.version_info[:2] == (3, 12) and sys.version_info < (3, 12, 3):
        pytest.skip("it begins no threads then (cpython#113964)")
    process = start(program)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    with Store(str(tmp_path / "root"), Settings()) as store:
        assert [store.read(job_id).seal_reason for job_id in out.split()] == ["ended"] * len(out.split())
    assert (tmp_path / "ended-1").exists()


PAUSES = """
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
    (tmp_path / "script.py").write_text(PAUSES)
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


DRAINS = """
from routilux_mp import Flow, Routine

class Source(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("output")
    def send(self):
        for n in range(50):
            self.emit("output", n=n)

class Last(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("input", handler=self.take)
    def take(self, n):
        if n == 49:
            print("took the last")

flow = Flow("drains")
flow.add_routine(Source(), "source")
flow.add_routine(Last(), "last")
flow.connect("source", "output", "last", "input")
flow.execute("source", settle_s=0)
print("script ends")
"""


NO_NEW_THREADS = """
import logging, threading, time
from routilux_mp import Flow, Routine

class Slow(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("output")
    def send(self):
        time.sleep(0.3)  # what comes of it is committed when the script has ended
        for n in range(50):
            self.emit("output", n=n)

class Last(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("input", handler=self.take)
    def take(self, n):
        if n == 49:
            logging.getLogger("user").warning("logged the last")
            print("took the last")

def start(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")

logging.basicConfig(format="%(message)s")
flow = Flow("drains")
flow.add_routine(Slow(), "source")
flow.add_routine(Last(), "last")
flow.connect("source", "output", "last", "input")
state = flow.execute("source", settle_s=0)
threading.Thread.start = start
print("script ends", state.job_id)
"""


def test_what_goes_on_is_waited_for(python: Program, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(DRAINS)
    done = python("script.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["script ends", "took the last"]


def test_so_it_is_where_a_script_that_ends_can_begin_no_threads(python: Program, tmp_path: Path) -> None:
    """Python 3.12.0 to 3.12.2 (cpython#113964)."""
    (tmp_path / "script.py").write_text(NO_NEW_THREADS)
    done = python("script.py")
    assert (done.returncode, done.stderr) == (0, "logged the last\n")
    ends, took = sorted(done.stdout.splitlines())
    assert took == "took the last"
    document = json.loads((tmp_path / "checkpoints" / ends.split()[-1] / "job_state.json").read_text())
    assert document["status"] == "completed"
