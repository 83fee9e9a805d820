"""The job's state in one activation: copies, changes in place, operations, reads."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from routilux_mp._core.stimuli import StateOp
from routilux_mp._worker.appended import Appended
from routilux_mp._worker.state import ActivationJobState, Key, Raw


class Codec:
    metadata: dict[str, Any] = {}

    def encode_state(self, scope: str, key: str, value: Any) -> bytes:
        return pickle.dumps(value)

    def decode_state(self, scope: str, key: str, data: bytes) -> Any:
        return pickle.loads(data)

    def encode_at(self, value: Any, place: bytes, where: str) -> bytes:
        return pickle.dumps(value)


def made(committed: dict[Key, Any] | None = None, contended: tuple[str, ...] = ("",)) -> ActivationJobState:
    raw: dict[Key, Raw] = {
        key: value if isinstance(value, (int, float, tuple)) else pickle.dumps(value)
        for key, value in (committed or {}).items()
    }
    return ActivationJobState("job", "flow", "me", raw, Codec(), lambda scope: scope in contended)


def ops(state: ActivationJobState) -> list[tuple[Any, ...]]:
    return [
        (o.op, o.scope, o.key, pickle.loads(o.value) if isinstance(o.value, bytes) else o.value)
        for o in state.finish()[0]
    ]


def test_nothing_read_or_written_costs_nothing() -> None:
    state = made({("", "x"): 1})
    assert not state.is_touched
    assert state.finish() == ([], ())


def test_a_routine_without_state_has_none() -> None:
    state = made()
    assert state.get_routine_state("me") is None
    assert state.get_routine_state("me", {}) == {}
    assert state.get_shared_data("x", 7) == 7


def test_an_update_replaces_the_whole_state() -> None:
    state = made({("me", "a"): 1, ("me", "b"): 2, ("me", "__field__:f"): 3})
    state.update_routine_state("me", {"b": 5, "c": [1]})
    assert state.get_routine_state("me") == {"b": 5, "c": [1]}
    assert ops(state) == [("delete", "me", "a", None), ("set", "me", "b", 5), ("set", "me", "c", [1])]
    assert state.get_routine_state("me") == {"b": 5, "c": [1]}  # kept for the next activation


def test_a_rollback_forgets_everything() -> None:
    state = made({("", "x"): 1, ("", "list"): [1]})
    state.update_shared_data("x", 2)
    state.shared_data["list"].append(2)
    state.append_to_shared_log({"n": 1})
    state.routine_states["new"] = {"a": 1}
    state.rollback()
    assert state.finish() == ([], ())
    assert dict(state.shared_data) == {"x": 1, "list": [1]}
    assert state.get_shared_log() == []


def test_copies_may_be_changed_freely() -> None:
    state = made({("", "list"): [1], ("me", "list"): [1]})
    state.get_shared_data("list").append(2)
    state.get_routine_state("me")["list"].append(2)
    assert ops(state) == []
    assert state.get_shared_data("list") == [1]


def test_what_is_lent_is_written_when_it_was_changed() -> None:
    state = made({("", "list"): [1], ("", "same"): [1], ("me", "n"): 1, ("me", "gone"): 1, ("me", "deep"): {"k": [0]}})
    state.shared_data["list"].append(2)
    assert state.shared_data["same"] == [1]
    own = state.routine_states["me"]
    own["n"] += 1
    own["new"] = "x"
    own["deep"]["k"].append(1)
    del own["gone"]
    assert sorted(ops(state)) == [
        ("delete", "me", "gone", None), ("set", "", "list", [1, 2]), ("set", "me", "deep", {"k": [0, 1]}),
        ("set", "me", "n", 2), ("set", "me", "new", "x"),
    ]  # fmt: skip


def test_a_lent_object_stays_tracked_after_other_looks_at_it() -> None:
    state = made({("", "list"): [1]})
    lent = state.shared_data["list"]
    lent.append(2)
    assert state.get_shared_data("list") == [1, 2]
    lent.append(3)
    assert state.get_shared_data("list") == [1, 2, 3]
    lent.append(4)
    assert ops(state)[-1] == ("set", "", "list", [1, 2, 3, 4])


def test_shared_data_is_a_mapping() -> None:
    state = made({("", "a"): 1, ("", "b"): [2]})
    shared = state.shared_data
    assert "a" in shared
    assert "c" not in shared
    assert len(shared) == 2
    assert shared == {"a": 1, "b": [2]}
    assert repr(shared) == "{'a': 1, 'b': [2]}"
    shared["c"] = 3
    del shared["a"]
    assert sorted(shared) == ["b", "c"]
    with pytest.raises(KeyError):
        shared["a"]
    with pytest.raises(KeyError):
        del shared["a"]


def test_routine_states_is_a_mapping() -> None:
    state = made({("me", "a"): 1, ("other", "b"): 2, ("hidden", "__field__:x"): 1, ("", "s"): 1})
    states = state.routine_states
    assert sorted(states) == ["me", "other"]
    assert len(states) == 2
    del states["other"]
    assert dict(states) == {"me": {"a": 1}}
    with pytest.raises(KeyError):
        states["hidden"]


def test_numbers_travel_as_numbers_and_huge_ones_as_bytes() -> None:
    state = made()
    for value in (1, 2.5, True, 1 << 70, 1 << 5000):
        state.update_shared_data("x", value)
    kinds = [type(op.value) for op in state.finish()[0]]
    assert kinds == [int, float, bytes, int, bytes]
    assert state.get_shared_data("x") == 1 << 5000


def test_increments_add_up() -> None:
    state = made({("", "n"): 5, ("", "text"): "x"})
    state.increment("n")
    state.increment("n", 2.5)
    state.increment("new", -1)
    assert state.get_shared_data("n") == 8.5
    assert state.get_shared_data("new") == -1
    with pytest.raises(TypeError, match="not a number"):
        state.increment("text")
    with pytest.raises(TypeError, match="int or a float"):
        state.increment("n", "1")  # type: ignore[arg-type]
    assert [op[0] for op in ops(state)] == ["increment"] * 3


def test_what_an_activation_that_failed_has_appended_is_seen_by_nobody() -> None:
    state = made()
    state.append("list", 1)
    state.finish()
    for item in (2, 3):
        state.append("list", item)
    assert state.get_shared_data("list") == [1, 2, 3]
    state.rollback()
    assert state.get_shared_data("list") == [1]
    state.append("list", 4)
    assert state.get_shared_data("list") == [1, 4]
    state.finish()
    assert state.get_shared_data("list") == [1, 4]


def test_an_appended_list_is_not_copied_for_each_item() -> None:
    first = Appended.of((b"base", (b"a",)))
    second = first.plus(b"b")
    assert (first.items, second.items) == ([b"a"], [b"a", b"b"])
    third = second.plus(b"c")
    assert third._items is second._items is first._items
    again = first.plus(b"d")
    assert (first.items, again.items, again.base) == ([b"a"], [b"a", b"d"], b"base")


def test_appended_items_make_a_list() -> None:
    state = made({("", "old"): [1], ("", "made"): (None, (pickle.dumps("a"),)), ("", "n"): 1})
    for key in ("old", "made", "new"):
        state.append(key, "z")
    assert state.get_shared_data("old") == [1, "z"]
    assert state.get_shared_data("made") == ["a", "z"]
    assert state.get_shared_data("new") == ["z"]
    with pytest.raises(TypeError, match="not a list"):
        state.append("n", 1)
    assert ops(state) == [("append", "", key, "z") for key in ("old", "made", "new")]
    assert state.get_shared_data("old") == [1, "z"]


def test_reads_count_only_where_others_write_and_only_beside_writes() -> None:
    state = made({("", "x"): 1, ("me", "y"): 1})
    state.get_shared_data("x")
    assert state.finish() == ([], ())
    state.get_shared_data("x")
    state.get_shared_data("absent")
    state.get_routine_state("me")
    state.update_routine_state("me", {"y": 2})
    assert state.finish()[1] == (("", "absent"), ("", "x"))


def test_reading_what_the_activation_itself_has_set_is_no_read() -> None:
    state = made({("", "x"): 1})
    state.update_shared_data("x", 2)
    assert state.get_shared_data("x") == 2
    assert state.finish()[1] == ()


def test_keys_are_strings() -> None:
    state = made()
    with pytest.raises(TypeError, match="strings"):
        state.update_shared_data(1, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="strings"):
        state.update_routine_state("me", {1: 2})  # type: ignore[dict-item]


def test_the_shared_log_takes_dictionaries() -> None:
    state = made()
    state.append_to_shared_log({"n": 1})
    state.append_to_shared_log({"n": 2})
    [entry] = state.get_shared_log(lambda entry: entry["n"] > 1)
    assert set(entry) == {"n", "timestamp"}
    state.append_to_shared_log({"n": 3, "timestamp": "mine"})
    assert state.get_shared_log()[-1] == {"n": 3, "timestamp": "mine"}
    with pytest.raises(TypeError, match="dict"):
        state.append_to_shared_log("text")  # type: ignore[arg-type]
    assert [op.op for op in state.finish()[0]] == ["log"] * 3


def test_hidden_values_are_out_of_sight() -> None:
    state = made()
    assert state.get_hidden("__slot__:in") is None
    state.set_hidden("__slot__:in", {"a": 1})
    assert state.get_hidden("__slot__:in") == {"a": 1}
    assert state.get_routine_state("me") is None
    state.add_op(StateOp("output", "", "", ("a", "b")))
    assert [op.op for op in state.finish()[0]] == ["set", "output"]
