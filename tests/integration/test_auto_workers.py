"""``workers="auto"`` on real processes: the number grows with the backlog, and only then."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from routilux_mp import Flow, Routine, Runtime


class Numbers(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.count)
        self.define_event("number", ["i"])

    def count(self, n: int) -> None:
        for i in range(n):
            self.emit("number", i=i)


class Slow(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("number", handler=self.work)
        self.define_event("done", ["i", "pid"])

    def work(self, i: int) -> None:
        time.sleep(0.03)  # the work itself: longer than a worker may have in front of it
        self.emit("done", i=i, pid=os.getpid())


@pytest.mark.parametrize(("workers", "processes"), [("auto", range(2, 4)), (1, range(1, 2))])
def test_processes_that_share_a_backlog(tmp_path: Path, workers: int | str, processes: range) -> None:
    flow = Flow(flow_id="auto", max_workers=3)
    flow.add_routine(Numbers(), "numbers")
    flow.add_routine(Slow(), "slow", workers=workers)
    flow.connect("numbers", "number", "slow", "number")
    with Runtime(3, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.execute(flow, "numbers", {"n": 40}, settle_s=0)
        assert runtime.wait_until_all_jobs_finished(timeout=60)
        done = list(state.results("slow", "done"))
    assert sorted(row["i"] for row in done) == list(range(40))
    assert len({row["pid"] for row in done}) in processes
