"""Workloads of other shapes: one event at a time, many small jobs, arrays, stages of unequal length.

``python bench/shapes.py NAME N [DIR]`` prints one JSON line; ``BENCH_DURABILITY=none`` keeps nothing. The
references are here too (``hop_reference``, ``jobs_reference``, ``disk``, ``array_queue``), since each is a few lines.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ours import Pass, Sink, Source, _flow, _run, log_bytes
from work import burn, fresh_folder, report

from routilux_mp import Flow, Routine, Runtime

_DURABILITY = os.environ.get("BENCH_DURABILITY", "commit")
_ARRAY_BYTES = int(os.environ.get("BENCH_ARRAY_BYTES", "10000000"))
#: Iterations of ``burn`` in a millisecond, set by table.py.
_MILLISECOND = int(os.environ.get("BENCH_ITERATIONS", "15000"))
#: Workers of the three stages, and of all routines together: "1,1,2" or "auto,auto,auto".
_WORKERS = os.environ.get("BENCH_WORKERS", "auto,auto,auto")
_PAUSE_S = 0.01


class Slow(Source):
    """A source that emits the time now and then."""

    def go(self, n: int) -> Iterator[int]:
        for i in range(n):
            time.sleep(_PAUSE_S)
            self.emit("out", x=i)
            yield i


class Stamp(Pass):
    """Sends the time at which it was sent."""

    def go(self, x: Any) -> None:
        self.emit("out", x=time.monotonic_ns())


class Delay(Pass):
    """Says how long it took."""

    def go(self, x: Any) -> None:
        self.emit("out", x=time.monotonic_ns() - x)


class Arrays(Source):
    """Emits arrays."""

    def go(self, n: int) -> Iterator[int]:
        import numpy as np

        for i in range(n):
            array = np.ones(_ARRAY_BYTES // 8)
            array[0] = i
            self.emit("out", x=array)
            yield i


class Total(Sink):
    """Looks at every element."""

    def go(self, x: Any) -> None:
        x.sum()


class Burn(Pass):
    """Takes a millisecond of CPU, or several."""

    milliseconds = 1

    def go(self, x: Any) -> None:
        burn(self.milliseconds * _MILLISECOND)
        self.emit("out", x=x)


class Burn5(Burn):
    milliseconds = 5


class Burn20(Burn):
    milliseconds = 20


def _chain(source: Routine, *stages: tuple[str, Routine, Any]) -> Flow:
    flow = Flow(flow_id="bench")
    flow.add_routine(source, "source")
    previous = "source"
    for name, routine, workers in stages:
        flow.add_routine(routine, name, workers=workers)
        flow.connect(previous, "out", name, "inp")
        previous = name
    return flow


def hop(n: int, folder: str) -> None:
    """One event through one hop of an idle system: from ``emit`` in one process to the handler in the next."""
    flow = _chain(Slow(), ("stamp", Stamp(), 1), ("delay", Delay(), 1))
    with Runtime(3, checkpoint_dir=folder, durability=_DURABILITY) as runtime:
        _run(runtime, flow, 5)
        state = flow.execute("source", entry_params={"n": n}, settle_s=0)
        flow.wait_for_completion(timeout=600, job_state=state)
        found = [item["x"] / 1e3 for item in state.results("delay", "out")]
    report(us=statistics.median(found))


def hop_reference(n: int, folder: str) -> None:
    """The round trip of a pipe, and one put-if-absent of a small file, at the same pace."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_echo, args=(theirs,))
    process.start()
    trips, puts = [], []
    at = os.open(folder, os.O_RDONLY)
    for i in range(n):
        time.sleep(_PAUSE_S)
        start = time.monotonic_ns()
        ours.send(i)
        ours.recv()
        trips.append((time.monotonic_ns() - start) / 1e3)
        start = time.monotonic_ns()
        handle = os.open("private", os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=at)
        os.write(handle, b"x" * 300)
        os.fsync(handle)
        os.link("private", f"c{i}", src_dir_fd=at, dst_dir_fd=at)
        os.fsync(at)
        puts.append((time.monotonic_ns() - start) / 1e3)
        os.close(handle)
        os.unlink("private", dir_fd=at)
    os.close(at)
    ours.send(None)
    process.join()
    report(us=statistics.median(trips) + statistics.median(puts))


def _echo(pipe: Any) -> None:
    while (message := pipe.recv()) is not None:
        pipe.send(message)


def jobs(n: int, folder: str) -> None:
    """Many small jobs of three activations, begun one after another."""
    flow = _flow(("a", Pass(), 1), ("sink", Sink(), 1))
    with Runtime(3, checkpoint_dir=folder, durability=_DURABILITY) as runtime:
        _run(runtime, flow, 10)
        start = time.perf_counter()
        states = [flow.execute("source", entry_params={"n": 1}, settle_s=0) for _ in range(n)]
        for state in states:
            flow.wait_for_completion(timeout=600, job_state=state)
        seconds = time.perf_counter() - start
        assert all(state.status == "completed" for state in states)
    report(seconds=seconds, per_s=n / seconds)


def jobs_reference(n: int, folder: str) -> None:
    """What a queue in SQLite does for the same: every step taken and finished in a transaction of its own."""
    database = sqlite3.connect(Path(folder, "queue.db"), isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table task (id integer primary key, state text, data blob)")
    start = time.perf_counter()
    for _ in range(n):
        for _ in range(3):
            row = database.execute("insert into task (state, data) values ('queued', ?)", (b"x" * 50,)).lastrowid
            database.execute("update task set state = 'running' where id = ?", (row,))
            database.execute("update task set state = 'done' where id = ?", (row,))
    seconds = time.perf_counter() - start
    database.close()
    report(seconds=seconds, per_s=n / seconds)


def arrays(n: int, folder: str) -> None:
    """Arrays from one process to the next."""
    flow = _chain(Arrays(), ("total", Total(), 1))
    with Runtime(2, checkpoint_dir=folder, durability=_DURABILITY) as runtime:
        _run(runtime, flow, 4)
        seconds = _run(runtime, flow, n)
    report(seconds=seconds, mb_per_s=n * _ARRAY_BYTES / 1e6 / seconds)


def array_queue(n: int, folder: str) -> None:
    """The same through a bare ``multiprocessing.Queue``."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue(8)
    process = context.Process(target=_make_arrays, args=(queue, n + 4))
    process.start()
    for _ in range(4):
        queue.get().sum()
    start = time.perf_counter()
    for _ in range(n):
        queue.get().sum()
    seconds = time.perf_counter() - start
    process.join()
    report(seconds=seconds, mb_per_s=n * _ARRAY_BYTES / 1e6 / seconds)


def _make_arrays(queue: Any, n: int) -> None:
    import numpy as np

    for _ in range(n):
        queue.put(np.ones(_ARRAY_BYTES // 8))


def disk(n: int, folder: str) -> None:
    """What the disk takes: files of the same size, each fsynced."""
    data = os.urandom(_ARRAY_BYTES)
    start = time.perf_counter()
    for i in range(n):
        with open(f"{folder}/{i}", "wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    report(seconds=seconds, mb_per_s=n * _ARRAY_BYTES / 1e6 / seconds)


def stages(n: int, folder: str) -> None:
    """Stages of 1, 5 and 20 ms."""
    workers = [int(text) if text.isdigit() else text for text in _WORKERS.split(",")]
    flow = _chain(Source(), ("a", Burn(), workers[0]), ("b", Burn5(), workers[1]), ("c", Burn20(), workers[2]))
    total = sum(w if isinstance(w, int) else 3 for w in workers) + 1
    with Runtime(total, checkpoint_dir=folder, durability=_DURABILITY) as runtime:
        _run(runtime, flow, 4)
        seconds = _run(runtime, flow, n)
    report(seconds=seconds, per_s=n / seconds)


def size(n: int, folder: str) -> None:
    """Bytes in the log per activation of a no-op chain; the two views that people open are left out."""
    flow = _flow(("a", Pass(), 1), ("b", Pass(), 1), ("sink", Sink(), 1))
    with Runtime(4, checkpoint_dir=folder) as runtime:
        _run(runtime, flow, n)
        (job_id,) = [name for name in os.listdir(folder) if Path(folder, name, "format.json").exists()]
    report(bytes=log_bytes(Path(folder, job_id)) / (3 * n))


def main() -> None:
    """Run the workload that the command line names."""
    workloads: dict[str, Callable[[int, str], None]] = {
        f.__name__: f for f in (hop, hop_reference, jobs, jobs_reference, arrays, array_queue, disk, stages, size)
    }
    with fresh_folder() as folder:
        workloads[sys.argv[1]](int(sys.argv[2]), folder)


if __name__ == "__main__":
    main()
