"""The clock of records: it never goes back, and never stands still."""

from __future__ import annotations

import time

import pytest

from routilux_mp._supervisor.clock import SystemClock

HOUR_NS = 3600 * 10**9


def test_a_clock_that_is_set_back_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocked commit, a retry and a view wait for a time to come: not for an hour longer."""
    clock = SystemClock()
    before, real = clock.now_ns(), time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - HOUR_NS)
    after = clock.now_ns()
    time.sleep(0.05)
    assert before < after < clock.now_ns() - 50_000_000


def test_a_clock_that_is_set_forward_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, real = SystemClock(), time.time_ns
    before = clock.now_ns()
    monkeypatch.setattr(time, "time_ns", lambda: real() + HOUR_NS)
    assert clock.now_ns() - before >= HOUR_NS
