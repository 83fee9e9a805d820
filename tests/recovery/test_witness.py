"""The checker of the kill tests can say no: each lie that it must notice, told to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.recovery.torture import differences
from tests.recovery.witness import NOTHING, Picture, Statement, Stroke, judge

Lines = list[Statement]


def ran(seq: int, begin: int, end: int | None = None, *, attempt: int = 1, note: str = "-") -> Lines:
    key = f"job/r/{seq}"
    lines = [Statement("S", begin, key, attempt, note)]
    return lines if end is None else [*lines, Statement("E", end, key, attempt, "-")]


def picture(time_ns: int, *done: int, **cursors: int) -> Picture:
    return Picture(
        time_ns, frozenset(f"job/r/{seq}" for seq in done), {f"job/r/{k[1:]}": v for k, v in cursors.items()}, 1
    )


def kill(time_ns: int, before: Picture = NOTHING) -> Stroke:
    return Stroke("worker", "any", time_ns, before)


#: Two activations; the second one was interrupted at 40 and ran again.
HONEST = [*ran(0, 10, 20), *ran(1, 30), *ran(1, 50, 60)]
STROKES = [kill(40, picture(35, 0))]
END = picture(100, 0, 1)


def test_the_truth_is_believed() -> None:
    verdict = judge(HONEST, STROKES, END)
    assert (verdict.activations, verdict.reruns, verdict.in_flight) == (2, 1, 1)


@pytest.mark.parametrize(
    ("lines", "strokes", "end", "says"),
    [
        ([*HONEST, *ran(0, 70, 80)], STROKES, END, "r/0 was committed before a worker was killed, and ran again"),
        ([*HONEST, *ran(1, 70, 80)], STROKES, END, "r/1, attempt 1, began 3 times; it was in flight at 1 kills"),
        (HONEST, [], END, "r/1, attempt 1, began 2 times; it was in flight at 0 kills"),
        (HONEST, STROKES, picture(100, 0), "differing in .'job/r/1'"),
        (HONEST, STROKES, picture(100, 0, 1, 2), "differing in .'job/r/2'"),
        (HONEST[:-1], STROKES, END, "never came to their end: .'job/r/1'"),
        (
            [*ran(0, 10, note="0"), *ran(0, 50, 60, note="0")],
            [kill(40, picture(35, _0=10))],
            picture(100, 0),
            "began at 0 although 10 was committed",
        ),
    ],
    ids=["committed", "too often", "for no reason", "lost", "invented", "not ended", "cursor"],
)
def test_a_lie_is_noticed(lines: Lines, strokes: list[Stroke], end: Picture, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        judge(lines, strokes, end)


def test_a_retry_is_another_attempt() -> None:
    judge([*ran(0, 10), *ran(0, 20, 30, attempt=2)], [], picture(100, 0))


def test_a_routine_that_conflicts_may_repeat() -> None:
    judge([*ran(0, 10), *ran(0, 20, 30)], [], picture(100, 0), conflicting="r")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda o: o["results"].append(3), "3 for 2 items"),
        (lambda o: o["results"].reverse(), "at 0"),
        (lambda o: o.update(status="failed"), "status: failed for completed"),
        (lambda o: o.pop("status"), "completed"),
    ],
)
def test_differing_outcomes_are_told_apart(change: Callable[[dict[str, object]], object], says: str) -> None:
    wanted: dict[str, object] = {"status": "completed", "results": [1, 2]}
    found: dict[str, object] = {"status": "completed", "results": [1, 2]}
    assert differences(wanted, found) == []
    change(found)
    assert says in str(differences(wanted, found))
