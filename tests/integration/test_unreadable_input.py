"""A payload that cannot be read loses no item and ends no job as if all were well: the job waits to be repaired."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import ErrorHandler, ErrorStrategy, Flow, Routine, Runtime
from routilux_mp.errors import CheckpointDamaged

DEADLINE_S = 20.0
SIZE = 400_000


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self) -> None:
        context = self.get_execution_context()
        assert context is not None
        for i in range(3):
            self.emit("out", data=bytes([i]) * SIZE)
        context.flow.pause(context.job_state)  # so that the test can get at what is queued


class Weigh(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input", handler=self.go)
        self.add_event("out")

    def go(self, data: bytes) -> None:
        self.emit("out", first=data[0], size=len(data))


def weighing(strategy: ErrorStrategy | None) -> Flow:
    flow = Flow("weighing")
    flow.add_routine(Source(), "source")
    flow.add_routine(Weigh(), "weigh")
    flow.connect("source", "out", "weigh", "input")
    if strategy is not None:
        flow.set_error_handler(ErrorHandler(strategy))
    return flow


def poll(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def put(path: Path, data: bytes) -> None:
    """In place of the file, not into it: somebody may have it mapped, and would die of its being cut."""
    other = path.with_suffix(".other")
    other.write_bytes(data)
    other.replace(path)


@pytest.fixture(params=["inline", "local"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("strategy", [None, ErrorStrategy.CONTINUE], ids=["tolerate", "continue"])
def test_a_damaged_payload_parks_the_job_until_it_is_repaired(
    backend: str, strategy: ErrorStrategy | None, tmp_path: Path
) -> None:
    flow = weighing(strategy)
    with Runtime(2, backend=backend, checkpoint_dir=str(tmp_path)):
        state = flow.execute("source", {})
        poll(lambda: state.status == "paused")
        blobs = [path for path in (tmp_path / state.job_id / "blobs").rglob("*") if path.is_file()]
        whole = {path: path.read_bytes() for path in blobs}
        assert whole, "the payloads do not lie in blobs: the test tries nothing"
        for path, data in whole.items():
            put(path, data[:1000] + b"\xff" + data[1001:])
        flow.resume(state)
        with pytest.raises(CheckpointDamaged, match=r"weigh.*cannot be read.*fsck"):
            flow.wait_for_completion(DEADLINE_S, state)
        assert state.status == "running", "nothing is decided"
        for path, data in whole.items():
            put(path, data)
        again = flow.resume(state)
        assert flow.wait_for_completion(DEADLINE_S, again)
        assert again.status == "completed"
        assert sorted(result["first"] for result in again.results("weigh", "out")) == [0, 1, 2]
