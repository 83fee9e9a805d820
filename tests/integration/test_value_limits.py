"""A value too large for a commit is refused where it is made, with its key; it does not cost the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._serialization import limits
from routilux_mp.errors import EmissionNotSerializable

DEADLINE_S = 20.0
BIG = b"x" * 20_000


class Keeps(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self, how: str = "", data: bytes = b"") -> None:
        state = self.get_execution_context().job_state  # type: ignore[union-attr]
        keep: dict[str, Callable[[], Any]] = {
            "shared": lambda: state.update_shared_data("it", BIG),
            "own": lambda: state.update_routine_state("keeps", {"mine": BIG}),
            "place": lambda: state.shared_data.setdefault("list", []).append(BIG),
            "log": lambda: state.append_to_shared_log({"it": BIG}),
            "cursor": lambda: self.commit(BIG),
            "pause": lambda: self.get_execution_context().flow.pause(state),  # type: ignore[union-attr]
        }
        if how:
            keep[how]()
        self.emit("out", size=len(data))


@pytest.fixture(params=["inline", "local"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(1, backend=request.param, checkpoint_dir=str(tmp_path), value_bytes_max=10_000) as runtime:
        yield runtime


def keeping() -> Flow:
    flow = Flow("keeping")
    flow.add_routine(Keeps(), "keeps")
    return flow


@pytest.mark.parametrize(
    ("how", "where"),
    [("shared", "key 'it'"), ("own", "key 'mine'"), ("place", "key 'list'"), ("log", "log"), ("cursor", "cursor")],
)
def test_a_handler_that_keeps_too_much_fails(runtime: Runtime, how: str, where: str) -> None:
    flow = keeping()
    state = flow.execute("keeps", {"how": how})
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert state.status == "failed"
    assert "value_bytes_max (10000)" in str(state.error)
    assert where in str(state.error)


def test_parameters_and_state_from_outside_are_refused_too(runtime: Runtime) -> None:
    flow = keeping()
    with pytest.raises(EmissionNotSerializable, match=r"parameters from outside.*value_bytes_max"):
        flow.execute("keeps", {"data": BIG})
    state = flow.execute("keeps", {"data": b"small", "how": "pause"})
    deadline = time.monotonic() + DEADLINE_S
    while state.status != "paused":
        assert time.monotonic() < deadline, "did not pause"
        time.sleep(0.005)
    with pytest.raises(EmissionNotSerializable, match="shared data, key 'it'"):
        state.update_shared_data("it", BIG)
    flow.resume(state)
    assert flow.wait_for_completion(DEADLINE_S, state)
    assert list(state.results("keeps", "out")) == [{"size": 5}]


class KeepsMany(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self, count: int) -> None:
        state = self.get_execution_context().job_state  # type: ignore[union-attr]
        for number in range(count):
            state.update_shared_data(f"k{number}", BIG[:9000])
        self.emit("out", kept=sorted(state.shared_data))


def test_what_no_commit_could_hold_is_refused_where_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACTIVATION_BYTES_MAX", 50_000)
    flow = Flow("many")
    flow.add_routine(KeepsMany(), "keeps")
    with Runtime(1, backend="inline", checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.execute(flow, "keeps", {"count": 6})
        assert flow.wait_for_completion(DEADLINE_S, state)
        assert state.status == "failed"
        assert "cannot be committed at once" in str(state.error)
        assert dict(state.shared_data) == {}
        state = runtime.execute(flow, "keeps", {"count": 5})
        assert flow.wait_for_completion(DEADLINE_S, state)
        assert [len(r["kept"]) for r in state.results("keeps", "out")] == [5]
