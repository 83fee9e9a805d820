"""flow.json of a new job is written beside its first commit: it is there, whatever goes wrong on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._storage.log import Tenure
from routilux_mp.errors import StorageBlocked


class Work(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)
        self.add_event("out")

    def go(self, n: int) -> None:
        self.emit("out", n=n)


def make_flow() -> Flow:
    flow = Flow("shown")
    flow.add_routine(Work(), "work")
    return flow


def flow_view(root: Path, job_id: str) -> Any:
    return json.loads((root / job_id / "flow.json").read_text())


def test_it_is_there_when_the_caller_has_its_job(tmp_path: Path) -> None:
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        flow = make_flow()
        state = runtime.exec(flow)
        assert flow_view(tmp_path, state.job_id)["flow_id"] == "shown"


def test_what_could_not_be_written_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageBlocked("no space left")

    monkeypatch.setattr(Tenure, "write_flow_view", refuse)
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        flow = make_flow()
        state = runtime.exec(flow)
        assert not (tmp_path / state.job_id / "flow.json").exists()
        runtime.post(flow, "work", "inp", {"n": 1})
    assert state.status == "completed"
    assert flow_view(tmp_path, state.job_id)["flow_id"] == "shown"


def test_whoever_goes_on_with_a_job_writes_it_if_its_owner_could_not(tmp_path: Path) -> None:
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        state = runtime.exec(make_flow())
        runtime.pause(state)
        runtime.shutdown(wait=False)
    (tmp_path / state.job_id / "flow.json").unlink()
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        runtime.resume_job(state.job_id, make_flow())
    assert flow_view(tmp_path, state.job_id)["flow_id"] == "shown"
