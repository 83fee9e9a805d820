"""The workloads on routilux_mp, one per process: ``python bench/ours.py NAME N [DIR]`` prints one JSON line.

The checkpoint directory is a fresh temporary one unless DIR names it; ``BENCH_DURABILITY=none`` keeps nothing.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from work import burn, cpu_s, fresh_folder, report, started

from routilux_mp import Flow, Routine, Runtime

_DURABILITY = os.environ.get("BENCH_DURABILITY", "commit")
_CURSOR_EVERY = 1000
#: Until what follows the end of a job (its views, its seal) is over, and does not slow down the next one.
_QUIET_S = 0.1


class Source(Routine):
    """Emits ``n`` small dictionaries; commits a cursor every so many, like a reader of a large file would."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self, n: int) -> Iterator[int]:
        emit = self.emit
        for i in range(self.resume_cursor or 0, n):
            emit("out", x={"i": i})
            if i % _CURSOR_EVERY == _CURSOR_EVERY - 1:
                yield i + 1
        yield n


class Pass(Routine):
    """Hands on what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)
        self.add_event("out")

    def go(self, x: Any) -> None:
        self.emit("out", x=x)


class Burn(Pass):
    """Ten milliseconds (calibrated) of CPU, then hands on."""

    def go(self, x: Any) -> None:
        burn()
        self.emit("out", x=x)


class Slow(Routine):
    """A consumer that takes ``BENCH_SLOW_ITERATIONS`` of arithmetic per item."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)

    def go(self, x: Any) -> None:
        burn(_SLOW_ITERATIONS)


class Sink(Routine):
    """Takes and forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)

    def go(self, x: Any) -> None:
        pass


class Gate(Routine):
    """Forgets all items but the last, at which it notes the time in a file and stays until it is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)

    def go(self, x: dict[str, int]) -> None:
        last, path = _GATE.split(":", 1) if _GATE else ("-1", "")
        if x["i"] == int(last):
            with open(path, "a", encoding="ascii") as file:
                file.write(f"{time.time()}\n")
            time.sleep(3600)


_SLOW_ITERATIONS = int(os.environ.get("BENCH_SLOW_ITERATIONS", "200"))
_GATE = os.environ.get("BENCH_GATE", "")
_WORKERS = os.environ.get("BENCH_WORKERS", "2")


def _flow(*stages: tuple[str, Routine, int]) -> Flow:
    """A chain: the source and these stages, each named and with its number of workers."""
    flow = Flow(flow_id="bench")
    flow.add_routine(Source(), "source")
    previous = "source"
    for name, routine, workers in stages:
        flow.add_routine(routine, name, workers=workers)
        flow.connect(previous, "out", name, "inp")
        previous = name
    return flow


def _run(runtime: Runtime, flow: Flow, n: int) -> float:
    """Run one job to its end; returns the seconds from the call to ``completed``."""
    start = time.perf_counter()
    state = flow.execute("source", entry_params={"n": n}, settle_s=0)
    flow.wait_for_completion(timeout=3600, job_state=state)
    seconds = time.perf_counter() - start
    if state.status != "completed":
        raise SystemExit(f"the job ended as {state.status}: {state.routine_states}")
    return seconds


def chain(n: int, folder: str) -> None:
    """No-op chain source -> A -> B -> sink, each stage its own process."""
    flow = _flow(("a", Pass(), 1), ("b", Pass(), 1), ("sink", Sink(), 1))
    with Runtime(4, checkpoint_dir=folder, durability=_DURABILITY) as runtime:
        _run(runtime, flow, 10)  # the workers are there, as the queue's processes are
        seconds = _run(runtime, flow, n)
    report(seconds=seconds, per_s=2 * n / seconds)


def cpu(n: int, folder: str) -> None:
    """CPU items through a routine with two workers, or ``BENCH_WORKERS`` of them, or "auto" up to as many as cores."""
    workers: Any = int(_WORKERS) if _WORKERS.isdigit() else _WORKERS
    most = (os.cpu_count() or 1) if workers == "auto" else workers
    flow = _flow(("burn", Burn(), workers), ("sink", Sink(), 1))
    with Runtime(most + 2, checkpoint_dir=folder, durability=_DURABILITY) as runtime:
        _run(runtime, flow, 2 * most)
        before = time.process_time()
        seconds = _run(runtime, flow, n)
        hub_cpu_s = time.process_time() - before
    report(seconds=seconds, per_s=n / seconds, hub_cpu_s=hub_cpu_s)


def scaling(n: int, folder: str) -> None:
    """One job of ``n`` activations: the cost of each, without what a job costs that does nothing."""
    import statistics  # not at the top: it would count in a cold start

    flow = _flow(("a", Pass(), 1), ("sink", Sink(), 1))
    with Runtime(3, checkpoint_dir=folder, durability=_DURABILITY) as runtime:
        _run(runtime, flow, 10)
        # The medians, not the best: what is subtracted must be as lucky as what it is subtracted from.
        empty, found, empty_cpu, found_cpu = [], [], [], []
        for _ in range(9 if n <= 10_000 else 1):
            for items, times, wall, cpu in ((1, 3, empty, empty_cpu), (n // 2, 1, found, found_cpu)):
                for _ in range(times):
                    before = cpu_s()
                    wall.append(_run(runtime, flow, items))
                    time.sleep(_QUIET_S)
                    cpu.append(cpu_s() - before)
        jobs = sorted(log_bytes(path) for path in Path(folder).iterdir() if (path / "format.json").exists())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cost, cpu_cost = (statistics.median(a) - statistics.median(b) for a, b in ((found, empty), (found_cpu, empty_cpu)))
    report(
        us_per_activation=cost / n * 1e6, cpu_us_per_activation=cpu_cost / n * 1e6,
        bytes_per_activation=(jobs[-1] - jobs[0]) / n, peak_mib=peak,
    )  # fmt: skip


def log_bytes(folder: Path) -> int:
    """What a job keeps, but for the views that people open.

    An epoch that has just been rolled lies there twice, as files and as an archive (two of them at most, whatever
    the size of the job): it is counted once.
    """
    archived = {path.name for path in folder.glob("archive/*")}
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return sum(path.stat().st_size for path in found if path.parts[-3] != "epochs" or path.parent.name not in archived)


def backpressure(n: int, folder: str) -> None:
    """A source ten times faster than its consumer; what the supervisor's memory does meanwhile."""
    flow = _flow(("slow", Slow(), 1))
    with Runtime(2, checkpoint_dir=folder, durability=_DURABILITY) as runtime:
        _run(runtime, flow, 1000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = _run(runtime, flow, n)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report(seconds=seconds, before_mib=before / 1024, peak_mib=after / 1024)


def cold(n: int, folder: str) -> None:
    """Process start to the first result of a two-routine job."""
    flow = _flow(("a", Pass(), 1))
    with Runtime(2, checkpoint_dir=folder, durability=_DURABILITY):
        state = flow.execute("source", entry_params={"n": 1}, settle_s=60)  # returns as soon as it has ended
        assert next(iter(state.results("a", "out"))) == {"x": {"i": 0}}
        seconds = time.time() - started()
    report(seconds=seconds)


def gate_start(n: int, folder: str) -> None:
    """A job that stops at its last item; table.py kills this process when the gate has noted its time."""
    flow = _flow(("gate", Gate(), 1))
    with Runtime(2, checkpoint_dir=folder) as runtime:
        _run(runtime, flow, n)


def gate_resume(n: int, folder: str) -> None:
    """The same job resumed by a new process, which is killed when the gate notes its time again."""
    flow = _flow(("gate", Gate(), 1))
    with Runtime(2, checkpoint_dir=folder) as runtime:
        (job,) = [path for path in Path(folder).iterdir() if (path / "format.json").exists()]
        state = runtime.resume_job(job.name, flow)
        flow.wait_for_completion(timeout=3600, job_state=state)


def main() -> None:
    """Run the workload that the command line names."""
    workloads: dict[str, Callable[[int, str], None]] = {
        f.__name__: f for f in (chain, cpu, scaling, backpressure, cold, gate_start, gate_resume)
    }
    name, n = sys.argv[1], int(sys.argv[2])
    if len(sys.argv) > 3:
        workloads[name](n, sys.argv[3])
        return
    with fresh_folder() as folder:
        workloads[name](n, folder)


if __name__ == "__main__":
    main()
