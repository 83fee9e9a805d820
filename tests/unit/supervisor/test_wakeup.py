"""Sleeping until a call, a process's end, or the end of the time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from routilux_mp._storage.owner import start_ticks
from routilux_mp._supervisor.wakeup import Wakeup


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    made = Wakeup()
    yield made
    made.close()


def a_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def slept_s(wakeup: Wakeup, timeout_s: float) -> float:
    begin = time.monotonic()
    wakeup.wait(timeout_s)
    return time.monotonic() - begin


def test_a_call_before_or_while_it_waits_wakes_it(wakeup: Wakeup) -> None:
    wakeup.set()
    wakeup.set()
    assert slept_s(wakeup, 20) < 5
    assert slept_s(wakeup, 0.02) >= 0.02  # both calls were one


def test_the_end_of_a_process_wakes_it_once(wakeup: Wakeup) -> None:
    with a_process() as process:
        wakeup.watch_processes({(process.pid, start_ticks(process.pid))})
        assert slept_s(wakeup, 0.02) >= 0.02
        process.kill()
        assert slept_s(wakeup, 20) < 5
        assert slept_s(wakeup, 0.02) >= 0.02


def test_a_process_that_is_gone_or_another_of_its_number_is_not_watched(wakeup: Wakeup) -> None:
    with a_process() as process:
        wakeup.watch_processes({(process.pid, start_ticks(process.pid) + 1)})
        process.kill()
    wakeup.watch_processes({(process.pid, 1)}, is_more=True)
    assert slept_s(wakeup, 0.02) >= 0.02


def test_what_is_not_named_any_more_is_forgotten(wakeup: Wakeup) -> None:
    with a_process() as first, a_process() as second:
        one, two = ((p.pid, start_ticks(p.pid)) for p in (first, second))
        wakeup.watch_processes({one})
        wakeup.watch_processes({two}, is_more=True)
        wakeup.watch_processes({two})
        first.kill()
        first.wait()
        assert slept_s(wakeup, 0.02) >= 0.02
        second.kill()
        assert slept_s(wakeup, 20) < 5


def test_a_call_after_the_end_does_nothing() -> None:
    wakeup = Wakeup()
    wakeup.close()
    wakeup.set()
