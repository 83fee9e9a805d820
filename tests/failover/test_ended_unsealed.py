"""A job that has ended, and whose owner was killed before its SEAL. Found by `scripts/torture`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.store import Store
from routilux_mp._supervisor.supervisor import Supervisor
from routilux_mp.errors import OutcomeUnknown
from routilux_mp.settings import Settings


class Once(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self) -> None:
        self.emit("out", n=1)


def test_a_standby_seals_it_and_tells_people(tmp_path: Path) -> None:
    flow = Flow(flow_id="once")
    flow.add_routine(Once(), "once")
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        job_id = runtime.exec(flow, {}).job_id
    job = tmp_path / job_id
    seal = max((job / "epochs/e0000001").iterdir())
    seal.unlink()
    (job / "job_state.json").unlink()

    def describe(handle) -> bytes:
        return json.dumps({"status": handle.view.status, "results": list(handle.results("once", "out"))}).encode()

    supervisor = Supervisor(Settings(checkpoint_dir=str(tmp_path), backend="inline"), describe)
    try:
        glance = supervisor.store.glance(job_id)
        assert glance is not None
        assert glance.seal_reason is None
        assert supervisor.adopt(job_id, lambda flow_id: None, glance.epoch) == "ended"
        glance = supervisor.store.glance(job_id)
    finally:
        supervisor.close()
    assert glance is not None
    assert (glance.epoch, glance.seal_reason) == (2, "ended")
    told = json.loads((job / "job_state.json").read_text())
    assert (told["status"], told["results"]) == ("completed", [{"n": 1}])
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        state = runtime.resume_job(job_id, flow)
        assert JobState.wait_for_completion(flow, state, timeout=10)
        assert [dict(item) for item in state.results("once", "out")] == [{"n": 1}]


@pytest.mark.parametrize("how", ["another one sealed it", "the outcome is unknown"])
def test_its_owner_has_not_lost_it_when_only_the_seal_fails(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Tenure.seal

    def seal(self: Tenure, reason: str) -> None:
        if how == "the outcome is unknown":
            raise OutcomeUnknown("it may stand or not")
        with Store(str(tmp_path), Settings()) as other:
            successor = other.take_over(self.job_id)[1]
            plain(successor, "ended")
        plain(self, "ended")

    monkeypatch.setattr(Tenure, "seal", seal)
    flow = Flow(flow_id="once")
    flow.add_routine(Once(), "once")
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        state = runtime.exec(flow, {})
        assert JobState.wait_for_completion(flow, state, timeout=10)
        handle = state._live_or_fail().handle
        assert handle.wait_sealed(10)
        assert handle.lost is None
        assert [dict(item) for item in state.results("once", "out")] == [{"n": 1}]
