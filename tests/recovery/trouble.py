"""A program whose checkpoint directory runs full: it says when its job is blocked, and goes on when told to.

``python -m tests.recovery.trouble <checkpoint dir> <payload bytes> <file size limit, 0: none> <seconds per item>``; it
prints one JSON line when the job is blocked, waits for a line on its standard input, and prints another when the job
has ended.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator

from routilux_mp import Flow, JobState, Routine, Runtime

ITEMS = 60
DEADLINE_S = 60.0


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, n: int, size: int) -> Iterator[int]:
        for i in range(self.resume_cursor or 0, n):
            self.emit("out", i=i, data=bytes([i]) * size)
            yield i + 1


class Check(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in", handler=self.go)
        self.define_event("out")

    def go(self, i: int, data: bytes) -> None:
        time.sleep(self.get_config("pace_s"))
        self.emit("out", i=i, size=len(data), is_right=set(data) == {i})


def flow_of(pace_s: float = 0.0) -> Flow:
    flow = Flow(flow_id="trouble")
    flow.add_routine(Source(), "source")
    check = Check()
    check.set_config(pace_s=pace_s)
    flow.add_routine(check, "check")
    flow.connect("source", "out", "check", "in")
    return flow


def main(root: str, size: str, limit: str, pace_s: str) -> None:
    flow = flow_of(float(pace_s))
    with Runtime(2, checkpoint_dir=root) as runtime:
        if int(limit):
            # Once everything is started: what is to run full is the log, not the start.
            done = runtime.exec(flow, {"n": 1, "size": 1})
            assert JobState.wait_for_completion(flow, done, timeout=DEADLINE_S)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        state = runtime.exec(flow, {"n": ITEMS, "size": int(size)}, settle_s=0)
        end = time.monotonic() + DEADLINE_S
        while state.blocked is None and not state.status.is_terminal and time.monotonic() < end:
            time.sleep(0.005)
        blocked = state.blocked and {"reason": state.blocked["reason"], "since": str(state.blocked["since"])}
        before = state.progress["check"][0]
        time.sleep(0.3)  # nothing goes on meanwhile
        print(
            json.dumps(
                {"blocked": blocked, "status": str(state.status), "went_on": state.progress["check"][0] - before}
            ),
            flush=True,
        )
        sys.stdin.readline()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ended = JobState.wait_for_completion(flow, state, timeout=DEADLINE_S)
        told = {
            "ended": ended,
            "status": str(state.status),
            "error": state.error,
            "blocked": state.blocked,
            "results": list(state.results("check", "out")),
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
