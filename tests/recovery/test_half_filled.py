"""Activation policies in runtime style survive ``kill -9`` with half-filled slots: nothing lost, nothing twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import JobState, Runtime
from tests.recovery import processes
from tests.recovery.half_filled import ALL, BEFORE, CASES, DEADLINE_S, consumed, make_flow, slices

ROOT = Path(__file__).resolve().parents[2]


def kill_half_way(case: str, root: Path, gate: Path) -> str:
    """Run the program until the slots are as full as they get, and kill it; the job's id."""
    job_id = str(uuid.uuid4())
    command = [sys.executable, "-m", "tests.recovery.half_filled", case, str(root), str(gate), job_id]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        said = program.stdout.readline()
        everyone = processes.family(program.pid).everyone
        workers = processes.Watch(everyone[1:])
        program.send_signal(signal.SIGKILL)
        assert said == "ready\n", said
        assert workers.seconds_until_gone(time.monotonic(), DEADLINE_S) is not None
    return job_id


def finish(case: str, root: Path, job_id: str, backend: str) -> JobState:
    flow = make_flow(case)
    with Runtime(2, checkpoint_dir=str(root), backend=backend) as runtime:
        state = runtime.resume_job(job_id, flow)
        assert JobState.wait_for_completion(flow, state, DEADLINE_S), state.progress
        assert state.status == "completed", state.error
        return state


def of(found: list[dict[str, Any]], slot: str) -> list[int]:
    return [number for one in found for number in one[slot]]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "inline"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path, case: str, backend: str) -> None:
    root, gate = tmp_path / "root", tmp_path / "gate"
    job_id = kill_half_way(case, root, gate)
    gate.touch()
    found = slices(state := finish(case, root, job_id, backend))
    for name, count in zip(CASES[case].slots, ALL):
        assert of(found, name) == list(range(count))
    assert consumed(state) == sum(ALL[: len(CASES[case].slots)])
    assert state.unconsumed == {}
    _expect_the_slices_of(case, found)


def _expect_the_slices_of(case: str, found: list[dict[str, Any]]) -> None:
    pairs = [(one["left"], one.get("right", [])) for one in found]
    match case:
        case "batch":  # two were held back when the program was killed
            assert [len(left) for left, _ in pairs] == [4, 4, 2]
        case "ready":  # three on the left had to wait for the right
            assert pairs == [([n], [n]) for n in range(ALL[0])]
        case "done" | "custom check":
            assert len(pairs) == 1
        case "once an hour":  # at once, and in the end, since nothing more comes
            assert len(pairs) == 2
            assert found[1]["message"] == {"reason": "time_interval_met", "interval": 3600.0}
        case "custom slice":
            assert pairs[0] == ([0, 1], [0, 1])
            assert [one["message"] for one in found] == ["two of each"] * 5


def test_the_source_stops_half_way() -> None:
    """What the cases mean by half-filled: both slots have had something, and more is to come."""
    assert all(0 < before < everything for before, everything in zip(BEFORE, ALL))
