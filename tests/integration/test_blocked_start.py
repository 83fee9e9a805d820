"""A disk that is full when a job begins: the caller is told, and the job goes on by itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from routilux_mp import ErrorHandler, Flow, JobState, Routine, Runtime
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.store import Store
from routilux_mp.errors import StorageBlocked


def make_flow() -> Flow:
    flow = Flow(flow_id="f")
    routine = Routine()
    routine.define_slot("trigger", handler=lambda n: routine.emit("out", n=n + 1))
    routine.define_event("out")
    flow.add_routine(routine, "r")
    return flow


@pytest.fixture
def has_room(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Commits are blocked until this is set; only an OPEN without records still finds room."""
    event, commit, create = threading.Event(), Tenure.commit, Store.create

    def commit_if_there_is_room(self: Tenure, data: Sequence[bytes]) -> None:
        if not event.is_set():
            raise StorageBlocked("no space left")
        commit(self, data)

    def create_if_there_is_room(self: Store, job_id: str, flow_doc: bytes | None, data: Sequence[bytes] = ()) -> Tenure:
        if data and not event.is_set():
            raise StorageBlocked("no space left")
        return create(self, job_id, flow_doc, data)

    monkeypatch.setattr(Tenure, "commit", commit_if_there_is_room)
    monkeypatch.setattr(Store, "create", create_if_there_is_room)
    return event


@pytest.mark.parametrize("settle_s", [0, 0.2])
def test_a_job_whose_first_commit_is_blocked_is_returned_and_goes_on(
    tmp_path: Path, has_room: threading.Event, settle_s: float
) -> None:
    flow = make_flow()
    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=settle_s) as runtime:
        try:
            state = runtime.execute(flow, "r", {"n": 1})
            assert (state.status, state.flow_id) == ("pending", "f")
            assert state.blocked is not None
            assert "no space left" in state.blocked["reason"]
            assert state.created_at.year > 2000
        finally:
            has_room.set()
        assert JobState.wait_for_completion(flow, state, timeout=30)
        assert state.blocked is None
        assert [r["n"] for r in state.results("r", "out")] == [2]


def test_resuming_while_the_disk_is_full_waits_no_longer(tmp_path: Path, has_room: threading.Event) -> None:
    flow = make_flow()
    flow.set_error_handler(ErrorHandler("retry", retry_delay=1000.0))
    has_room.set()
    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime:
        state = runtime.execute(flow, "r", {"n": "no number"})
        flow.pause(state)
    has_room.clear()
    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0.2) as runtime:
        try:
            again = runtime.resume_job(state.job_id, flow)
            assert again.blocked is not None
            assert again.status == "paused"
        finally:
            has_room.set()
            flow.cancel(again)
        assert again.status == "cancelled"
