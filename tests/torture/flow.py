"""The workload: little work, but everything that the store is used for.

A generator with a cursor, a step that fails now and then (in two processes), a tally with state. Payloads of some
items are kept beside the log. What the source makes is not the same when it is made again (``token``): should a
commit be lost on which anything has followed, the two tokens of one activation show it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from routilux_mp import ErrorHandler, Flow, Routine

from . import notes

FLOW_ID = "torture"
#: Larger ones are kept in files of their own.
PAYLOAD_INLINE_BYTES_MAX = 600
#: What a caller posts is told from what the source makes by its number.
POSTED_FROM = 1000


class Interrupted(Exception):
    """What the step raises."""


def said(kind: str, routine: Routine, i: int, token: str) -> None:
    notes.note(kind, routine.idempotency_key, routine.attempt, i, token)


class Source(Routine):
    """Emits the numbers up to ``n``; commits a cursor after every second one."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, n: int) -> Iterator[int]:
        begin = self.resume_cursor or 0
        said("S", self, begin, "-")
        for i in range(begin, n):
            self.emit("out", i=i, token=os.urandom(4).hex(), data=bytes([i]) * (900 if i % 4 == 1 else 40))
            if i % 2:
                yield i + 1
        said("E", self, n, "-")


class Step(Routine):
    """Every fifth input fails once; what the failed attempt emitted must not count."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in", handler=self.work)
        self.define_event("out")

    def work(self, i: int, token: str, data: bytes = b"") -> None:
        said("S", self, i, token)
        if data and set(data) != {i}:
            raise AssertionError(f"the payload of {i} is not what was sent")
        self.emit("out", i=i, token=token)
        self.get_execution_context().job_state.increment("tries")
        if i % 5 == 0 and self.attempt == 1:
            raise Interrupted(f"attempt 1 of {i}")
        said("E", self, i, token)


class Tally(Routine):
    """Keeps a sum of its own, read and written: an input that is lost or counted twice shows."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in", handler=self.work)
        self.define_event("done")

    def work(self, i: int, token: str) -> None:
        said("S", self, i, token)
        state = self.get_execution_context().job_state
        total = (state.get_routine_state("tally") or {"total": 0})["total"] + i
        state.update_routine_state("tally", {"total": total})
        state.increment("count")
        self.emit("done", i=i, token=token)
        said("E", self, i, token)


def make() -> Flow:
    flow = Flow(flow_id=FLOW_ID)
    flow.add_routine(Source(), "source")
    step = Step()
    step.set_error_handler(ErrorHandler("retry", max_retries=3, retry_delay=0.005, retry_backoff=1.0))
    flow.add_routine(step, "step", workers=2)
    flow.add_routine(Tally(), "tally")
    flow.connect("source", "out", "step", "in")
    flow.connect("step", "out", "tally", "in")
    return flow
