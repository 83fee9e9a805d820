"""A share that hangs while a job runs: little is begun that a successor would run again, and nothing is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._storage.files import RealFiles
from routilux_mp._supervisor import commits

ITEMS = 160
ITEM_S = 0.02
WORKERS = 2
SILENCE_S = 0.2


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self) -> None:
        for i in range(ITEMS):
            self.emit("out", i=i)


class Work(Routine):
    """Says in a file, one byte each, when it begins."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)
        self.add_event("out")

    def go(self, i: int) -> None:
        with open(self.get_config("begun"), "ab") as begun:
            begun.write(b".")
        time.sleep(ITEM_S)
        self.emit("out", i=i)


def make_flow(begun: Path) -> Flow:
    flow = Flow(flow_id="silent")
    flow.add_routine(Source(), "source")
    work = Work()
    work.set_config(begun=str(begun))
    flow.add_routine(work, "work", workers=WORKERS)
    flow.connect("source", "out", "work", "inp")
    return flow


class Share:
    """The checkpoint directory's file system, as the supervisor meets it."""

    def __init__(self) -> None:
        self._answers = threading.Event()
        self._answers.set()
        self.waiting = 0

    def hang(self) -> None:
        self._answers.clear()

    def come_back(self) -> None:
        self._answers.set()

    def wait(self) -> None:
        if not self._answers.is_set():
            self.waiting += 1
            assert self._answers.wait(60)


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> Iterator[Share]:
    made = Share()
    for name in ("fsync", "link", "link_unnamed"):
        real: Callable[..., Any] = getattr(RealFiles, name)

        def operate(self: RealFiles, *args: Any, real: Callable[..., Any] = real) -> Any:
            made.wait()
            return real(self, *args)

        monkeypatch.setattr(RealFiles, name, operate)
    yield made
    made.come_back()


def _wait_until(condition: Callable[[], Any], deadline_s: float = 30.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


@pytest.mark.slow
def test_little_is_begun_while_the_share_hangs(tmp_path: Path, share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "SILENCE_NS", int(SILENCE_S * 1e9))
    monkeypatch.setattr(commits, "SILENCE_TOLD_NS", int(2 * SILENCE_S * 1e9))
    flow, begun = make_flow(tmp_path / "begun"), tmp_path / "begun"
    # Those of the time until nobody waits for the disk any more, and what lies in front of the workers then.
    most = WORKERS * (SILENCE_S / ITEM_S + 4)
    with Runtime(1 + WORKERS, checkpoint_dir=str(tmp_path / "root")) as runtime:
        try:
            state = runtime.execute(flow, "source", {}, settle_s=0)
            _wait_until(lambda: state.progress["work"][0] >= 10)
            share.hang()
            _wait_until(lambda: share.waiting)
            before = os.path.getsize(begun)
            _wait_until(lambda: state.blocked)
            reason = (state.blocked or {})["reason"]
            end = time.monotonic() + 0.5
            _wait_until(lambda: os.path.getsize(begun) - before > most or time.monotonic() > end)
            during = os.path.getsize(begun) - before
        finally:
            share.come_back()
        assert during <= most < ITEMS - before
        assert "has not answered" in reason
        assert JobState.wait_for_completion(flow, state, timeout=60)
        assert state.blocked is None
        assert sorted(result["i"] for result in state.results("work", "out")) == list(range(ITEMS))
    assert os.path.getsize(begun) == ITEMS, "each was run once"
