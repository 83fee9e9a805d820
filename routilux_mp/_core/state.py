"""Changes of shared state, of routines and of the job, and what they mean for the copies that workers have."""

from __future__ import annotations

import math

from .batch import Batch
from .job import CHANGED_MAX, Deferred, Dispatch, Job, ListValue
from .stimuli import STATE_OPS, StateOp


def change_state(job: Job, ops: tuple[StateOp, ...], commit: int, source: Dispatch | None) -> None:
    shipped = job.shipped.get(source.worker) if source is not None and job.shipped else None
    for op, scope, key, value in ops:
        if op not in STATE_OPS:
            _note(job, op, scope, key, value)
            continue
        values = job.state.setdefault(scope, {})
        if op == "set":
            values[key] = value  # type: ignore[assignment]
        elif op == "delete":
            values.pop(key, None)
        elif op == "increment":
            old = values.get(key, 0)
            values[key] = _sum(old if isinstance(old, (int, float)) else 0, value)  # type: ignore[arg-type]
        elif op == "append":
            old_list = values.get(key)
            if not isinstance(old_list, ListValue):
                old_list = values[key] = ListValue(old_list)
            old_list.items.append(value)  # type: ignore[arg-type]
        worker = -1 if source is None else source.worker
        if shipped and source is not None and shipped.get((scope, key), 0) > source.dispatch:
            worker = -1  # its copy was replaced, after it did this, by a value that lacks it
        _, writer, foreign = changed = job.changed.get((scope, key), (0, -1, 0))
        if op in ("set", "delete"):
            foreign = 0  # whatever was there before, this is what is there now
        elif writer != worker:
            foreign = changed[0]
        job.version += 1
        job.changed[(scope, key)] = (job.version, worker, foreign)
        job.recent.append((job.version, worker, (scope, key)))
        job.state_commit = commit
    if len(job.changed) > job.changed_max:
        _forget_old_changes(job)


def _forget_old_changes(job: Job) -> None:
    """Changes that every copy of the state has are of no use; else each key ever written would be remembered.

    A worker that has nothing in hand and is far behind is given all of the state when it is next given work.
    """
    at_work = {d.worker for d in job.dispatches.values()}
    far = job.recent[0][0] if job.recent else 0
    job.seen = {worker: seen for worker, seen in job.seen.items() if worker in at_work or seen >= far}
    known = [*job.seen.values(), *(d.version for d in job.dispatches.values() if d.version >= 0)]
    oldest = min(known, default=job.version)
    job.changed = {key: change for key, change in job.changed.items() if change[0] > oldest}
    job.changed_max = max(CHANGED_MAX, 2 * len(job.changed))


def _sum(a: int | float, b: int | float) -> int | float:
    """Of numbers that met only here: an integer may be too large to be added to a float."""
    try:
        return a + b
    except OverflowError:
        return math.inf if max(a, b, key=abs) > 0 else -math.inf


def _note(job: Job, op: str, scope: str, key: str, value: object) -> None:
    if op == "log":
        job.log_count += 1
    elif op == "send":
        job.sent_count += 1
    elif op == "record":
        job.record_count += 1
    elif op == "defer":
        routine = job.topology.index_of(scope)
        assert routine is not None
        assert isinstance(value, bytes)
        event = job.topology.routines[routine].events.index(key)
        job.deferred.append(Deferred(routine, event, Batch(1, value)))
