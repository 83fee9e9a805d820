"""Which emitted value becomes which argument: every rule of the API document."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from routilux_mp._worker.invoke import handler_call, logic_call, map_keys


def call(handler: Callable[..., Any], **data: Any) -> Any:
    return handler_call(handler)(data)


class Handlers:
    def method(self, value: Any) -> Any:
        return value

    def __call__(self, a: Any, b: Any = 2) -> Any:
        return a, b


def test_keywords_get_all_keys() -> None:
    assert call(lambda **kwargs: kwargs, a=1, b=2) == {"a": 1, "b": 2}
    assert call(lambda a, **rest: (a, rest), a=1, b=2) == (1, {"b": 2})
    assert call(lambda **kwargs: kwargs) == {}


def test_a_single_data_gets_everything_unless_a_key_is_called_so() -> None:
    assert call(lambda data: data, a=1, b=2) == {"a": 1, "b": 2}
    assert call(lambda data: data, data=5, b=2) == 5
    assert call(lambda data=None: data) == {}


def test_another_single_name_gets_its_value_or_everything() -> None:
    assert call(lambda value: value, value=None, b=2) is None
    assert call(lambda value: value, a=1) == {"a": 1}
    assert call(Handlers().method, value=3) == 3
    assert call(lambda *, value: value, value=3, other=1) == 3
    assert call(lambda *, value: value, a=1) == {"a": 1}
    assert call(lambda value, /: value, value=3) == 3


def test_several_names_get_the_keys_that_match() -> None:
    assert call(lambda a, b: (a, b), a=1, b=2, c=3) == (1, 2)
    assert call(lambda a, b=7: (a, b), a=1) == (1, 7)
    assert call(Handlers(), a=1) == (1, 2)
    assert call(lambda a, /, b: (a, b), a=1, b=2) == (1, 2)
    assert call(lambda a, *, b: (a, b), b=2, a=1) == (1, 2)
    assert call(partial(lambda a, b, c: (a, b, c), c=9), a=1, b=2) == (1, 2, 9)


def test_several_names_get_everything_when_none_matches() -> None:
    assert call(lambda a, b=7: (a, b), x=1) == ({"x": 1}, 7)


def test_a_missing_argument_is_the_handlers_own_error() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
        call(lambda a, b: None, a=1)


def test_without_parameters_nothing_is_passed() -> None:
    assert call(lambda: "called", a=1) == "called"


def test_star_args_get_the_dictionary() -> None:
    assert call(lambda *args: args, a=1) == ({"a": 1},)


def test_a_builtin_without_signature_gets_the_dictionary() -> None:
    found: list[Any] = []
    call(found.append, a=1)
    assert found == [{"a": 1}]
    assert call(dict, a=1) == {"a": 1}


def test_coroutines_are_refused() -> None:
    async def later(data: Any) -> None: ...

    async def stream(data: Any) -> Any:
        yield data

    for handler in (later, stream):
        with pytest.raises(TypeError, match=r"asyncio\.run"):
            handler_call(handler)


@pytest.mark.parametrize(
    ("mapping", "data", "expected"),
    [
        (None, {"a": 1}, {"a": 1}),
        ({"a": "x"}, {"a": 1, "b": 2}, {"x": 1, "b": 2}),
        ({"a": "b"}, {"a": 1, "b": 2}, {"b": 1}),  # what is not mapped gives way
        ({"a": "b", "b": "a"}, {"a": 1, "b": 2}, {"b": 1, "a": 2}),
        ({"missing": "x"}, {"a": 1}, {"a": 1}),
    ],
)
def test_keys_are_renamed(mapping: dict[str, str] | None, data: dict[str, Any], expected: dict[str, Any]) -> None:
    before = dict(data)
    assert map_keys(mapping)(data) == expected
    assert data == before


DATA = {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    "logic",
    [
        lambda slot_data, policy_message, job_state: (slot_data, policy_message, job_state),
        lambda slot_data, message, state: (slot_data, message, state),
        lambda slot_data, *, job_state, policy_message: (slot_data, policy_message, job_state),
        lambda slot_data, **more: (slot_data, more["policy_message"], more["job_state"]),
        lambda a, b, policy_message, job_state: ({"a": a, "b": b}, policy_message, job_state),
        lambda first, second, job_state, policy_message: ({"a": first, "b": second}, policy_message, job_state),
        lambda a, b, message, state: ({"a": a, "b": b}, message, state),
        lambda *all: ({"a": all[0], "b": all[1]}, all[2], all[3]),
    ],
)
def test_a_logic_gets_lists_message_and_state(logic: Callable[..., Any]) -> None:
    assert logic_call(logic, ("a", "b"))(DATA, "message", "state") == (DATA, "message", "state")


def test_a_logic_may_leave_out_what_it_does_not_want() -> None:
    assert logic_call(lambda slot_data: slot_data, ("a", "b"))(DATA, "m", "s") == DATA
    assert logic_call(lambda a, b: (a, b), ("a", "b"))(DATA, "m", "s") == ([1], [2])
    assert logic_call(lambda slot_data, job_state: job_state, ("a", "b"))(DATA, "m", "s") == "s"
    assert logic_call(lambda slot_data, message: message, ("a", "b"))(DATA, "m", "s") == "m"
