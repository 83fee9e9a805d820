"""The flow that ``hub.py`` measures: ``python bench/hub_flow.py N`` prints one JSON line.

``BENCH_WORKERS`` workers that sleep ``BENCH_ITEM_MS`` per item: they keep the supervisor as busy as workers that burn
CPU, and need no core each. What is counted is the CPU time of this process, the supervisor, while one job runs.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import Any

from ours import Pass, Sink, _flow, _run
from work import fresh_folder, report

from routilux_mp import Runtime
from routilux_mp._core.records import Completed
from routilux_mp._storage.codec import decode_record
from routilux_mp._storage.store import Store
from routilux_mp.settings import Settings

_WORKERS = int(os.environ.get("BENCH_WORKERS", "2"))
_ITEM_S = float(os.environ.get("BENCH_ITEM_MS", "1")) / 1000


class Sleep(Pass):
    """Takes its time, then hands on."""

    def go(self, x: Any) -> None:
        time.sleep(_ITEM_S)
        self.emit("out", x=x)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _bare_item_s() -> float:
    """How long an item takes here without anything around it: a sleep is longer than what was asked for."""
    start = time.perf_counter()
    for _ in range(100):
        time.sleep(_ITEM_S)
    return (time.perf_counter() - start) / 100


def _counts(folder: str, job_id: str) -> tuple[int, int]:
    """Reports and commits in the log of a job."""
    reports, commits = 0, set()
    with Store(folder, Settings()) as store:
        for reference, data in store.read(job_id).history():
            reports += type(decode_record(data)) is Completed
            commits.add((reference.epoch, reference.commit))
    return reports, len(commits)


def main() -> None:
    """One job of so many items."""
    n, item_s = int(sys.argv[1]), _bare_item_s()
    # As on a machine with a core for each: while all cores are busy, commits wait for company.
    os.cpu_count = lambda: _WORKERS
    flow = _flow(("sleep", Sleep(), _WORKERS), ("sink", Sink(), 1))
    with fresh_folder() as folder:
        # The description at the job's end is made once per job, and would count as if it were made per item.
        with Runtime(_WORKERS + 2, checkpoint_dir=folder, history_inline_max=1) as runtime:
            _run(runtime, flow, 4 * _WORKERS)
            known = set(os.listdir(folder))
            before = _cpu_s()
            seconds = _run(runtime, flow, n)
            cpu_s = _cpu_s() - before
        (job_id,) = {name for name in os.listdir(folder) if os.path.isdir(f"{folder}/{name}/epochs")} - known
        reports, commits = _counts(folder, job_id)
    report(seconds=seconds, cpu_s=cpu_s, items=n, reports=reports, commits=commits, item_s=item_s)


if __name__ == "__main__":
    main()
