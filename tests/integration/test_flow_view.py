"""flow.json of a new job is written beside its first commit: it is there, whatever goes wrong on the way."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._core.topology import Topology
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.views import Views
from routilux_mp._supervisor.supervisor import Supervisor
from routilux_mp.errors import DefinitionError, StorageBlocked
from routilux_mp.settings import Settings


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


class Once(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)

    def go(self) -> None:
        pass


def make_once() -> Flow:
    flow = Flow(flow_id="once")
    flow.add_routine(Once(), "once")
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


def a_paused_job(root: Path, backend: str = "inline") -> str:
    with Runtime(1, checkpoint_dir=str(root), backend=backend) as runtime:
        state = runtime.exec(make_flow())
        runtime.pause(state)
        runtime.shutdown(wait=False)
    return str(state.job_id)


def spoil(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        path.write_bytes(path.read_bytes().replace(b'"work"', b'"walk"'))


SPOILT = pytest.mark.parametrize("how", ["missing", "cut off", "changed"])


@SPOILT
def test_whoever_goes_on_with_the_flow_writes_it_as_it_was(tmp_path: Path, how: str) -> None:
    job_id = a_paused_job(tmp_path)
    before = flow_view(tmp_path, job_id)
    spoil(tmp_path / job_id / "flow.json", how)
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        runtime.resume_job(job_id, make_flow())
    after = flow_view(tmp_path, job_id)
    for each in (before, after):
        del each["checkpoint"], each["crc32"]
    assert after == before


@SPOILT
def test_whoever_goes_on_without_the_flow_writes_what_the_job_keeps_of_it(tmp_path: Path, how: str) -> None:
    job_id = a_paused_job(tmp_path, "local")  # which keeps its code
    spoil(tmp_path / job_id / "flow.json", how)
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="local") as runtime:
        runtime.resume_job(job_id)
    found = flow_view(tmp_path, job_id)
    assert (found["_type"], found["flow_id"], found["portable"]) == ("Flow", "shown", False)
    assert "lost" in found["why"]
    assert Topology.from_plain(found["topology"]).index_of("work") == 0
    with pytest.raises(DefinitionError, match="cannot be rebuilt from this data: It was lost"):
        Flow().deserialize(found)


def test_a_flow_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    job_id = a_paused_job(tmp_path, "local")  # which keeps its code
    before = (tmp_path / job_id / "flow.json").read_bytes()
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="local") as runtime:
        runtime.resume_job(job_id)
    assert (tmp_path / job_id / "flow.json").read_bytes() == before


def test_whoever_seals_an_ended_job_writes_it(tmp_path: Path) -> None:
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        flow = make_once()
        state = runtime.exec(flow, {})
        assert JobState.wait_for_completion(flow, state, timeout=10)
        assert state._live_or_fail().handle.wait_sealed(10)
    job = tmp_path / state.job_id
    max((job / "epochs/e0000001").iterdir()).unlink()
    (job / "flow.json").unlink()
    supervisor = Supervisor(Settings(checkpoint_dir=str(tmp_path), backend="inline"), lambda handle: b"{}")
    try:
        assert supervisor.adopt(state.job_id, lambda flow_id: None, 1) == "ended"
    finally:
        supervisor.close()
    assert flow_view(tmp_path, state.job_id)["portable"] is False


def test_a_short_job_is_not_over_before_its_flow_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller is slow to write it, and then cannot: the job's own end does."""
    write = Views.write_flow
    is_sealed = threading.Event()

    def refuse(self: Views, document: bytes, position: tuple[int, int]) -> None:
        if threading.current_thread() is threading.main_thread():
            is_sealed.wait(10)
            raise StorageBlocked("no space left")
        write(self, document, position)

    seal = Tenure.seal

    def note(self: Tenure, reason: Any) -> None:
        assert (tmp_path / self.job_id / "flow.json").exists()
        seal(self, reason)
        is_sealed.set()

    monkeypatch.setattr(Views, "write_flow", refuse)
    monkeypatch.setattr(Tenure, "seal", note)
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        state = runtime.exec(make_once(), {})
    assert is_sealed.is_set()
    assert flow_view(tmp_path, state.job_id)["flow_id"] == "once"
