"""The description of a job that has ended: taken with its SEAL, and with what is needed to go on with it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import ErrorHandler, ErrorStrategy, Flow, JobState, Routine, Runtime
from routilux_mp._core.job import Run
from routilux_mp._serialization.packing import unpack
from routilux_mp._supervisor import cut as cuts
from routilux_mp._supervisor.cut import Cut
from routilux_mp._supervisor.supervisor import Supervisor


class Keeps(Routine):
    """Writes state of every kind, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self, text: str, fails: bool = False) -> None:
        context = self.get_execution_context()
        assert context is not None
        context.job_state.update_shared_data("text", text)
        context.job_state.increment("count", 3)
        context.job_state.append("list", text)
        context.job_state.update_routine_state("keeps", {"mine": len(text)})
        self.emit("out", text=text)
        if fails:
            raise ValueError("as it was told")


def make_flow(strategy: ErrorStrategy = ErrorStrategy.STOP) -> Flow:
    flow = Flow("f")
    keeps = Keeps()
    keeps.set_error_handler(ErrorHandler(strategy))
    flow.add_routine(keeps, "keeps")
    return flow


def run(runtime: Runtime, flow: Flow, **params: Any) -> JobState:
    state = runtime.execute(flow, "keeps", params)
    assert flow.wait_for_completion(timeout=30, job_state=state)
    return state


def document_of(runtime: Runtime, root: Path, state: JobState) -> dict[str, Any]:
    """Its view, as it stands when it is sealed."""
    handle = state._live_or_fail().handle
    assert handle.wait_sealed(30)
    found: dict[str, Any] = json.loads(root.joinpath(state.job_id, "job_state.json").read_text())
    return found


def test_whoever_describes_it_does_not_ask_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    call = Supervisor.call

    def noted(self: Supervisor, function: Callable[[], Any]) -> Any:
        asked.append(threading.current_thread().name)
        return call(self, function)

    monkeypatch.setattr(Supervisor, "call", noted)
    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime:
        state = run(runtime, make_flow(), text="x")
        document = document_of(runtime, tmp_path, state)
        assert document["status"] == "completed"
        assert document["shared_data"] == {"text": "x", "count": 3, "list": ["x"]}
        assert not [name for name in asked if name.startswith("routilux-commit")]
        assert state._live_or_fail().handle.live.last_cut is None, "nobody needs it any more"
        engine = unpack(base64.b64decode(document["engine"]))
        assert engine["job"] == unpack(state._live_or_fail().handle.cut(is_durable=True).engine())["job"]


@pytest.mark.parametrize("text", ["x", "x" * 300_000])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_lost_by_not_unfolding_it(tmp_path: Path, text: str, fails: bool) -> None:
    """Small parameters, and some that lie in a blob; a job that has completed, and one that has failed."""
    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime:
        state = run(runtime, make_flow(), text=text, fails=fails)
        assert state.status == ("failed" if fails else "completed")
        handle = state._live_or_fail().handle
        assert handle.wait_sealed(30)
        short = handle.cut(is_durable=True)
        long = Cut(handle, short._taken._replace(is_done=False), runtime.settings, None)
        assert ("job" not in vars(short)) == (not fails), "what has failed may be tried again"
        assert "job" in vars(long)
        assert short.engine() == long.engine()
        assert text.encode() in short.engine(), "the parameters are in it, wherever they were"
        again = runtime.exec(make_flow(), job_state=JobState.deserialize(state.serialize()), settle_s=30)
        assert again.status == state.status
        assert again.get_shared_data("list") == (None if fails else [text, text])


def test_what_is_queued_is_not_done(tmp_path: Path) -> None:
    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime:
        flow = make_flow()
        state = run(runtime, flow, text="x")
        job = state._live_or_fail().handle.live.job
        assert cuts.take(job, 1, 0).is_done
        assert job.entry_batch is not None
        job.routines[0].slots[0].append(Run(0, 0, -1, job.entry_batch, 0, 1))
        assert not cuts.take(job, 1, 0).is_done, "the same payload once more"
        job.entry_batch = None
        assert not cuts.take(job, 1, 0).is_done
        job.routines[0].slots[0].clear()
        assert cuts.take(job, 1, 0).is_done, "a job without parameters"
