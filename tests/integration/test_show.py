"""What ``show JOB ACTIVATION`` tells: attempts, tracebacks, how a worker died, and what to do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from routilux_mp import ErrorHandler, Flow, Routine, Runtime
from routilux_mp.cli import WRONG, main


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("number")

    def send(self, numbers: list[int]) -> None:
        for number in numbers:
            self.emit("number", number=number)


class Fragile(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("number", handler=self.work)

    def work(self, number: int) -> None:
        if number == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 2:
            self.deeper(number)

    def deeper(self, number: int) -> None:
        raise LookupError(f"number {number} is not there")


def run(folder: Path, *numbers: int, strategy: str = "retry") -> str:
    flow = Flow(flow_id="fragile")
    flow.add_routine(Source(), "source")
    fragile = Fragile()
    fragile.set_error_handler(ErrorHandler(strategy, max_retries=1, retry_delay=0.01))
    flow.add_routine(fragile, "fragile")
    flow.connect("source", "number", "fragile", "number")
    with Runtime(2, checkpoint_dir=str(folder), max_crashes=2) as runtime:
        state = runtime.exec(flow, {"numbers": list(numbers)}, settle_s=0)
        assert runtime.wait_until_all_jobs_finished(timeout=60)
        if 9 in numbers:
            [letter] = state.dead_letters
            assert letter["error_type"] == "WorkerCrashed"
            assert "traceback" in letter
    return f"{folder}/{state.job_id}"


def test_the_whole_traceback_of_every_attempt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = run(tmp_path, 0, 2)
    assert main(["show", job, "fragile/1"]) == 0
    told = capsys.readouterr().out
    for part in ("attempt 1", "attempt 2", "LookupError: number 2 is not there", "in deeper", "self.deeper(number)"):
        assert part in told, told
    assert told.count("Traceback (most recent call last)") == 2
    assert "tried again" in told
    assert main(["show", job, "fragile/1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [attempt["attempt"] for attempt in shown["attempts"]] == [1, 2]
    assert "in deeper" in shown["attempts"][0]["traceback"]

    assert main(["show", job]) == 0
    told = capsys.readouterr().out
    assert "newest failures" in told
    assert f"show {job} fragile/" in told


@pytest.mark.parametrize("strategy", ["continue", "skip"])
def test_failures_that_stopped_nothing_are_counted_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    job = run(tmp_path, 0, 2, 2, 1, 0, strategy=strategy)
    assert main(["show", job]) == 0
    told = capsys.readouterr().out
    assert "fragile/1, attempt 1: LookupError: number 2 is not there" in told, "though the last one went well"
    assert [line.split()[:4] for line in told.splitlines() if line.startswith(("source ", "fragile "))] == [
        ["source", "1", "0", "0"], ["fragile", "3", "2", "0"],
    ]  # fmt: skip
    assert main(["show", job, "--json"]) == 0
    assert [line["failed"] for line in json.loads(capsys.readouterr().out)["routines"]] == [0, 2]


def test_a_killed_worker_has_a_death_report_and_a_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = run(tmp_path, 0, 9)
    assert main(["show", job, "fragile/1"]) == 0
    told = capsys.readouterr().out
    assert "dead letter" in told
    assert told.count("was ended by SIGKILL; peak memory") == 2
    assert "input      {'number': 9}" in told
    assert f"routilux-mp retry {job} fragile/1" in told
    assert f"routilux-mp skip {job} fragile/1" in told


def test_what_did_not_fail_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = run(tmp_path, 0)
    assert main(["show", job, "fragile/0"]) == 0
    told = capsys.readouterr().out
    assert "fragile/0" in told
    assert "done" in told
    assert "no attempt of it failed" in told
    assert main(["show", job]) == 0
    assert "failures" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fragile/7", "nobody/0", "fragile", "fragile/x", "fragile/-1"])
def test_no_such_activation(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    job = run(tmp_path, 0)
    assert main(["show", job, name]) == WRONG
    assert "activation" in capsys.readouterr().err


def test_input_that_is_no_plain_data_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Opaque:
        def __setstate__(self, state: object) -> None:
            (tmp_path / f"opened by {os.getpid()}").touch()

        def __getstate__(self) -> dict[str, int]:
            return {"some": 1}

    class Giver(Source):
        def send(self, numbers: list[int]) -> None:
            self.emit("number", number=Opaque())

    class Dies(Fragile):
        def work(self, number: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    flow = Flow(flow_id="opaque")
    flow.add_routine(Giver(), "source")
    flow.add_routine(Dies(), "dies")
    flow.connect("source", "number", "dies", "number")
    with Runtime(2, checkpoint_dir=str(tmp_path / "root"), max_crashes=1) as runtime:
        state = runtime.exec(flow, {"numbers": []}, settle_s=0)
        assert runtime.wait_until_all_jobs_finished(timeout=60)
    assert main(["show", f"{tmp_path}/root/{state.job_id}", "dies/0"]) == 0
    told = capsys.readouterr().out
    assert "not shown: the batch holds signed objects" in told
    assert not (tmp_path / f"opened by {os.getpid()}").exists()
