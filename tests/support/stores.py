"""Stores on file systems made for tests: no waiting, no chance, and a way to see all that was committed."""

from __future__ import annotations

import itertools
import random
from typing import Any

from routilux_mp._storage.replay import JobLog
from routilux_mp._storage.store import Store
from routilux_mp.settings import Settings

ROOT = "/root"
JOB = "job-1"
BASE = f"root/{JOB}"


def make_store(fs: Any, seed: int = 0, **settings: Any) -> Store:
    """A store whose owner token and nonces come from `seed` and that never sleeps."""
    ticks = itertools.count()
    return Store(
        ROOT,
        Settings(**settings),
        fs=fs,
        clock=lambda: next(ticks) * 0.001,
        random=random.Random(f"store-{seed}").randbytes,
        sleep=lambda seconds: None,
    )


def committed(log: JobLog) -> list[bytes]:
    """Everything that was ever committed, in order."""
    return [data for _, data in log.history()]


def truth(fs: Any, job_id: str = JOB) -> list[bytes]:
    """What a process that never saw the job before reads."""
    with make_store(fs, seed=999) as store:
        return committed(store.read(job_id))
