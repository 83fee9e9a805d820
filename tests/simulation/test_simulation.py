"""Whole jobs, one seed each: results exactly once, nothing committed run again, no deadlock, whatever strikes."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.world import simulate

SEEDS = 2_000
CHUNK = 50
QUICK = 300


def _chunks() -> list[object]:
    return [
        pytest.param(first, id=f"seeds {first}-{first + CHUNK - 1}", marks=[pytest.mark.slow] if first >= QUICK else [])
        for first in range(0, SEEDS, CHUNK)
    ]


@pytest.mark.parametrize("first", _chunks())
def test_every_job_ends_as_it_would_undisturbed(first: int) -> None:
    for seed in range(first, first + CHUNK):
        simulate(seed)


def test_a_seed_says_the_same_every_time() -> None:
    for seed in (3, 17, 253):
        assert simulate(seed) == simulate(seed)


def test_everything_that_can_happen_does() -> None:
    """A simulation in which nothing strikes proves nothing."""
    seen: Counter[str] = Counter()
    for seed in range(300):
        summary = simulate(seed)
        seen.update(summary.seen)
        seen.update(summary.statuses)
    for what in (
        "Submitted", "Completed", "Failed", "Taken", "Posted", "Annotated", "PauseAsked", "Paused", "Resumed",
        "StopAsked", "Closed", "Ended", "completed", "failed", "cancelled", "retry", "again", "continue", "skip",
        "tolerate", "stop", "dead", "dead_stop", "conflict", "cursor", "held", "bound lifted", "worker killed",
        "worker lost", "supervisor died", "handed over", "disk full", "outcome unknown", "readopted", "rolls",
        "spilled", "repeated", "Answered", "Revived", "Skipped", "asked again", "blob released", "blob swept",
        "policy asked", "the next one runs after a failure", "deferred", "unreadable", "unreadable for good",
        "gathered",
    ):  # fmt: skip
        assert seen[what], f"{what} never happened"
