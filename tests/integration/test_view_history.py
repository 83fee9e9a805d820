"""The history in ``job_state.json``: written without an object for each record, and the same as with one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._supervisor.cut import Cut
from routilux_mp.errors import CheckpointDamaged


class Twice(Routine):
    """Emits what it gets and something that JSON does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_slot("more", handler=self.go)
        self.add_event("out")

    def go(self, **data: Any) -> None:
        self.emit("out", data=data, pair=(1, {2}))


def make_flow() -> Flow:
    flow = Flow("twice")
    flow.add_routine(Twice(), "first")
    flow.add_routine(Twice(), "second")
    flow.connect("first", "out", "second", "more")
    return flow


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as made:
        yield made


def shown(runtime: Runtime, state: JobState) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(runtime._describe(state._live_or_fail().handle))
    return document


def test_it_is_what_the_state_gives(runtime: Runtime) -> None:
    flow = make_flow()
    once = runtime.execute(flow, "first", {"n": 1}, settle_s=30)
    state = runtime.exec(flow, {"n": 2}, once, settle_s=30)
    state.record_execution("first", "noted", {"n": 3})
    history = shown(runtime, state)["execution_history"]
    assert history == state.serialize()["execution_history"]
    assert history[-1]["event_name"] == "noted", "what its caller has added"
    assert {"n": 1} in [record["data"].get("data") for record in history], "what the run before has left"
    assert {"$tuple": [1, {"$set": [2]}]} in [record["data"].get("pair") for record in history]
    assert len({record["timestamp"] for record in history}) > 3, "each has the time of its commit"


def test_a_view_says_why_when_it_cannot_be_read(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def history(self: Cut) -> Iterator[Any]:
        yield from ()
        raise CheckpointDamaged("commit 2 is torn")

    state = runtime.execute(make_flow(), "first", {"n": 1}, settle_s=30)
    monkeypatch.setattr(Cut, "history", history)
    assert shown(runtime, state) == {
        "_type": "JobState", "job_id": state.job_id, "flow_id": "twice", "status": "completed",
        "incomplete": "CheckpointDamaged: commit 2 is torn",
    }  # fmt: skip
