"""The tasks that huey's consumer imports; ``others.py`` starts it and enqueues them."""

from __future__ import annotations

import os
import time
from typing import Any

from huey import SqliteHuey

_FOLDER = os.environ["BENCH_FOLDER"]
_COUNT = f"{_FOLDER}/count"
huey = SqliteHuey(filename=f"{_FOLDER}/huey.db", fsync=True, results=True, utc=True)


@huey.task()  # type: ignore[untyped-decorator]
def step(x: Any) -> dict[str, Any]:
    """Hands on what it gets; a dictionary result would become keyword arguments of the next task."""
    return {"x": x}


@huey.task()  # type: ignore[untyped-decorator]
def last(x: Any) -> None:
    """Adds a byte to a file: its size is how many have come to the end."""
    handle = os.open(_COUNT, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.write(handle, b".")
    os.close(handle)


def enqueue(x: Any, steps: int) -> None:
    """One item through so many tasks in a row."""
    pipeline = step.s(x)
    for _ in range(steps - 2):
        pipeline = pipeline.then(step)
    huey.enqueue(pipeline.then(last))


def wait_for(count: int, seconds: float = 100) -> None:
    """Until so many items have come to the end."""
    deadline = time.monotonic() + seconds
    while _done() < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"huey: {_done()} of {count} items after {seconds:g} s")
        time.sleep(0.002)


def _done() -> int:
    try:
        return os.path.getsize(_COUNT)
    except FileNotFoundError:
        return 0
