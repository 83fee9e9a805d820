"""Where one that fails stops nobody: each activation runs once all the same, in order, and what failed is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from routilux_mp import ErrorHandler, ErrorStrategy, Flow, Routine, Runtime

COUNT = 600


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self) -> None:
        for n in range(COUNT):
            self.emit("out", n=n)


class Picky(Routine):
    """Notes what it runs, counts in its state, and takes no multiple of three."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.add_serializable_fields(["seen"])
        self.add_slot("inp", handler=self.go)
        self.add_event("out")

    def go(self, n: int) -> None:
        at = os.open(self.get_config("journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(at, b"%d\n" % n)
        os.close(at)
        self.seen += 1
        self.emit("out", n=n, seen=self.seen)
        if n % 3 == 0:
            raise ValueError(f"{n} is not wanted")


@pytest.mark.parametrize("strategy", [None, ErrorStrategy.CONTINUE, ErrorStrategy.SKIP])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("backend", ["inline", "local"])
def test_all_run_once(tmp_path: Path, backend: str, workers: int, strategy: ErrorStrategy | None) -> None:
    flow = Flow(flow_id="picky")
    picky = Picky()
    picky.set_config(journal=str(tmp_path / "journal"))
    if strategy is not None:
        picky.set_error_handler(ErrorHandler(strategy))
    flow.add_routine(Source(), "source")
    flow.add_routine(picky, "picky", workers=workers)
    flow.connect("source", "out", "picky", "inp")
    with Runtime(3, checkpoint_dir=str(tmp_path / "jobs"), backend=backend) as runtime:  # type: ignore[arg-type]
        state = runtime.execute(flow, "source", {}, settle_s=0)
        assert flow.wait_for_completion(timeout=60, job_state=state)
        assert state.status == "completed"
        found = list(state.results("picky", "out"))
        told = [r.data["error"] for r in state.execution_history if r.routine_id == "picky" and "error" in r.event_name]
    ran = [int(line) for line in (tmp_path / "journal").read_text().split()]
    good = [n for n in range(COUNT) if n % 3]
    if workers == 1:
        assert ran == list(range(COUNT)), "in order of arrival, and none twice"
        assert [(item["n"], item["seen"]) for item in found] == [(n, i + 1) for i, n in enumerate(good)]
    else:
        assert sorted(set(ran)) == list(range(COUNT))
        assert sorted(item["n"] for item in found) == good
    if strategy is not ErrorStrategy.SKIP:
        assert sorted(told) == sorted(f"{n} is not wanted" for n in range(0, COUNT, 3))
