"""Calls that wait for the disk, while it takes nothing: they come back, say so, and what they asked for holds later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._core.stimuli import Annotate, StateOp
from routilux_mp._storage.log import Tenure
from routilux_mp._supervisor import patience
from routilux_mp.errors import StorageBlocked

Call = Callable[[Runtime, JobState], object]


def make_flow() -> Flow:
    """It stays open for what is posted."""
    flow = Flow(flow_id="f")
    routine = Routine()
    routine.define_slot("inp", handler=lambda n: routine.emit("out", n=n))
    routine.define_event("out")
    flow.add_routine(routine, "r")
    return flow


FLOW = make_flow()


@pytest.fixture
def has_room(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Commits are blocked until this is set."""
    event, commit = threading.Event(), Tenure.commit

    def commit_if_there_is_room(self: Tenure, data: Sequence[bytes]) -> None:
        if not event.is_set():
            raise StorageBlocked("no space left")
        commit(self, data)

    monkeypatch.setattr(Tenure, "commit", commit_if_there_is_room)
    monkeypatch.setattr(patience, "BLOCKED_S", 0.1)
    yield event
    event.set()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda runtime, state: runtime.post(FLOW, "r", "inp", {"n": 1}), id="post"),
        pytest.param(lambda runtime, state: state.increment("sum"), id="annotate"),
    ],
)
def test_a_call_comes_back_and_holds_when_there_is_room(tmp_path: Path, has_room: threading.Event, call: Call) -> None:
    has_room.set()
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.exec(FLOW, settle_s=0)
        has_room.clear()
        try:
            with pytest.raises(StorageBlocked) as caught:
                call(runtime, state)
        finally:
            has_room.set()
        for part in (state.job_id, "no space left", "do not ask for it again", "if this process ends"):
            assert part in str(caught.value)
        assert JobState.wait_until_condition(FLOW, state, lambda flow, job_state: job_state.blocked is None, timeout=30)
        call(runtime, state)  # which comes after it, and stands
    assert len(list(state.results("r", "out"))) + state.shared_data.get("sum", 0) == 2


def test_resuming_does_not_wait_for_ever_either(tmp_path: Path, has_room: threading.Event) -> None:
    has_room.set()
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.exec(FLOW, settle_s=0)
        FLOW.pause(state)
        has_room.clear()
        try:
            with pytest.raises(StorageBlocked):
                FLOW.resume(state)
            assert state.status == "paused", "nothing is shown that does not stand"
        finally:
            has_room.set()
    assert state.status == "completed", "it holds as soon as there is room"


def test_a_document_is_made_while_the_disk_takes_nothing(tmp_path: Path, has_room: threading.Event) -> None:
    has_room.set()
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.exec(FLOW, settle_s=0)
        has_room.clear()
        try:
            with pytest.raises(StorageBlocked):
                state.increment("sum")
            assert state.serialize()["job_id"] == state.job_id
        finally:
            has_room.set()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda runtime, state: runtime.post(FLOW, "r", "inp", {"n": 1}), id="post"),
        pytest.param(lambda runtime, state: state.increment("sum"), id="annotate"),
    ],
)
def test_nor_does_a_call_for_a_job_whose_end_waits_for_the_disk(
    tmp_path: Path, has_room: threading.Event, call: Call
) -> None:
    has_room.set()
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.exec(FLOW, settle_s=0)
        has_room.clear()
        try:
            runtime._supervisor().call(runtime._supervisor()._close_inputs)  # nothing more comes: it completes
            with pytest.raises(StorageBlocked, match="nothing was done"):
                call(runtime, state)
            assert state.status == "running", "its end is not known to anybody yet"
        finally:
            has_room.set()
        assert JobState.wait_for_completion(FLOW, state, timeout=30)
        assert "sum" not in state.shared_data


def test_what_was_edited_does_not_keep_the_job_from_being_resumed(tmp_path: Path, has_room: threading.Event) -> None:
    has_room.set()
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.exec(FLOW, settle_s=0)
        FLOW.pause(state)
        has_room.clear()
        ops = [Annotate((StateOp("increment", "", key, 1),)) for key in ("a", "b")]
        try:
            with pytest.raises(StorageBlocked, match="do not ask for it again"):
                runtime._supervisor().resume(None, state.job_id, edits=lambda job: ops)
        finally:
            has_room.set()
        assert JobState.wait_until_condition(FLOW, state, lambda flow, s: s.status == "running", timeout=10)
        assert {key: state.shared_data.get(key) for key in ("a", "b")} == {"a": 1, "b": 1}
