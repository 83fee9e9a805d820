"""Large payloads of workers and supervisors that died: what is needed stays, the rest goes while the job goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import routilux_mp
from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._worker import shared

SIZE = 300_000
COUNT = 40
#: So that a short job does what a long one would.
OFTEN: dict[str, Any] = {"roll_interval_s": 0, "blob_bytes_max": 2 * SIZE}


class Source(Routine):
    """Kills, once and in the middle of an activation, whoever it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self, victim: int, marker: str) -> Iterator[int]:
        for i in range((self.resume_cursor or 0), COUNT):
            self.emit("out", i=i, data=bytes([i]) * SIZE)
            if i == 20 and not os.path.exists(marker):
                Path(marker).write_text(str(os.getpid()))
                os.kill(victim or os.getpid(), signal.SIGKILL)
                time.sleep(60)
            yield i + 1


class Keep(Routine):
    """Every tenth payload is a result."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)
        self.add_event("out")

    def go(self, i: int, data: bytes) -> None:
        assert data == bytes([i]) * SIZE
        if i % 10 == 0:
            self.emit("out", i=i, data=data)


def make_flow() -> Flow:
    flow = Flow(flow_id="large")
    flow.add_routine(Source(), "source")
    flow.add_routine(Keep(), "keep")
    flow.connect("source", "out", "keep", "inp")
    return flow


def _blobs(job: Path) -> dict[str, list[Path]]:
    """By epoch."""
    return {folder.name: list(folder.iterdir()) for folder in sorted((job / "blobs").iterdir())}


def _check(state: JobState) -> None:
    assert [(r["i"], r["data"][0]) for r in state.results("keep", "out")] == [(i, i) for i in range(0, COUNT, 10)]


def test_a_dead_workers_blobs_go_after_two_rolls(tmp_path: Path) -> None:
    flow = make_flow()
    marker = tmp_path / "marker"
    with Runtime(2, checkpoint_dir=str(tmp_path), slot_queue_max=2, **OFTEN) as runtime:
        state = runtime.execute(flow, "source", {"victim": 0, "marker": str(marker)})
        assert JobState.wait_for_completion(flow, state, timeout=60)
        _check(state)
    writer = marker.read_text()
    left = [path.name for paths in _blobs(tmp_path / state.job_id).values() for path in paths]
    assert not [name for name in left if name.startswith(f"{writer}.")]


@pytest.mark.slow
def test_what_a_killed_supervisor_left_goes_when_another_takes_over(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from routilux_mp import Runtime\n"
        "from tests.integration.test_leftover_blobs import OFTEN, make_flow\n"
        "runtime = Runtime(2, checkpoint_dir=sys.argv[1])\n"
        "state = runtime.execute(make_flow(), 'source', {'victim': os.getpid(), 'marker': sys.argv[2]}, settle_s=60)\n"
    )
    marker = tmp_path / "marker"
    environment = {**os.environ, "PYTHONPATH": str(Path(routilux_mp.__file__).parents[1])}
    root = tmp_path / "root"
    command = [sys.executable, "-c", program, str(root), str(marker)]
    dead = subprocess.run(command, check=False, env=environment, timeout=60)
    assert dead.returncode == -signal.SIGKILL
    (job,) = (path.parent for path in root.glob("*/blobs"))
    before = _blobs(job)["e0000001"]
    assert len([path for path in before if path.read_bytes()[100] == 20]) == 1, "nobody will ever name it"
    flow = make_flow()
    with Runtime(2, checkpoint_dir=str(root), **OFTEN) as runtime:
        state = runtime.resume_job(job.name, flow)
        assert JobState.wait_for_completion(flow, state, timeout=60)
        _check(state)
    left = [path.read_bytes()[100] for path in _blobs(job)["e0000001"]]
    assert set(left) <= {0, 10}, "results stay; what was consumed or never named does not"


@pytest.mark.skipif(not shared.new_path(), reason="files cannot be kept in memory here")
def test_where_nothing_is_kept_a_dead_workers_blobs_go_at_once(tmp_path: Path) -> None:
    flow, marker = make_flow(), tmp_path / "marker"
    with Runtime(2, durability="none", slot_queue_max=2) as runtime:
        state = runtime.execute(flow, "source", {"victim": 0, "marker": str(marker)})
        folder = Path(f"/dev/shm/routilux_mp-{os.getpid()}-*")
        assert JobState.wait_for_completion(flow, state, timeout=60)
        left = [path.name for path in folder.parent.glob(f"{folder.name}/{state.job_id}/blobs/*/*")]
        assert len(left) == len(range(0, COUNT, 10)), "the results"
        assert not [name for name in left if name.startswith(f"{marker.read_text()}.")]
        _check(state)
