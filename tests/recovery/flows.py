"""The flows that are killed: each shows another promise, and each ends the same whatever happens on the way.

Every handler says in a private file of its process, outside the checkpoint directory, that it begins
and that it ends: the checker (``witness``) believes only those files and the commit log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from routilux_mp import ErrorHandler, Flow, Routine, batch_size_policy, upstream_done_policy

#: The folder for the private files; inherited by the worker processes.
WITNESS_DIR = "RECOVERY_WITNESS_DIR"

_descriptors: dict[int, int] = {}  # process -> its private file


class Interrupted(Exception):
    """What the flaky handler raises."""


def witness(kind: str, routine: Routine, note: object = "-") -> None:
    """One line, appended at once: S(tart) or E(nd), when, of what, which attempt."""
    pid = os.getpid()
    fd = _descriptors.get(pid)
    if fd is None:
        path = os.path.join(os.environ[WITNESS_DIR], f"{pid}-{time.monotonic_ns()}")
        fd = _descriptors[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    line = f"{kind} {time.monotonic_ns()} {routine.idempotency_key} {routine.attempt} {note}\n"
    os.write(fd, line.encode())


def burn(microseconds: int) -> None:
    """Be busy, holding the interpreter, for about so long."""
    end = time.perf_counter_ns() + 1000 * microseconds
    while time.perf_counter_ns() < end:
        pass


class Step(Routine):
    """A handler that burns a little and says so; subclasses say what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in", handler=self.handle)
        self.define_event("out")

    def handle(self, **data: Any) -> None:
        witness("S", self)
        burn(self.get_config("burn_us", 300))
        self.work(**data)
        witness("E", self)

    def work(self, **data: Any) -> None:
        raise NotImplementedError


class Source(Routine):
    """Emits the numbers up to ``n`` and commits a cursor every ten."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, n: int) -> Iterator[int]:
        begin = self.resume_cursor or 0
        witness("S", self, begin)
        for i in range(begin, n):
            burn(self.get_config("burn_us", 100))
            self.emit("out", i=i, **self.payload(i))
            if i % 10 == 9:
                yield i + 1
        witness("E", self)

    def payload(self, i: int) -> dict[str, Any]:
        return {}


class Square(Step):
    def work(self, i: int) -> None:
        self.emit("out", i=i, square=i * i)


class RunningSum(Step):
    """Keeps state of its own, read and written: nothing may be counted twice, and order shows."""

    def work(self, i: int, square: int) -> None:
        state = self.get_execution_context().job_state
        total = (state.get_routine_state("sum") or {"total": 0})["total"] + square
        state.update_routine_state("sum", {"total": total, "last": i})
        state.append_to_shared_log({"i": i})
        self.emit("out", i=i, total=total)


def chain(items: int) -> Flow:
    """A generator with a cursor, two single workers: all in order."""
    flow = Flow(flow_id="chain")
    flow.add_routine(Source(), "source")
    flow.add_routine(Square(), "square")
    flow.add_routine(RunningSum(), "sum")
    flow.connect("source", "out", "square", "in")
    flow.connect("square", "out", "sum", "in")
    return flow


class Minus(Step):
    def work(self, i: int) -> None:
        self.emit("out", minus=-i)


class Plus(Step):
    def work(self, i: int) -> None:
        self.emit("out", plus=i + 1)


class Join(Routine):
    """Sees everything at once when nothing more can come."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("minus")
        self.define_slot("plus")
        self.define_event("out")
        self.set_logic(self.decide)
        self.set_activation_policy(upstream_done_policy())

    def decide(self, slot_data: dict[str, list[Any]]) -> None:
        witness("S", self)
        minus = sorted(item["minus"] for item in slot_data["minus"])
        plus = sorted(item["plus"] for item in slot_data["plus"])
        self.emit("out", minus=minus, plus=plus)
        witness("E", self)


def fan(items: int) -> Flow:
    """Fan-out to two routines, one of them with two workers, and a join that must have seen all."""
    flow = Flow(flow_id="fan")
    flow.add_routine(Source(), "source")
    flow.add_routine(Minus(), "minus", workers=2)
    flow.add_routine(Plus(), "plus")
    flow.add_routine(Join(), "join")
    for side in ("minus", "plus"):
        flow.connect("source", "out", side, "in")
        flow.connect(side, "out", "join", side)
    return flow


class Flaky(Step):
    """Every third input fails once, every ninth twice; what a failed attempt emitted and wrote must not count."""

    def work(self, i: int) -> None:
        state = self.get_execution_context().job_state
        state.increment("tries")
        self.emit("out", i=i)
        if self.attempt <= (i % 3 == 0) + (i % 9 == 0):
            raise Interrupted(f"attempt {self.attempt} of {i}")


def retry(items: int) -> Flow:
    """Failures with durable waits between the attempts."""
    flow = Flow(flow_id="retry")
    flaky = Flaky()
    flaky.set_error_handler(ErrorHandler("retry", max_retries=3, retry_delay=0.01, retry_backoff=2.0))
    flow.add_routine(Source(), "source")
    flow.add_routine(flaky, "flaky")
    flow.connect("source", "out", "flaky", "in")
    return flow


class Uneven(Step):
    """Takes longer for some inputs, so that two workers finish out of order."""

    def work(self, i: int) -> None:
        burn(1500 if i % 7 == 0 else 100)
        self.emit("out", i=i)


class Collector(Step):
    def work(self, i: int) -> None:
        self.get_execution_context().job_state.append("order", i)


def ordered(items: int) -> Flow:
    """Two workers, released in the order of the inputs."""
    flow = Flow(flow_id="ordered")
    flow.add_routine(Source(), "source")
    flow.add_routine(Uneven(), "uneven", workers=2, ordered=True)
    flow.add_routine(Collector(), "collector")
    flow.connect("source", "out", "uneven", "in")
    flow.connect("uneven", "out", "collector", "in")
    return flow


class Counter(Step):
    """Reads a shared number and writes it back: an update that is lost or doubled shows in the sum."""

    def work(self, i: int) -> None:
        state = self.get_execution_context().job_state
        before = state.get_shared_data("sum", 0)
        burn(200)
        state.update_shared_data("sum", before + i)
        state.increment("count")


def counter(items: int) -> Flow:
    """Read-modify-write of shared data by two workers."""
    flow = Flow(flow_id="counter")
    flow.add_routine(Source(), "source")
    flow.add_routine(Counter(), "counter", workers=2)
    flow.connect("source", "out", "counter", "in")
    return flow


class Batcher(Routine):
    """Takes seven at a time, and the rest at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in")
        self.define_event("out")
        self.set_logic(self.decide)
        self.set_activation_policy(batch_size_policy(7))

    def decide(self, slot_data: dict[str, list[Any]]) -> None:
        witness("S", self)
        burn(500)
        self.emit("out", numbers=[item["i"] for item in slot_data["in"]])
        witness("E", self)


def batches(items: int) -> Flow:
    """An activation policy that counts: what it took is on record and never asked again."""
    flow = Flow(flow_id="batches")
    flow.add_routine(Source(), "source")
    flow.add_routine(Batcher(), "batcher")
    flow.connect("source", "out", "batcher", "in")
    return flow


class LargeSource(Source):
    """300 KiB with every number: more than goes into the log."""

    def payload(self, i: int) -> dict[str, Any]:
        return {"data": bytes([i % 256]) * (300 * 1024)}


class Weigh(Step):
    def work(self, i: int, data: bytes) -> None:
        assert set(data) == {i % 256}, f"payload of {i} is not what was sent"
        self.emit("out", i=i, size=len(data))


def blobs(items: int) -> Flow:
    """Payloads that are kept beside the log."""
    flow = Flow(flow_id="blobs")
    flow.add_routine(LargeSource(), "source")
    flow.add_routine(Weigh(), "weigh")
    flow.connect("source", "out", "weigh", "in")
    return flow


class Case(NamedTuple):
    """One flow of the suite."""

    make: Callable[[int], Flow]
    items: int
    #: Events whose results must also come in the same order: (routine, event).
    in_order: tuple[tuple[str, str], ...] = ()
    #: An activation may also run again because another one changed what it had read.
    has_conflicts: bool = False


CASES = {
    "chain": Case(chain, 400, (("sum", "out"),)),
    "fan": Case(fan, 400),
    "retry": Case(retry, 150),
    "ordered": Case(ordered, 400),
    "counter": Case(counter, 200, has_conflicts=True),
    "batches": Case(batches, 600, (("batcher", "out"),)),
    "blobs": Case(blobs, 60, (("weigh", "out"),)),
}
