"""What a failed attempt leads to."""

from __future__ import annotations

import pytest

from routilux_mp._core.retry import action_for
from routilux_mp._core.stimuli import Failure
from routilux_mp._core.topology import ErrorSpec
from tests.unit.core.core_bench import CRASH, ERROR, FATAL, SECOND, TIMEOUT, retry, routine

STOP, GO_ON, SKIP = ErrorSpec("stop"), ErrorSpec("continue"), ErrorSpec("skip")


@pytest.mark.parametrize(
    ("error", "is_entry", "failure", "attempt", "action"),
    [
        (STOP, False, ERROR, 1, "stop"),
        (GO_ON, True, ERROR, 1, "continue"),
        (SKIP, False, TIMEOUT, 1, "skip"),
        (None, True, ERROR, 1, "stop"),
        (None, False, ERROR, 1, "tolerate"),
        (retry(2), False, ERROR, 1, "retry"),
        (retry(2), False, ERROR, 2, "retry"),
        (retry(2), False, ERROR, 3, "stop"),
        (retry(2), False, FATAL, 1, "stop"),
        (retry(2), True, TIMEOUT, 1, "retry"),
        (ErrorSpec("continue", is_critical=True), False, ERROR, 1, "stop"),
        (ErrorSpec("skip", is_critical=True), False, ERROR, 1, "stop"),
    ],
)
def test_the_strategy_decides(
    error: ErrorSpec | None, is_entry: bool, failure: Failure, attempt: int, action: str
) -> None:
    assert action_for(routine("r", error=error), is_entry, failure, attempt, 0, 3, SECOND)[0] == action


@pytest.mark.parametrize(("attempt", "delay_s"), [(1, 0.5), (2, 1.0), (3, 2.0)])
def test_waits_grow(attempt: int, delay_s: float) -> None:
    spec = routine("r", error=retry(9, 0.5))
    assert action_for(spec, False, ERROR, attempt, 0, 3, SECOND) == ("retry", SECOND + int(delay_s * SECOND))


@pytest.mark.parametrize(
    ("error", "crashes", "action"),
    [
        (GO_ON, 0, "again"),
        (GO_ON, 1, "again"),
        (GO_ON, 2, "dead"),
        (None, 2, "dead"),
        (SKIP, 2, "dead"),
        (STOP, 1, "again"),
        (STOP, 2, "dead_stop"),
        (ErrorSpec("skip", is_critical=True), 2, "dead_stop"),
        (retry(), 2, "dead_stop"),
    ],
)
def test_the_third_crash_makes_a_dead_letter(error: ErrorSpec | None, crashes: int, action: str) -> None:
    assert action_for(routine("r", error=error), False, CRASH, 1, crashes, 3, SECOND) == (action, 0)
