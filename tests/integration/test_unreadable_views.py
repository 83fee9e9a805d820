"""A view that cannot be read (a bad sector, a stranger's file) keeps no job from going on, nor from its end."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._storage.files import RealFiles


class Work(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("inp", handler=self.go)
        self.define_event("out")

    def go(self, n: int) -> None:
        self.emit("out", n=n)


def make_flow() -> Flow:
    flow = Flow(flow_id="f")
    flow.add_routine(Work(), "work")
    return flow


@pytest.mark.parametrize("name", ["flow.json", "job_state.json"])
def test_the_job_goes_on_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        flow = make_flow()
        state = runtime.exec(flow)
        flow.pause(state)
    path = tmp_path / state.job_id / name
    bad = path.stat().st_ino
    for method in ("read", "read_range"):
        real: Callable[..., Any] = getattr(RealFiles, method)

        def read(self: RealFiles, file: str, *args: Any, real: Callable[..., Any] = real) -> Any:
            if file == name and path.stat().st_ino == bad:
                raise OSError(errno.EIO, "Input/output error")
            return real(self, file, *args)

        monkeypatch.setattr(RealFiles, method, read)
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        flow = make_flow()
        gone_on = runtime.resume_job(state.job_id, flow)
        runtime.post(flow, "work", "inp", {"n": 1}, job_id=state.job_id)
        runtime.shutdown(wait=True, timeout=30)
        assert [result["n"] for result in gone_on.results("work", "out")] == [1]
    if name == "job_state.json":
        assert json.loads(path.read_bytes())["status"] == "completed"
