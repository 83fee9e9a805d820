"""The references: the same work on the standard library's multiprocessing, which keeps nothing.

One workload per process: ``python bench/bare.py NAME N`` prints one JSON line.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from work import burn, report, started

_context = multiprocessing.get_context("fork")


def _stage(incoming: Any, outgoing: Any) -> None:
    get, put = incoming.get, outgoing.put
    while (item := get()) is not None:
        put(item)
    put(None)


def _sink(incoming: Any, done: Connection) -> None:
    count = 0
    while incoming.get() is not None:
        count += 1
    done.send(count)


def queue_chain(n: int) -> None:
    """Source -> A -> B -> sink, each stage a process, one bare queue per hop."""
    queues = [_context.Queue() for _ in range(3)]
    receive, send = _context.Pipe(False)
    processes = [
        _context.Process(target=_stage, args=(queues[0], queues[1])),
        _context.Process(target=_stage, args=(queues[1], queues[2])),
        _context.Process(target=_sink, args=(queues[2], send)),
    ]
    for process in processes:
        process.start()
    start = time.perf_counter()
    for i in range(n):
        queues[0].put({"i": i})
    queues[0].put(None)
    count = receive.recv()
    seconds = time.perf_counter() - start
    for process in processes:
        process.join()
    assert count == n, count
    report(seconds=seconds, per_s=2 * n / seconds)


def _burn_item(item: int) -> int:
    burn()
    return item


def pool_cpu(n: int) -> None:
    """CPU items through ``Pool(2).imap``, or as many processes as ``BENCH_WORKERS`` says."""
    workers = int(os.environ.get("BENCH_WORKERS", "2"))
    with _context.Pool(workers) as pool:
        list(pool.imap(_burn_item, range(2 * workers)))
        start = time.perf_counter()
        count = sum(1 for _ in pool.imap(_burn_item, range(n)))
        seconds = time.perf_counter() - start
    assert count == n, count
    report(seconds=seconds, per_s=n / seconds)


def loops(n: int) -> None:
    """What the cores give: as many processes as ``BENCH_WORKERS`` says share ``n`` CPU items and do nothing else."""
    workers = int(os.environ.get("BENCH_WORKERS", "2"))
    barrier = _context.Barrier(workers + 1)
    processes = [_context.Process(target=_loop, args=(barrier, n // workers)) for _ in range(workers)]
    for process in processes:
        process.start()
    barrier.wait()
    start = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - start
    report(seconds=seconds, per_s=n // workers * workers / seconds)


def _loop(barrier: Any, n: int) -> None:
    barrier.wait()
    for i in range(n):
        _burn_item(i)


def pool_cold(n: int) -> None:
    """Process start to the first result of two steps through ``Pool(2)``."""
    with _context.Pool(2) as pool:
        assert pool.apply(int, (pool.apply(int, ("1",)),)) == 1
        report(seconds=time.time() - started())


def spawn_cold(n: int) -> None:
    """Process start to the first result of two steps through a ``ProcessPoolExecutor`` of fresh processes."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(int, pool.submit(int, "1").result()).result() == 1
        report(seconds=time.time() - started())


def main() -> None:
    """Run the workload that the command line names."""
    workloads: dict[str, Callable[[int], None]] = {
        "queue_chain": queue_chain,
        "pool_cpu": pool_cpu,
        "loops": loops,
        "pool_cold": pool_cold,
        "spawn_cold": spawn_cold,
    }
    workloads[sys.argv[1]](int(sys.argv[2]))


if __name__ == "__main__":
    main()
