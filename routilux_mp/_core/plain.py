"""A folded job as plain data and back: what is needed to go on, and nothing of the finished past.

Queues are references into the log where the log has them, else the bytes themselves. What is under way is
back in its queue: plain data knows nothing of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .batch import Batch
from .job import DeadLetter, Deferred, Group, Item, Job, ListValue, RoutineState, Run, Special
from .stimuli import Emit, Failure
from .topology import Topology


def to_plain(job: Job) -> dict[str, Any]:
    """The job as MessagePack-able data."""
    routines = [_routine_out(r) for r in job.routines]
    return {
        "v": 1,
        "topology": job.topology.to_plain(),
        "status": job.status,
        "times": (job.created_ns, job.updated_ns, job.ends_after_ns, job.fails_at_ns, job.limit_ns),
        "entry": (job.entry, job.entry_slot, None if job.entry_batch is None else _batch_out(job.entry_batch)),
        "metadata": job.metadata,
        "code": None if job.code is None else _batch_out(job.code),
        "is_open": job.is_open,
        "reason": job.reason,
        "framework": job.framework,
        "state": {scope: {k: _value_out(v) for k, v in values.items()} for scope, values in job.state.items()},
        "counts": (job.log_count, job.record_count, job.activations, job.sent_count),
        "deferred": [(d.routine, d.event, _batch_out(d.batch)) for d in job.deferred],
        "results": [(r, e, n) for (r, e), n in job.results.items()],
        "pauses": (job.pause_points, job.checkpoint),
        "dead": [(*d[:2], _item_out(d.item), tuple(d.failure), *d[4:]) for d in job.dead_letters],
        "asked": (job.is_offered, job.answered_low, job.answered),
        "closing": job.closing,
        "routines": routines,
    }


def fill(job: Job, s: dict[str, Any]) -> None:
    """Make a fresh ``job`` the one that :func:`to_plain` described.

    Raises:
        ValueError, TypeError, IndexError, KeyError: it is no such description.
    """
    job.topology = Topology.from_plain(s["topology"])
    job.status, job.metadata, job.is_open = s["status"], s["metadata"], s["is_open"]
    code = s.get("code")  # older snapshots have none
    job.code = None if code is None else _batch_in(code)
    job.created_ns, job.updated_ns, job.ends_after_ns, job.fails_at_ns, job.limit_ns = s["times"]
    job.entry, job.entry_slot, entry = s["entry"]
    job.entry_batch = None if entry is None else _batch_in(entry)
    job.reason, job.framework = s["reason"], {rid: dict(found) for rid, found in s["framework"].items()}
    job.state = {scope: {k: _value_in(v) for k, v in vs.items()} for scope, vs in s["state"].items()}
    job.log_count, job.record_count, job.activations, job.sent_count = s["counts"]
    job.deferred = [Deferred(r, e, _batch_in(batch)) for r, e, batch in s["deferred"]]
    job.results = {(r, e): n for r, e, n in s["results"]}
    points, job.checkpoint = s["pauses"]
    job.pause_points = list(points)
    job.dead_letters = [DeadLetter(r, q, _item_in(i), Failure(*f), t, c) for r, q, i, f, t, c in s["dead"]]
    job.is_offered, job.answered_low, answered = s["asked"]
    job.answered = dict(answered)
    job.closing = s["closing"]
    job.routines = [_routine_in(r) for r in s["routines"]]


def with_entry(s: dict[str, Any], change: Callable[[Batch], None]) -> None:
    """Change the payload that the job was begun with, if there is one, in the description of :func:`to_plain`."""
    number, slot, entry = s["entry"]
    if entry is not None:
        batch = _batch_in(entry)
        change(batch)
        s["entry"] = (number, slot, _batch_out(batch))


_SCALARS = (
    "ready_count", "queued", "next_seq", "next_release", "has_fired", "has_run", "last_taken_ns", "failures",
    "last_failed", "done", "arrived", "ask_attempt", "ask_crashes", "ask_due_ns", "ask_since_ns",
    "given_up",
)  # fmt: skip


def _routine_out(r: RoutineState) -> dict[str, Any]:
    """With what is under way back in the queue: a snapshot knows nothing of workers."""
    items = sorted([*r.ready, *(i for d in r.dispatches.values() for i in d.items)], key=lambda item: item.seq)
    out: dict[str, Any] = {name: getattr(r, name) for name in _SCALARS}
    out["ready_count"] = sum(item.count for item in items)
    out["ready"] = [_item_out(item) for item in items]
    out["special"] = [
        (q, _item_out(s.item), s.attempt, s.crashes, s.due_ns, s.since_ns, s.cursor) for q, s in r.special.items()
    ]
    out["slots"] = [[_item_out(run) for run in queue] for queue in r.slots]
    out["held"] = [
        (first, count, [(e.event, *_batch_out(e.batch)) for e in emits])
        for first, (count, emits) in r.held_emits.items()
    ]
    return out


def _routine_in(data: dict[str, Any]) -> RoutineState:
    r = RoutineState(len(data["slots"]))
    for name in _SCALARS:
        setattr(r, name, data[name])
    r.queued = list(data["queued"])
    r.ready = deque(_item_in(item) for item in data["ready"])
    for q, item, attempt, crashes, due_ns, since_ns, cursor in data["special"]:
        r.special[q] = Special(_item_in(item), attempt, crashes, due_ns, cursor, since_ns=since_ns)
    for slot, runs in enumerate(data["slots"]):
        r.slots[slot].extend(_run_in(run) for run in runs)
    for first, count, emits in data["held"]:
        r.held_emits[first] = (count, tuple(Emit(e, _batch_in(rest)) for e, *rest in emits))
    return r


def _batch_out(batch: Batch) -> tuple[Any, ...]:
    # Without a place in the log yet the bytes themselves go along.
    return (batch.count, batch.ref, batch.size, batch.data if batch.ref is None else None)


def _batch_in(data: Any) -> Batch:
    count, ref, size, inline = data
    return Batch(count, inline, ref, size)


def _item_out(item: Item) -> tuple[Any, ...]:
    if isinstance(item, Group):
        return (item.seq, tuple(_item_out(run) for run in item.runs), item.message)
    return (item.seq, item.slot, item.connection, item.start, item.count, _batch_out(item.batch))


def _item_in(data: Any) -> Item:
    if len(data) == 3:
        return Group(data[0], tuple(_run_in(run) for run in data[1]), data[2])
    return _run_in(data)


def _run_in(data: Any) -> Run:
    seq, slot, connection, start, count, batch = data
    return Run(seq, slot, connection, _batch_in(batch), start, count)


def _value_out(value: Any) -> Any:
    return (value.base, value.items) if isinstance(value, ListValue) else value


def _value_in(value: Any) -> Any:
    return ListValue(value[0], list(value[1])) if isinstance(value, tuple) else value
