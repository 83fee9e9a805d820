"""Activation policies as callables, their specs for the core, and slot views."""

from __future__ import annotations

import time

import pytest

from routilux_mp._core.topology import PolicySpec
from routilux_mp.activation_policies import (
    all_slots_ready_policy,
    as_policy,
    batch_size_policy,
    custom_policy,
    from_spec,
    immediate_policy,
    time_interval_policy,
    upstream_done_policy,
)
from routilux_mp.slot import SlotView


def views(**slots: list[int]) -> dict[str, SlotView]:
    return {name: SlotView(name, items) for name, items in slots.items()}


def test_immediate_takes_everything_as_soon_as_there_is_something() -> None:
    policy = immediate_policy()
    assert policy.spec == PolicySpec("each")
    assert policy(views(a=[], b=[]), None) == (False, {}, None)
    assert policy(views(a=[1, 2], b=[]), None) == (True, {"a": [1, 2], "b": []}, {"reason": "immediate"})


def test_upstream_done_waits_for_the_end() -> None:
    policy = upstream_done_policy()
    slots = views(a=[1, 2])
    assert policy(slots, None)[0] is False
    assert slots["a"].taken_count == 0
    assert policy(slots, None, final=True) == (True, {"a": [1, 2]}, {"reason": "upstream_done"})


def test_batch_size_takes_exactly_that_many_and_flushes_at_the_end() -> None:
    policy = batch_size_policy(2)
    slots = views(a=[1, 2, 3])
    assert policy(slots, None)[:2] == (True, {"a": [1, 2]})
    assert policy(slots, None)[0] is False
    assert policy(slots, None, final=True)[:2] == (True, {"a": [3]})
    assert policy(slots, None, final=True)[0] is False
    assert policy.spec == PolicySpec("batch_size", count=2)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_batch_size_must_be_a_whole_number(size: object) -> None:
    with pytest.raises(ValueError, match="whole number"):
        batch_size_policy(size)  # type: ignore[arg-type]


def test_all_slots_ready_takes_one_of_each() -> None:
    policy = all_slots_ready_policy()
    assert policy(views(a=[1], b=[]), None)[0] is False
    assert policy(views(a=[1, 2], b=[3]), None)[:2] == (True, {"a": [1], "b": [3]})


def test_time_interval_says_yes_at_most_once_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    policy = time_interval_policy(5.0)
    assert policy(views(a=[1]), None)[0] is True
    assert policy(views(a=[2]), None)[0] is False
    now[0] += 5.0
    assert policy(views(a=[2]), None)[:2] == (True, {"a": [2]})
    assert policy.spec == PolicySpec("time_interval", interval_s=5.0)
    with pytest.raises(ValueError, match="at least 0"):
        time_interval_policy(-1)


def test_custom_check_takes_everything_on_a_yes() -> None:
    policy = custom_policy(lambda slots, job_state: slots["a"].get_unconsumed_count() > 1)
    assert policy.spec.kind == "custom"
    assert policy(views(a=[1]), None) == (False, {}, None)
    assert policy(views(a=[1, 2]), None)[:2] == (True, {"a": [1, 2]})
    with pytest.raises(ValueError, match="callable"):
        custom_policy(3)  # type: ignore[arg-type]


def test_a_users_policy_is_asked_finally_only_if_it_can_be() -> None:
    asked: list[object] = []

    def plain(slots: object, job_state: object) -> tuple[bool, dict[str, list[int]], str]:
        asked.append("plain")
        return True, {"a": [1]}, "go"

    def with_final(slots: object, job_state: object, final: bool = False) -> tuple[bool, dict[str, list[int]], str]:
        asked.append(final)
        return final, {"a": [2]}, "end"

    assert as_policy(plain)(views(a=[1]), None) == (True, {"a": [1]}, "go")
    assert as_policy(plain)(views(a=[1]), None, final=True)[0] is False
    assert as_policy(with_final)(views(a=[1]), None, final=True) == (True, {"a": [2]}, "end")
    assert asked == ["plain", True]
    assert as_policy(immediate_policy()) == immediate_policy()
    with pytest.raises(ValueError, match="should_activate"):
        as_policy("immediate")


@pytest.mark.parametrize(
    "policy",
    [
        immediate_policy(),
        upstream_done_policy(),
        batch_size_policy(3),
        time_interval_policy(1),
        all_slots_ready_policy(),
    ],
    ids=repr,
)
def test_a_built_in_policy_comes_back_from_its_spec(policy: object) -> None:
    assert from_spec(policy.spec) == policy  # type: ignore[attr-defined]


def test_unknown_spec_is_refused() -> None:
    with pytest.raises(ValueError, match="'sometimes'"):
        from_spec(PolicySpec("sometimes"))


def test_slot_view_counts_what_is_taken() -> None:
    view = SlotView("a", [1, 2, 3])
    assert (view.peek_one_new(), view.peek_all_new(), view.peek_latest()) == (1, [1, 2, 3], 3)
    assert view.get_unconsumed_count() == 3
    assert view.consume_one_new() == 1
    assert (len(view), view.taken_count, view.get_total_count()) == (2, 1, 3)
    assert view.consume_latest_and_mark_all_consumed() == 3
    assert view.consume_one_new() is None
    assert view.consume_latest_and_mark_all_consumed() is None
    assert view.peek_one_new() is None
    assert SlotView("b", []).peek_latest() is None
    assert view.get_queue_state() == {"total_count": 3, "unconsumed_count": 0, "consumed_count": 3}
