"""A runtime that lives for long and sees many flows does not remember them all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._supervisor import shipping


def make_flow(number: int) -> Flow:
    """Each has code of its own."""

    class Own(Routine):
        def __init__(self) -> None:
            super().__init__()
            self.add_slot("trigger", handler=self.go)
            self.add_event("out")

        def go(self, n: int) -> None:
            self.emit("out", n=n + number)

    flow = Flow(flow_id=f"f{number}", max_workers=1)
    flow.add_routine(Own(), "own")
    return flow


def _run(runtime: Runtime, flow: Flow, number: int) -> None:
    state = runtime.execute(flow, "own", {"n": 1})
    assert JobState.wait_for_completion(flow, state, timeout=30)
    assert [r["n"] for r in state.results("own", "out")] == [1 + number]


def _wait_until(condition: Callable[[], Any], deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


@pytest.mark.parametrize("backend", ["local", "inline"])
def test_codes_that_nobody_uses_are_forgotten_and_loaded_again(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "CODES_MAX", 2)
    monkeypatch.setattr(shipping, "_KEPT_NS", 0)
    flows = [make_flow(number) for number in range(7)]
    with Runtime(1, checkpoint_dir=str(tmp_path), backend=backend, worker_idle_s=0) as runtime:
        for number, flow in enumerate(flows):
            _run(runtime, flow, number)
            _wait_until(lambda: not runtime._supervisor().loop.placement.workers)
        supervisor = runtime._supervisor()
        placement, known = supervisor.loop.placement, supervisor.shipping
        for memory in (known._loads, known._asked_ns, known._sources, placement.code_max):
            assert len(memory) <= 3
        assert len(placement._pace_ns) <= 3
        held = supervisor.loop.backend._codes if backend == "local" else supervisor.loop.backend._routines  # type: ignore[attr-defined]
        assert len(held) <= 3
        _run(runtime, flows[0], 0)
        _run(runtime, flows[6], 6)


def test_codes_in_use_and_those_just_asked_for_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "CODES_MAX", 1)
    flows = [make_flow(number) for number in range(4)]
    with Runtime(1, checkpoint_dir=str(tmp_path), worker_idle_s=0) as runtime:
        for number, flow in enumerate(flows):
            _run(runtime, flow, number)
        assert len(runtime._supervisor().shipping._loads) == 4


def _memory_kib(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1])


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_the_nursery_gives_back_what_forgotten_code_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "CODES_MAX", 2)
    monkeypatch.setattr(shipping, "_KEPT_NS", 0)

    def large(number: int) -> Flow:
        flow = make_flow(number)
        content = {i: f"{number}-{i}" * 100 for i in range(20_000)}  # some 10 MiB, in every flow

        class Large(type(flow.routines["own"])):  # type: ignore[misc]
            table = content

        flow = Flow(flow_id=f"large{number}", max_workers=1)
        flow.add_routine(Large(), "own")
        return flow

    with Runtime(1, checkpoint_dir=str(tmp_path), worker_idle_s=0, durability="none") as runtime:
        used = []
        for number in range(14):
            _run(runtime, large(number), number)
            _wait_until(lambda: not runtime._supervisor().loop.placement.workers)
            used.append(_memory_kib(runtime._supervisor().loop.backend._nursery_pid))  # type: ignore[attr-defined]
    assert max(used[6:]) < used[3] + 80_000, f"KiB after each flow: {used}; without forgetting it grows by 15,000 each"
