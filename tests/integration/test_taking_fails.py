"""A job that was taken over, and could not be gone on with after all, is not left to a process that does not run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._supervisor import entering


def make_flow() -> Flow:
    flow = Flow(flow_id="f")
    routine = Routine()
    routine.define_slot("inp", handler=lambda n: routine.emit("out", n=n))
    routine.define_event("out")
    flow.add_routine(routine, "r")
    return flow


def test_it_can_be_resumed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        flow = make_flow()
        state = runtime.exec(flow)
        flow.pause(state)
    with Runtime(1, checkpoint_dir=str(tmp_path)) as first, Runtime(1, checkpoint_dir=str(tmp_path)) as second:
        with monkeypatch.context() as patch:
            patch.setattr(entering.clocks, "take_over", lambda job, now: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                first.resume_job(state.job_id, make_flow())
        flow = make_flow()
        gone_on = second.resume_job(state.job_id, flow)
        second.post(flow, "r", "inp", {"n": 1}, job_id=state.job_id)
        second.shutdown(wait=True, timeout=30)
        assert [result["n"] for result in gone_on.results("r", "out")] == [1]
