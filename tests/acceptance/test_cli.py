"""The command line, as a person types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

FLOW = """
import time
from routilux_mp import Flow, Routine

class Source(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")
    def go(self, n, fail_at=-1, pause_s=0.0):
        for i in range(self.resume_cursor or 0, n):
            self.emit("out", i=i, fail_at=fail_at, pause_s=pause_s)
            yield i + 1

class Work(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("inp", handler=self.go)
        self.define_event("out")
    def go(self, i, fail_at, pause_s):
        if i == fail_at:
            raise LookupError(f"item {i} is not there")
        time.sleep(pause_s)
        with open("begun", "a") as file:
            file.write(f"{i}\\n")
        self.emit("out", i=i)

flow = Flow(flow_id="cli_flow")
flow.add_routine(Source(), "source")
work = Work()
work.set_as_critical(max_retries=0)
flow.add_routine(work, "work")
flow.connect("source", "out", "work", "inp")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_flow.py").write_text(FLOW)
    return tmp_path


def job_of(folder):
    (job,) = [path for path in (folder / "checkpoints").iterdir() if (path / "format.json").exists()]
    return job


def begun(folder):
    path = folder / "begun"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_help_and_version(rmp):
    told = rmp("--help")
    assert told.returncode == 0
    for word in ("run", "resume", "status", "demo", "exit codes", "130"):
        assert word in told.stdout
    assert re.match(r"routilux-mp \d+\.\d+\.\d+ ", rmp("--version").stdout)
    assert rmp().returncode == 2


def test_run_and_status(rmp, folder):
    done = rmp("run", "my_flow.py", "-p", "n=5", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["status"] == "completed"
    assert begun(folder) == [0, 1, 2, 3, 4]

    listed = json.loads(rmp("status", "--json").stdout)["jobs"]
    assert [(job["job_id"], job["status"], job["flow_id"]) for job in listed] == [
        (answer["job_id"], "completed", "cli_flow")
    ]
    assert not listed[0]["is_orphan"]
    assert "completed" in rmp("status", "checkpoints").stdout
    assert "completed" in rmp("status", job_of(folder)).stdout

    shown = rmp("show", job_of(folder))
    assert re.search(r"work +5 +0", shown.stdout), shown.stdout + shown.stderr
    checked = rmp("fsck", answer["job_id"])
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "all well" in checked.stdout


def test_a_plan_runs_nothing(rmp, folder):
    done = rmp("run", "my_flow.py", "-n", "-p", "n=5")
    assert done.returncode == 0, done.stderr
    assert "work" in done.stdout
    assert not (folder / "checkpoints").exists()
    assert begun(folder) == []


def test_a_failed_job(rmp, folder):
    done = rmp("run", "my_flow.py", "-p", "n=5", "-p", "fail_at=2")
    assert done.returncode == 1, done.stderr
    assert "item 2 is not there" in done.stderr
    shown = rmp("show", job_of(folder))
    assert "failed" in shown.stdout
    assert "item 2 is not there" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "no_such_module:flow"], 2, "no module named 'no_such_module'"),
        (["run", "my_flow.py:nothing"], 2, "no 'nothing'"),
        (["run", "my_flow.py", "-p", "n"], 2, "NAME=VALUE"),
        (["resume", "nowhere"], 2, "nowhere"),
        (["status", "nowhere"], 3, "nowhere"),
        (["show", "nowhere"], 2, "nowhere"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_wrong_use_is_named_and_changes_nothing(rmp, folder, arguments, code, said):
    done = rmp(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"my_flow.py"}


def started(folder, environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "routilux_mp.cli", *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(probe, process, deadline_s=30.0):
    deadline = time.monotonic() + deadline_s
    while not probe():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("ending", ["ctrl-c", "kill -9"])
def test_an_interrupted_job_is_resumed(rmp, folder, environment, ending):
    process = started(folder, environment, "run", "my_flow.py", "-p", "n=40", "-p", "pause_s=0.02")
    try:
        wait_for(lambda: len(begun(folder)) >= 5, process)
        process.send_signal(signal.SIGINT if ending == "ctrl-c" else signal.SIGKILL)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    job = job_of(folder)
    if ending == "ctrl-c":
        assert process.returncode == 130, said
        assert f"routilux-mp resume checkpoints/{job.name}" in said
        assert "Traceback" not in said
        assert len(begun(folder)) == len(set(begun(folder)))
    (listed,) = json.loads(rmp("status", "--json").stdout)["jobs"]
    assert listed["is_orphan"]
    assert listed["status"] == "running"

    resumed = rmp("resume", f"checkpoints/{job.name}", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["job_id"] == job.name
    assert set(begun(folder)) == set(range(40))
    # With kill -9 the one that ran is run again, and what had not been reported yet (5 ms).
    assert len(begun(folder)) - 40 <= (0 if ending == "ctrl-c" else 3)


def test_the_second_ctrl_c_stops_now(folder, environment):
    process = started(folder, environment, "run", "my_flow.py", "-p", "n=2", "-p", "pause_s=30")
    try:
        wait_for(lambda: any(folder.glob("checkpoints/*/epochs/*/c00000002")), process)
        process.send_signal(signal.SIGINT)
        seen = ""
        while "again: stop now" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert time.monotonic() - start < 2
        assert process.returncode == 130
    finally:
        process.kill()
        process.communicate()


def test_status_survives_what_it_cannot_read(rmp, folder):
    root = folder / "checkpoints"
    for name, content in {"broken": b"{", "list": b"[]", "empty": None}.items():
        (root / name).mkdir(parents=True)
        if content is not None:
            (root / name / "job_state.json").write_bytes(content)
    (root / "a-file").write_text("not a job")
    os.symlink(root / "broken", root / "link")
    done = rmp("status", "--json")
    assert done.returncode == 0, done.stderr
    jobs = {job["job_id"]: job for job in json.loads(done.stdout)["jobs"]}
    assert {"broken", "list", "empty"} <= set(jobs)
    assert all(job["trouble"] for job in jobs.values())


def test_fsck_finds_a_flipped_bit(rmp, folder):
    assert rmp("run", "my_flow.py", "-p", "n=5").returncode == 0
    commit = sorted(job_of(folder).glob("epochs/*/c*"))[1]
    raw = bytearray(commit.read_bytes())
    raw[len(raw) // 2] ^= 4
    commit.chmod(0o600)
    commit.write_bytes(raw)
    checked = rmp("fsck", job_of(folder))
    assert checked.returncode == 1, checked.stdout
    assert commit.name in checked.stdout or "epoch 1" in checked.stdout
    assert commit.read_bytes() == raw


@pytest.mark.slow
def test_status_is_quick(rmp, folder, environment):
    assert rmp("run", "my_flow.py", "-p", "n=5").returncode == 0

    def seconds():
        start = time.perf_counter()
        assert rmp("status", "--json").returncode == 0
        return time.perf_counter() - start

    # 150 ms on an idle machine; the best of several, and room for a busy one.
    assert min(seconds() for _ in range(7)) < 0.3
