"""A runtime that leaves a job which is just being written for people, by another thread."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._supervisor.live import LiveJob
from routilux_mp._supervisor.supervisor import Supervisor
from routilux_mp.errors import HandedOver


class Slow(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)

    def go(self) -> None:
        time.sleep(5)


def test_leaving_does_not_wait_for_a_view_that_waits_for_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Flow(flow_id="f")
    flow.add_routine(Slow(), "slow")
    runtime = Runtime(1, checkpoint_dir=str(tmp_path), grace_s=0.3)
    state = runtime.execute(flow, "slow", {}, settle_s=0.3)
    supervisor = runtime._supervisor()
    hand_over, is_made = Supervisor._hand_over, threading.Event()
    live = state._live_or_fail().handle.live
    documents = supervisor.documents(live)

    def make() -> tuple[bytes | None, bytes]:
        is_made.set()
        return documents()

    showing = threading.Thread(target=lambda: live.tenure.show(make), daemon=True)  # type: ignore[attr-defined]

    def hand_over_meanwhile(self: Supervisor, live: LiveJob) -> None:
        # The last turn has had the views written: another thread has begun with that.
        showing.start()
        assert is_made.wait(10)
        hand_over(self, live)

    monkeypatch.setattr(Supervisor, "_hand_over", hand_over_meanwhile)
    closing = threading.Thread(target=lambda: runtime.shutdown(wait=False), daemon=True)
    closing.start()
    closing.join(15)
    assert not closing.is_alive(), "two threads wait for each other"
    showing.join(15)
    assert isinstance(live.lost, HandedOver)
    assert json.loads((tmp_path / live.job.job_id / "job_state.json").read_bytes())["status"] == "running"
