"""What one activation costs in a worker: decode, page, call, emit, encode, report; no process, no log.

``python bench/worker.py`` prints nanoseconds per activation, the best of many batches of 256.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Part, Work
from routilux_mp._core.topology import RoutineSpec, Topology
from routilux_mp._serialization.batch import encode_batch
from routilux_mp._worker.wire import Frames, JobInfo, Task, decode, encode
from routilux_mp.backends.base import Code, Report
from routilux_mp.backends.inline import InlineBackend
from routilux_mp.routine import Routine

COUNT = 256
ROUNDS = 300


def made(handler: Callable[..., Any]) -> Routine:
    routine = Routine()
    routine.add_slot("in", lambda **data: handler(routine, **data))
    routine.add_event("out")
    routine._incoming = {}  # type: ignore[attr-defined]
    return routine


def generate(routine: Routine, i: int) -> Any:
    routine.emit("out", i=i)
    yield i


HANDLERS: dict[str, Callable[..., Any]] = {
    "no-op": lambda routine, i: None,
    "emits one number": lambda routine, i: routine.emit("out", i=i),
    "emits a nested value": lambda routine, i: routine.emit("out", i=[i], d={"a": 1}),
    "emits three": lambda routine, i: [routine.emit("out", i=i), routine.emit("out", i=i), routine.emit("out", i=i)],
    "generator, one cursor": generate,
}


def measure(handler: Callable[..., Any]) -> float:
    """Nanoseconds per activation."""
    backend = InlineBackend()
    backend.load(Code("code", None, {"r": made(handler)}))
    backend.start(1, "code")
    topology = Topology("flow", "concurrent", (RoutineSpec("r", "Routine", ("in",), ("out",)),), ())
    backend.send(1, JobInfo("job", "code", "flow", topology.to_plain()))
    backend.poll(0)
    batch = Batch(COUNT, encode_batch([{"i": i} for i in range(COUNT)], None, b"").data)
    best = float("inf")
    for dispatch in range(1, ROUNDS + 1):
        # As a worker process gets it: from the wire.
        [content] = Frames().feed(encode(Task("job", Work(dispatch, 1, 0, (0,), (Part(0, -1, batch, 0, COUNT),)))))
        task = decode(content)
        assert isinstance(task, Task)
        backend.send(1, task.work, task.job_id)
        before = time.perf_counter_ns()
        reports = [event for event in backend.poll(0) if isinstance(event, Report)]
        best = min(best, (time.perf_counter_ns() - before) / COUNT)
        assert reports
        assert all(report.completion.failure is None for report in reports)
    backend.close()
    return best


if __name__ == "__main__":
    for name, handler in HANDLERS.items():
        print(f"{name:24s} {measure(handler):6.0f} ns")
