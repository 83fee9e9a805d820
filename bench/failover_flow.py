"""What the failover figures are measured on: items of 10 ms, each marked outside the job when it begins."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from routilux_mp import Flow, Routine


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, n: int, pause_s: float = 0.01, log: str = "", burn: bool = False) -> Iterator[int]:
        for i in range(self.resume_cursor or 0, n):
            self.emit("out", i=i, pause_s=pause_s, log=log, burn=burn)
            yield i + 1


class Work(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("inp", handler=self.go)
        self.define_event("done")

    def go(self, i: int, pause_s: float, log: str, burn: bool) -> None:
        if log:
            fd = os.open(os.path.join(log, str(os.getpid())), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(fd, f"{i}\n".encode())
            os.close(fd)
        if burn:
            # A child of its own that holds the worker's descriptors, and then C code that never looks up.
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
            sum(range(10**12))
        time.sleep(pause_s)
        self.emit("done", i=i)


def make(name: str = "bench_failover", workers: int = 2) -> Flow:
    flow = Flow(name)
    flow.add_routine(Source(), "source")
    flow.add_routine(Work(), "work", workers=workers)
    flow.connect("source", "out", "work", "inp")
    return flow


flow: Any = make()
