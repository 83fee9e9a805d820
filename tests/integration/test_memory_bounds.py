"""What lies in the supervisor's memory and in the files for people is bounded in bytes, not only in items."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._storage.log import Tenure
from routilux_mp._supervisor import commits
from routilux_mp._supervisor.live import LiveJob, _waiting
from routilux_mp.errors import CheckpointDamaged

SIZE = 100_000
COUNT = 60


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self) -> Iterator[int]:
        for i in range(COUNT):
            self.emit("out", i=i, data=bytes([i]) * SIZE)
            yield i


class Sink(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)
        self.add_event("out")

    def go(self, i: int, data: bytes) -> None:
        marker = self.get_config("marker")
        while marker and not os.path.exists(marker):
            time.sleep(0.005)
        assert data == bytes([i]) * SIZE
        self.emit("out", i=i)


def make_flow(marker: str = "") -> Flow:
    """``marker``: the sink waits for that file."""
    flow = Flow(flow_id="bounded")
    flow.add_routine(Source(), "source")
    sink = Sink()
    sink.set_config(marker=marker)
    flow.add_routine(sink, "sink")
    flow.connect("source", "out", "sink", "inp")
    return flow


def _wait_until(condition: Callable[[], Any], deadline_s: float = 30.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


def _live(runtime: Runtime, state: JobState) -> LiveJob:
    """The job as the loop has it, which may take it later than the caller has its state."""
    supervisor = runtime._supervisor()
    live = supervisor.call(lambda: supervisor.loop.jobs[state.job_id])
    assert live is not None
    return live


def _shown(view: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(view.read_text())
    return document


def _shows_all(document: dict[str, Any]) -> bool:
    """Not a view of the source half-way through."""
    return document.get("engine_omitted_bytes", 0) > 50 * SIZE and document["execution_history_omitted"] > 50


def test_a_disk_that_is_slow_makes_the_workers_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_commit, commit = threading.Event(), Tenure.commit
    most = 0

    def slowly(self: Tenure, data: Sequence[bytes]) -> None:
        may_commit.wait(30)  # the job is made by its OPEN
        commit(self, data)

    monkeypatch.setattr(Tenure, "commit", slowly)
    flow = make_flow()
    with Runtime(2, checkpoint_dir=str(tmp_path), commit_memory_bytes_max=4 * SIZE) as runtime:
        state = runtime.execute(flow, "source", {}, settle_s=0)
        live = _live(runtime, state)
        try:
            # An answer that is not to wait is among the held ones for a moment, too.
            _wait_until(lambda: live.volatile_bytes > 4 * SIZE and live.held_answers)
            _wait_until(lambda: len(live.job.routines[0].special) == 1)
            most = live.volatile_bytes
        finally:
            may_commit.set()
        assert JobState.wait_for_completion(flow, state, timeout=60)
        assert [r["i"] for r in state.results("sink", "out")] == list(range(COUNT))
    assert 4 * SIZE < most < 20 * SIZE


def test_queued_payloads_leave_memory_and_the_view_and_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "VIEWS_INTERVAL_NS", 10_000_000)
    monkeypatch.setattr(commits, "SPILL_EVERY", 1)
    marker = tmp_path / "go on"
    flow = make_flow(str(marker))
    limits = {"queue_memory_bytes_max": 5 * SIZE, "view_bytes_max": 5 * SIZE}
    with Runtime(2, checkpoint_dir=str(tmp_path / "root"), **limits) as runtime:
        state = runtime.execute(flow, "source", {}, settle_s=0)
        view = tmp_path / "root" / state.job_id / "job_state.json"
        live = _live(runtime, state)
        try:
            _wait_until(lambda: state.progress["source"][0])
            _wait_until(lambda: view.exists() and _shows_all(_shown(view)))
            document = _shown(view)
            size = view.stat().st_size
            held = [batch.data for batch in _waiting(live.job)]
        finally:
            marker.touch()
        assert JobState.wait_for_completion(flow, state, timeout=60)
        assert [r["i"] for r in state.results("sink", "out")] == list(range(COUNT))
    assert sum(len(data) for data in held if data is not None) <= 5 * SIZE
    assert len(held) > 50
    assert size < 8 * SIZE
    assert len(document["pending_tasks"]) > 50
    assert document["execution_history_omitted"] > 50
    with Runtime(1, checkpoint_dir=str(tmp_path / "elsewhere")) as runtime, pytest.raises(CheckpointDamaged) as caught:
        runtime.resume(flow, JobState.deserialize(document))
    assert "is a summary" in str(caught.value)
