"""Where a new job begins: with its OPEN, in one file, or in two when that is too much; and what may go wrong then."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import ErrorHandler, Flow, JobState, Routine, Runtime
from routilux_mp._core.records import Submitted
from routilux_mp._storage import frames
from routilux_mp._storage.codec import decode_record
from routilux_mp._storage.store import Store
from routilux_mp._supervisor.beginning import OPEN_RECORDS_BYTES_MAX
from routilux_mp._supervisor.loop import Loop
from routilux_mp._supervisor.pace import Pace
from routilux_mp._supervisor.supervisor import Supervisor
from routilux_mp.errors import BackendError, RoutiluxError, RuntimeClosed
from routilux_mp.settings import Settings


class Add(Routine):
    def __init__(self, ballast: bytes = b"") -> None:
        super().__init__()
        self.ballast = ballast
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self, n: int) -> None:
        self.emit("out", n=n + 1, ballast=len(self.ballast))


def make_flow(ballast: bytes = b"") -> Flow:
    flow = Flow("f")
    flow.add_routine(Add(ballast), "add")
    return flow


def records_in_open(root: Path, job_id: str) -> int:
    path = root / job_id / "epochs/e0000001/c00000001"
    return len(frames.decode(path.read_bytes(), str(path)).frames) - 1


def first_record(root: Path, job_id: str) -> Any:
    with Store(str(root), Settings()) as store:
        return decode_record(store.read_first(job_id))


@pytest.mark.parametrize("size", [0, OPEN_RECORDS_BYTES_MAX], ids=["small", "large"])
def test_a_job_begins_with_its_open_unless_that_gets_too_large(tmp_path: Path, size: int) -> None:
    flow = make_flow(b"x" * size)
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.execute(flow, "add", {"n": 1})
        assert state.status != "pending"
        assert flow.wait_for_completion(timeout=30, job_state=state)
        assert [(r["n"], r["ballast"]) for r in state.results("add", "out")] == [(2, size)]
    assert records_in_open(tmp_path, state.job_id) == (0 if size else 1)
    assert (tmp_path / state.job_id / "flow.json").exists()
    first = first_record(tmp_path, state.job_id)
    assert isinstance(first, Submitted)
    assert size < len(first.code[0]) < size + OPEN_RECORDS_BYTES_MAX


def test_large_parameters_are_no_part_of_the_open(tmp_path: Path) -> None:
    flow = Flow("f")
    routine = Routine()
    routine.define_slot("trigger", handler=lambda data: None)
    flow.add_routine(routine, "r")
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.execute(flow, "r", {"data": b"x" * OPEN_RECORDS_BYTES_MAX})
        assert flow.wait_for_completion(timeout=30, job_state=state)
    assert records_in_open(tmp_path, state.job_id) == 0


def test_whoever_begins_a_job_waits_for_the_disk_and_not_for_the_loop(tmp_path: Path) -> None:
    flow, hold = make_flow(), threading.Event()
    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime:
        assert flow.wait_for_completion(
            timeout=30, job_state=runtime.execute(flow, "add", {"n": 0})
        )  # its code is there
        held = runtime._supervisor().tell(lambda: hold.wait(60))
        try:
            state = runtime.execute(flow, "add", {"n": 1})
            assert not held.done()
            assert records_in_open(tmp_path, state.job_id) == 1
            assert state.status == "running"
        finally:
            hold.set()
        assert flow.wait_for_completion(timeout=30, job_state=state)


@pytest.mark.parametrize("size", [0, OPEN_RECORDS_BYTES_MAX], ids=["small", "large"])
def test_the_code_is_found_wherever_the_job_began(tmp_path: Path, size: int) -> None:
    flow = make_flow(b"x" * size)
    flow.set_error_handler(ErrorHandler("retry", retry_delay=1000.0))
    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime:
        state = runtime.execute(flow, "add", {"n": "no number"})
        flow.pause(state)
    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime:  # which knows nothing of the flow
        again = runtime.resume_job(state.job_id)
        assert again.status == "running"
        runtime.cancel(again)


def test_a_job_that_the_loop_does_not_take_is_lost_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow()

    def refuse(self: Loop, *_: object) -> None:
        raise BackendError("it takes nothing")

    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime, monkeypatch.context() as patch:
        patch.setattr(Loop, "add_begun", refuse)
        state = runtime.execute(flow, "add", {"n": 1})
        with pytest.raises(BackendError, match="it takes nothing"):
            flow.wait_for_completion(timeout=30, job_state=state)
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        again = runtime.resume_job(state.job_id, flow)
        assert JobState.wait_for_completion(flow, again, timeout=30)
        assert [r["n"] for r in again.results("add", "out")] == [2]


def test_a_job_that_finds_no_loop_is_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow()

    def gone(self: Supervisor, function: object, **_: object) -> None:
        raise RuntimeClosed("the runtime has been shut down")

    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime:
        first = runtime.execute(flow, "add", {"n": 1})
        assert flow.wait_for_completion(timeout=30, job_state=first)
        with monkeypatch.context() as patch:
            patch.setattr(Supervisor, "tell", gone)
            with pytest.raises(RuntimeClosed):
                runtime.execute(flow, "add", {"n": 5})
        (job_id,) = {path.parent.name for path in tmp_path.glob("*/format.json")} - {first.job_id}
        with Store(str(tmp_path), Settings()) as store:
            assert store.read(job_id).seal_reason == "handover"
        again = runtime.resume_job(job_id, flow)
        assert JobState.wait_for_completion(flow, again, timeout=30)
        assert [r["n"] for r in again.results("add", "out")] == [6]


def test_a_job_that_begins_in_a_stream_ends_no_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow()
    told: list[bool] = []
    tell = Supervisor.tell

    def noted(self: Supervisor, function: Any, *, is_awaited: bool = True) -> Any:
        told.append(is_awaited)
        return tell(self, function, is_awaited=is_awaited)

    with Runtime(1, checkpoint_dir=str(tmp_path), settle_s=0) as runtime:
        supervisor = runtime._supervisor()
        supervisor.start()
        for is_stream in (False, True):
            monkeypatch.setattr(Pace, "_streams", lambda self, now_ns, is_stream=is_stream: is_stream)
            for _ in range(2):  # between these two turns it has been seen
                supervisor.call(lambda: None)
            monkeypatch.setattr(Supervisor, "tell", noted)
            state = runtime.execute(flow, "add", {"n": 5})
            monkeypatch.setattr(Supervisor, "tell", tell)
            assert told.pop() == (not is_stream)
            assert flow.wait_for_completion(timeout=30, job_state=state)


def test_what_is_told_to_a_loop_that_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, late = Runtime(1, checkpoint_dir=str(tmp_path)), list[Any]()
    try:
        supervisor = runtime._supervisor()
        supervisor.start()

        def tell_when_it_has_left() -> None:
            supervisor._should_stop = True
            late.append(supervisor.tell(lambda: late.append("done")))
            supervisor.loop.commands.clear()  # as if it had come after the last turn

        supervisor.call(tell_when_it_has_left)
        with pytest.raises(RuntimeClosed):
            late[0].result(timeout=30)
        assert late[1:] == []
        assert supervisor._calls == set()
        with pytest.raises(RuntimeClosed):
            supervisor.tell(lambda: None)
        with monkeypatch.context() as patch:  # it has left, and looked at what it was told, a moment after the question
            patch.setattr(Supervisor, "_is_there", True)
            too_late = supervisor.tell(lambda: late.append("done"))
        with pytest.raises(RuntimeClosed):
            too_late.result(timeout=30)
        assert late[1:] == []
    finally:
        with pytest.raises(RuntimeClosed):
            runtime.shutdown()


def test_many_callers_begin_jobs_at_once(tmp_path: Path) -> None:
    flow = make_flow()
    states: list[JobState] = []
    errors: list[RoutiluxError] = []

    def begin(numbers: Sequence[int]) -> None:
        try:
            states.extend(runtime.execute(flow, "add", {"n": n}, settle_s=0) for n in numbers)
        except RoutiluxError as error:
            errors.append(error)

    with Runtime(2, checkpoint_dir=str(tmp_path)) as runtime:
        threads = [threading.Thread(target=begin, args=(range(k, 40, 4),)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        for state in states:
            assert flow.wait_for_completion(timeout=30, job_state=state)
        assert sorted(r["n"] for state in states for r in state.results("add", "out")) == list(range(1, 41))
