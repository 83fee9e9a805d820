"""Fewer operations on the state say the same as all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routilux_mp._core.job import Job, ListValue
from routilux_mp._core.state import change_state
from routilux_mp._core.stimuli import StateOp
from routilux_mp._worker.changes import Changes

amounts = st.one_of(
    st.integers(-3, 3), st.integers(-(2**63), 2**63), st.integers(-(2**200), 2**200),
    st.sampled_from((2**2000, -(2**2000))),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)  # fmt: skip
places = st.tuples(st.sampled_from(["", "r"]), st.sampled_from(["k", "l"]))
ops = st.one_of(
    st.builds(lambda place, value: StateOp("increment", *place, value), places, amounts),
    st.builds(lambda place, value: StateOp("set", *place, value), places, st.binary(max_size=2)),
    st.builds(lambda place, value: StateOp("append", *place, value), places, st.binary(max_size=2)),
    st.builds(lambda place: StateOp("delete", *place), places),
    st.builds(lambda value: StateOp("log", "", "", value), st.binary(max_size=2)),
    st.builds(lambda value: StateOp("record", "r", "k", value), st.binary(max_size=2)),
)


def state_after(found: list[StateOp]) -> tuple[Any, int, int]:
    job = Job("j")
    change_state(job, tuple(found), 1, None)
    state = {
        scope: {key: (v.base, v.items) if isinstance(v, ListValue) else v for key, v in values.items()}
        for scope, values in job.state.items()
    }
    return state, job.log_count, job.record_count


@given(st.lists(st.lists(ops, max_size=4), max_size=8))
def test_the_state_is_the_same(activations: list[list[StateOp]]) -> None:
    changes = Changes()
    everything: list[StateOp] = []
    for done in activations:
        everything += done
        state = state_after(everything)[0]
        changes.add(done, {(scope, key): value for scope, values in state.items() for key, value in values.items()})
    taken = changes.all()
    assert repr(state_after(list(taken))) == repr(state_after(everything))
    assert [op for op in taken if op.op in ("log", "record")] == [op for op in everything if op.op in ("log", "record")]


@pytest.mark.parametrize(
    ("done", "state", "expected"),
    [
        ("+1 +2 +-5", 7, "+-2"),
        ("+1 +2", 7.5, "+1 +2"),
        ("+1 +0.5 +1", 7, "+1 +0.5 +1"),
        (f"+{1 << 61} +{1 << 61}", 7, f"+{1 << 61} +{1 << 61}"),
        (f"+{1 << 2000} +0.5", 0.5, f"+{1 << 2000} +0.5"),
        ("=a =b +1 =c", b"c", "=b +1 =c"),
        ("=a <b =c", b"c", "=a <b =c"),
        ("=a -  =c", b"c", "=a - =c"),
        ("*a *a", None, "*a *a"),
    ],
)
def test_what_is_taken_together(done: str, state: object, expected: str) -> None:
    changes = Changes()
    for word in done.split():
        changes.add([op_of(word, "k"), op_of(word, "other")], {("", "k"): state})
    assert [op for op in changes.all() if op.key == "k"] == [op_of(word, "k") for word in expected.split()]


def op_of(word: str, key: str) -> StateOp:
    """``+1``: increment, ``=a``: set, ``<a``: append, ``-``: delete, ``*a``: log."""
    match word[0]:
        case "+":
            return StateOp("increment", "", key, float(word) if "." in word else int(word[1:]))
        case "-":
            return StateOp("delete", "", key)
    return StateOp({"=": "set", "<": "append", "*": "log"}[word[0]], "", key, word[1:].encode())


def test_what_is_cleared_is_not_added_to() -> None:
    changes = Changes()
    changes.add([StateOp("increment", "", "k", 1)], {("", "k"): 1})
    changes.clear()
    assert changes.all() == ()
    changes.add([StateOp("increment", "", "k", 2)], {("", "k"): 3})
    assert changes.all() == (StateOp("increment", "", "k", 2),)
