"""``step`` joins the two halves of the core: decide what follows, apply it, and say what must be done."""

from __future__ import annotations

from .apply import apply
from .decide import decide
from .effects import KINDS, Effect
from .job import Job
from .records import DURABLE, Record
from .stimuli import Completion, Stimulus


def step(job: Job, stimulus: Stimulus, now_ns: int, commit: int = 0) -> tuple[list[Record], list[Effect]]:
    """Let ``stimulus`` happen to ``job``.

    Args:
        now_ns: UTC nanoseconds; the core has no clock of its own.
        commit: number of the commit that will carry the records.

    Returns:
        The durable records, in order, and the effects that are owed once they stand.
    """
    records: list[Record] = []
    effects: list[Effect] = []
    source = job.dispatches.get(stimulus.dispatch) if type(stimulus) is Completion else None
    for item in decide(job, stimulus, now_ns):
        kind = type(item)
        if kind in DURABLE:
            apply(job, item, commit, source)  # type: ignore[arg-type]
            records.append(item)  # type: ignore[arg-type]
        elif kind in KINDS:
            effects.append(item)  # type: ignore[arg-type]
        else:
            apply(job, item, commit, source)  # type: ignore[arg-type]
    return records, effects


def replay(job: Job, records: list[Record]) -> None:
    """Fold durable records, as recovery and every reader do."""
    for record in records:
        apply(job, record)
