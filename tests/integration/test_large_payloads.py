"""Payloads too large for a message: in blobs when they are kept, in shared memory when they are not."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import routilux_mp
from routilux_mp import Flow, Routine, Runtime
from routilux_mp._worker import shared

MEMORY = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not shared.new_path(), reason="files cannot be kept in memory here")

SIZE = 1 << 20


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self, n: int) -> Iterator[int]:
        for i in range(n):
            self.emit("out", data=bytes([i]) * SIZE, pid=os.getpid())
            yield i


class Check(Routine):
    """Hands on what it can read."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)
        self.add_event("out")

    def go(self, data: bytes, pid: int) -> None:
        assert data == data[:1] * SIZE
        self.emit("out", first=data[0], held=_held())


class PassOn(Check):
    def go(self, data: bytes, pid: int) -> None:
        self.emit("out", data=data, pid=pid)


def _held() -> int:
    """How many payloads lie in the memory of this worker's runtime."""
    supervisor = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
    return sum(len(files) for folder in MEMORY.glob(f"routilux_mp-{supervisor}-*") for _, _, files in os.walk(folder))


def _flow(*stages: Routine) -> Flow:
    flow = Flow()
    flow.add_routine(Source(), "source")
    previous = "source"
    for number, routine in enumerate(stages):
        flow.add_routine(routine, f"r{number}")
        flow.connect(previous, "out", f"r{number}", "inp")
        previous = f"r{number}"
    return flow


def _mine() -> list[Path]:
    return list(MEMORY.glob(f"routilux_mp-{os.getpid()}-*"))


def test_what_nobody_keeps_is_released_as_it_is_consumed(tmp_path: Path) -> None:
    flow = _flow(Check())
    with Runtime(2, checkpoint_dir=str(tmp_path), durability="none") as runtime:
        state = runtime.execute(flow, "source", {"n": 60})
        assert flow.wait_for_completion(timeout=60, job_state=state)
        found = list(state.results("r0", "out"))
        assert len(_mine()) == 1
        assert not any(files for folder in _mine() for _, _, files in os.walk(folder))
    assert [item["first"] for item in found] == list(range(60))
    assert max(item["held"] for item in found) < 50
    assert _mine() == []


class Box:
    """An object of the user's, with an array in it."""

    def __init__(self, number: int) -> None:
        self.array = np.full(SIZE // 8, float(number))


class MakesBoxes(Source):
    """Says how many of what it has emitted are still in its memory; the collector never comes."""

    def go(self, n: int) -> Iterator[int]:
        gc.disable()
        made: list[weakref.ref[Any]] = []
        for i in range(n):
            box = Box(i) if self.get_config("boxed") else np.full(SIZE // 8, float(i))
            made.append(weakref.ref(box))
            self.emit("out", data=box, alive=sum(each() is not None for each in made))
            del box
            yield i


class CountsMaps(Check):
    """Says how many payloads are mapped into its memory; the collector never comes."""

    def go(self, data: Any, alive: int) -> None:
        gc.disable()
        array = data.array if isinstance(data, Box) else data
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
        maps = sum("/routilux_mp-" in line or "/blobs/" in line for line in lines)
        self.emit("out", first=float(array[0]), alive=alive, maps=maps)


@pytest.mark.parametrize("is_boxed", [False, True])
@pytest.mark.parametrize("durability", ["none", "commit"])
def test_workers_let_go_of_what_they_have_emitted_and_consumed(
    tmp_path: Path, durability: Literal["none", "commit"], is_boxed: bool
) -> None:
    flow = _flow(CountsMaps())
    maker = MakesBoxes()
    maker.set_config(boxed=is_boxed)
    flow.routines["source"] = maker
    with Runtime(2, checkpoint_dir=str(tmp_path), durability=durability) as runtime:
        state = runtime.execute(flow, "source", {"n": 60})
        assert flow.wait_for_completion(timeout=60, job_state=state)
        found = list(state.results("r0", "out"))
    assert [item["first"] for item in found] == list(range(60))
    assert max(item["alive"] for item in found) == 1, "only what it has just made"
    assert max(item["maps"] for item in found) < 50


def test_a_job_that_nobody_looks_at_any_more_is_gone_with_its_memory(tmp_path: Path) -> None:
    flow = _flow(PassOn())
    with Runtime(2, checkpoint_dir=str(tmp_path), durability="none") as runtime:
        state = runtime.execute(flow, "source", {"n": 12})
        assert flow.wait_for_completion(timeout=60, job_state=state)
        assert len(list(state.results("r0", "out"))) == 12
        assert len(state.execution_history)
        (memory,) = _mine()
        assert [files for _, _, files in os.walk(memory) if files]
        runtime.execute(flow, "source", {"n": 0})  # the flow keeps its latest job
        gc.disable()
        try:
            del state
            _wait_until(lambda: not [files for _, _, files in os.walk(memory) if files])
        finally:
            gc.enable()


def test_results_can_be_read_when_the_runtime_and_its_memory_are_gone(tmp_path: Path) -> None:
    flow = _flow(PassOn())
    with Runtime(2, checkpoint_dir=str(tmp_path), durability="none") as runtime:
        state = runtime.execute(flow, "source", {"n": 12})
        assert flow.wait_for_completion(timeout=60, job_state=state)
    assert _mine() == []
    assert [item["data"] for item in state.results("r0", "out")] == [bytes([i]) * SIZE for i in range(12)]


def test_kept_payloads_are_not_in_shared_memory(tmp_path: Path) -> None:
    flow = _flow(PassOn(), Check())
    with Runtime(3, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.execute(flow, "source", {"n": 8})
        assert flow.wait_for_completion(timeout=60, job_state=state)
        assert [item["first"] for item in state.results("r1", "out")] == list(range(8))
        assert _mine() == []
        assert len(list((tmp_path / state.job_id / "blobs").rglob("*-*"))) == 16


PROGRAM = """
import sys, time
from routilux_mp import Flow, Routine, Runtime
class Fill(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")
    def go(self):
        self.emit("out", data=b"x" * (1 << 20))
        yield 1
        print("full", flush=True)
        time.sleep(60)
flow = Flow()
flow.add_routine(Fill(), "fill")
runtime = Runtime(1, durability="none")
runtime.execute(flow, "fill", {}, settle_s=0)
time.sleep(60)
"""


def test_a_killed_supervisor_leaves_nothing_in_memory(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(routilux_mp.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "full"
        folders = list(MEMORY.glob(f"routilux_mp-{process.pid}-*"))
        assert any(files for folder in folders for _, _, files in os.walk(folder))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    _wait_until(lambda: not any(folder.exists() for folder in folders))


def test_memory_of_processes_that_are_gone_is_freed_by_the_next(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, alive = MEMORY / f"routilux_mp-{gone.pid}-left", MEMORY / f"routilux_mp-{os.getppid()}-alive"
    path = shared.new_path()
    try:
        for folder in (left, alive):
            (folder / "job" / "blobs").mkdir(parents=True)
            (folder / "job" / "blobs" / "x").write_bytes(b"x")
        shared.make(path)
        assert (left.exists(), alive.exists(), Path(path).exists()) == (False, True, True)
    finally:
        for folder in (left, alive, Path(path)):
            shared.remove(str(folder))
    assert not alive.exists()


def _wait_until(condition: Callable[[], Any], deadline_s: float = 10.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)
