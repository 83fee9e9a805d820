"""Records on their way to the caller's handlers: in order, never in the loop's way, none kept back at the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from routilux_mp._supervisor import relay as module
from routilux_mp._supervisor.relay import Relay
from routilux_mp._worker.logs import as_text


class Listening(logging.Handler):
    """Keeps messages; may be made to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.began.set()
        self.gate.wait(10)
        self.heard.append(record.getMessage())
        self.threads.add(threading.current_thread())


@pytest.fixture
def listening() -> Iterator[Listening]:
    handler = Listening()
    logging.root.addHandler(handler)
    yield handler
    logging.root.removeHandler(handler)


def record(text: str, level: int = logging.WARNING, name: str = "of.a.worker") -> str:
    return as_text(logging.getLogger(name).makeRecord(name, level, "m.py", 1, text, (), None))


def test_in_order_and_in_a_thread_of_its_own(listening: Listening) -> None:
    relay = Relay()
    for n in range(100):
        relay(record(str(n)))
    relay.close()
    assert listening.heard == [str(n) for n in range(100)]
    assert threading.current_thread() not in listening.threads
    assert not any(thread.is_alive() for thread in listening.threads)


def test_a_handler_that_waits_holds_nobody_up_and_what_is_too_much_is_said(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 3 * len(record("0")) + 100)
    relay = Relay()
    listening.gate.clear()
    relay(record("0"))
    assert listening.began.wait(10)
    for n in range(1, 6):
        relay(record(str(n)))
    assert listening.heard == []
    listening.gate.set()
    relay.close()
    assert listening.heard == ["0", "1", "2", "3", "2 log records were left out: the handlers were too slow for them"]


def test_the_thread_ends_when_nothing_comes_and_another_one_begins(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_S", 0.001)
    relay = Relay()
    relay(record("a"))
    _until(lambda: listening.heard == ["a"] and not any(thread.is_alive() for thread in listening.threads))
    relay(record("b"))
    relay.close()
    assert listening.heard == ["a", "b"]


def test_what_the_caller_does_not_want_to_see_is_left_out(listening: Listening) -> None:
    relay = Relay()
    relay(record("no", logging.DEBUG))
    relay(record("yes"))
    relay.close()
    assert listening.heard == ["yes"]


def test_a_filter_that_raises_ends_nothing(listening: Listening) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError("a filter of the user's")

    logger = logging.getLogger("filtered")
    logger.addFilter(refuse)
    try:
        relay = Relay()
        relay(record("no", name="filtered"))
        relay(record("yes"))
        relay.close()
    finally:
        logger.removeFilter(refuse)
    assert listening.heard == ["yes"]


def _until(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(10_000):
        if condition():
            return
        waited.wait(0.001)
    raise AssertionError("it did not come")
