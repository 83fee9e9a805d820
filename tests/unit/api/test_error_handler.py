"""ErrorHandler: strategies, counting, what is retried, and its document."""

from __future__ import annotations

import json
import pickle
import time
from typing import Any

import pytest

from routilux_mp import ErrorHandler, ErrorStrategy, JobState
from routilux_mp._core.topology import ErrorSpec


class Oops(ValueError):
    pass


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


@pytest.mark.parametrize("given", [ErrorStrategy.RETRY, "retry", "RETRY"])
def test_the_strategy_is_always_the_enum(given: Any) -> None:
    handler = ErrorHandler(given)
    assert handler.strategy is ErrorStrategy.RETRY
    assert str(handler.strategy) == f"{handler.strategy}" == "ErrorStrategy.RETRY"


def test_defaults() -> None:
    handler = ErrorHandler()
    assert handler.spec() == ErrorSpec("stop", 3, 1.0, 2.0, False)
    assert handler.retryable_exceptions == (Exception,)
    assert handler.retry_count == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"strategy": "sometimes"}, "'sometimes'"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"retry_delay": -1}, "retry_delay"),
        ({"retryable_exceptions": ("ValueError",)}, "exception types"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ErrorHandler(**arguments)


def test_retry_waits_longer_each_time_and_then_gives_up(naps: list[float]) -> None:
    handler = ErrorHandler("retry", max_retries=3, retry_delay=0.5, retry_backoff=2.0)
    answers = [handler.handle_error(ValueError("x"), None, "r", None) for _ in range(4)]
    assert answers == [True, True, True, False]
    assert naps == [0.5, 1.0, 2.0]
    assert handler.retry_count == 3
    handler.reset()
    assert handler.retry_count == 0
    assert handler.handle_error(ValueError("x"), None, "r", None) is True


def test_what_is_not_retryable_fails_at_once(naps: list[float]) -> None:
    handler = ErrorHandler("retry", retryable_exceptions=(ValueError, KeyError))
    assert handler.is_retryable(Oops())
    assert not handler.is_retryable(TypeError())
    assert handler.handle_error(TypeError("x"), None, "r", None) is False
    assert (handler.retry_count, naps) == (0, [])


def test_stop_continue_skip() -> None:
    state = JobState("f")
    error = ValueError("boom")
    assert ErrorHandler("stop").handle_error(error, None, "r", None, state) is False
    assert ErrorHandler("continue").handle_error(error, None, "r", None, state) is True
    assert [(r.event_name, r.data) for r in state.execution_history] == [
        ("error_continued", {"error": "boom", "error_type": "ValueError"})
    ]
    assert ErrorHandler("skip").handle_error(error, None, "r", None, state) is True
    assert state.get_routine_state("r") == {"status": "skipped", "error": "boom"}
    assert ErrorHandler("skip", is_critical=True).handle_error(error, None, "r", None) is False


def test_document_and_back() -> None:
    handler = ErrorHandler("retry", 4, 0.3, 1.5, (ValueError, Oops))
    handler.retry_count = 2
    data = json.loads(json.dumps(handler.serialize()))
    assert data["strategy"] == "retry"
    assert data["retryable_exceptions"] == ["builtins:ValueError", f"{__name__}:Oops"]
    for restored in (ErrorHandler.deserialize(data), ErrorHandler().deserialize(data)):
        assert restored.strategy is ErrorStrategy.RETRY
        assert (restored.max_retries, restored.retry_delay, restored.retry_backoff) == (4, 0.3, 1.5)
        assert restored.retry_count == 2
        assert restored.is_retryable(Oops())
        assert not restored.is_retryable(TypeError())


def test_a_type_that_is_not_here_matches_by_name() -> None:
    data = {**ErrorHandler("retry").serialize(), "retryable_exceptions": ["elsewhere.errors:Oops"]}
    handler = ErrorHandler.deserialize(data)
    assert handler.retryable_exceptions == ()
    assert handler.is_retryable(Oops())
    assert not handler.is_retryable(ValueError())
    assert handler.serialize()["retryable_exceptions"] == ["elsewhere.errors:Oops"]


def test_a_name_that_leads_elsewhere_is_not_followed() -> None:
    """A document may name anything; only exception types of loaded modules are taken."""
    data = {**ErrorHandler("retry").serialize(), "retryable_exceptions": ["os:system", "builtins:int"]}
    assert ErrorHandler.deserialize(data).retryable_exceptions == ()


def test_a_mirrored_count_follows_the_job_and_stays_behind_in_copies() -> None:
    count = 1
    handler = ErrorHandler("retry")
    handler.mirror(lambda: count)
    assert handler.retry_count == 1
    count = 2
    assert handler.serialize()["retry_count"] == 2
    copy = pickle.loads(pickle.dumps(handler))
    count = 3
    assert (handler.retry_count, copy.retry_count) == (3, 2)
    handler.mirror(None)
    count = 4
    assert handler.retry_count == 3


def test_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'JobState'.*ErrorHandler"):
        ErrorHandler().deserialize(JobState("f").serialize())
