"""What one activation costs in a worker: wire, decode, page, call, emit, encode, report; no process, no log.

``python bench/worker.py`` prints nanoseconds per activation, the best of many batches of 1,024.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from routilux_mp import Routine, context
from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Part, Work
from routilux_mp._core.topology import RoutineSpec, Topology
from routilux_mp._serialization.batch import encode_batch
from routilux_mp._worker.liveness import Page
from routilux_mp._worker.main import Worker
from routilux_mp._worker.wire import Frames, JobInfo, Reported, Task, decode, encode

COUNT = 1024
ROUNDS = 150


class One(Routine):
    """A routine with one slot and one event."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("in", handler=self.go)
        self.add_event("out")
        self._incoming: dict[int, dict[str, str] | None] = {}

    def go(self, x: Any) -> Any:
        """Nothing."""


class Emits(One):
    def go(self, x: Any) -> None:
        self.emit("out", x=x)


class EmitsThree(One):
    def go(self, x: Any) -> None:
        self.emit("out", x=x)
        self.emit("out", x=x)
        self.emit("out", x=x)


class Yields(One):
    def go(self, x: Any) -> Iterator[int]:
        self.emit("out", x=x)
        yield 1


class Counts(One):
    def go(self, x: Any) -> None:
        context.current().job_state.increment("n")  # type: ignore[union-attr]


class Loop:
    """The worker's end of a socket, without a socket: what is put in is read, what is sent is encoded."""

    def __init__(self) -> None:
        self.inbox: list[bytes] = []
        self.done = 0

    def read(self, *, wait: bool) -> Sequence[Any] | None:
        if not self.inbox:
            return None
        [content] = Frames().feed(self.inbox.pop(0))
        return [decode(content)]

    def send(self, message: Any) -> None:
        encode(message)
        assert isinstance(message, Reported)
        assert message.completion.failure is None, message.completion.failure
        self.done += message.completion.done


class Only:
    """Where the worker's routine comes from."""

    def __init__(self, routine: Routine) -> None:
        self._routine = routine

    def routine(self, routine_id: str) -> Routine:
        return self._routine


def measure(routine: Routine, value: Any) -> float:
    """Nanoseconds per activation of ``routine`` on ``{"x": value}``."""
    channel = Loop()
    worker = Worker(channel, Page(), Only(routine), may_wait=True)
    context.set_for_process(worker.transaction)
    topology = Topology("flow", "concurrent", (RoutineSpec("r", "Routine", ("in",), ("out",)),), ())
    channel.inbox.append(encode(JobInfo("job", "code", "flow", topology.to_plain())))
    worker.take_messages(wait=True)
    batch = Batch(COUNT, encode_batch([{"x": value}] * COUNT, None, b"").data)
    best = float("inf")
    for dispatch in range(1, ROUNDS + 1):
        channel.inbox.append(encode(Task("job", Work(dispatch, 1, 0, (0,), (Part(0, -1, batch, 0, COUNT),)))))
        before = time.perf_counter_ns()
        worker.take_messages(wait=True)
        for _ in worker.run_next():
            pass
        best = min(best, (time.perf_counter_ns() - before) / COUNT)
    assert channel.done == ROUNDS * COUNT
    return best


def main() -> None:
    """Measure and print."""
    nested = {"i": 1}
    for name, routine, value in (
        ("no-op on a number", One, 1),
        ("no-op on a nested value", One, nested),
        ("emits a number", Emits, 1),
        ("emits a nested value", Emits, nested),
        ("emits a tuple", Emits, (1, 2)),
        ("emits three numbers", EmitsThree, 1),
        ("generator, one cursor", Yields, 1),
        ("increments a counter", Counts, 1),
    ):
        print(f"{name:26s} {measure(routine(), value):6.0f} ns", flush=True)


if __name__ == "__main__":
    main()
