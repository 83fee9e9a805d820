"""A source that is ten times faster than its consumer, and what the supervisor's memory does meanwhile.

``python -m tests.recovery.pressure <checkpoint dir> <emissions>`` prints one JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._supervisor import commits
from tests.recovery.flows import burn

FAST_US = 1
SLOW_US = 10 * FAST_US
LOG_BYTES = 8 << 20


class Source(Routine):
    """Commits every thousand: pipelined, restartable, and held when its consumer is behind."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, n: int) -> Iterator[int]:
        for i in range(self.resume_cursor or 0, n):
            self.emit("out", i=i, text="some words that take up space in every queue they wait in")
            if i % 1000 == 999:
                yield i + 1


class Consumer(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in", handler=self.take)

    def take(self, i: int, text: str) -> None:
        burn(SLOW_US)
        self.get_execution_context().job_state.increment("sum", i, routine_id="consumer")


def slow_flow() -> Flow:
    flow = Flow(flow_id="pressure")
    flow.add_routine(Source(), "source")
    flow.add_routine(Consumer(), "consumer")
    flow.connect("source", "out", "consumer", "in")
    return flow


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(root: str, emissions: str) -> None:
    n = int(emissions)
    flow = slow_flow()
    #: (activations done, queued, resident bytes), over time
    samples: list[tuple[int, int, int]] = []
    # The first view in the first quarter, whatever the machine: later ones are at most a hundredth of the time.
    commits.VIEWS_INTERVAL_NS = 250_000_000
    # Small epochs: what is kept in memory to put one into the archive comes and goes several times.
    with Runtime(2, checkpoint_dir=root, log_bytes_max=LOG_BYTES, roll_interval_s=1.0) as runtime:
        begin = time.monotonic()
        state = runtime.exec(flow, {"n": n}, settle_s=0)
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(0.05):
                done, left, _ = state.progress["consumer"]
                samples.append((done, left, memory_bytes()))

        sampler = threading.Thread(target=sample)
        sampler.start()
        ended = JobState.wait_for_completion(flow, state, timeout=550)
        took = time.monotonic() - begin
        stop.set()
        sampler.join()
        told: dict[str, Any] = {"status": str(state.status), "ended": ended, "seconds": took, "samples": samples}
        told["sum"] = (state.get_routine_state("consumer") or {}).get("sum")
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
