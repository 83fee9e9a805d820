"""Batches: parts of them, objects in them, and that an item never touches its neighbours."""

from __future__ import annotations

import pytest

from routilux_mp._serialization.batch import (
    PlainReader,
    Unreadable,
    decode_batch,
    decode_value,
    encode_batch,
    encode_value,
)
from routilux_mp._serialization.signing import Signer
from routilux_mp.errors import CheckpointDamaged, EmissionNotSerializable, KeyUnavailable, SignatureInvalid

SIGNER = Signer([b"k" * 32])


class Item:
    def __init__(self, name: object = None) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return type(other) is Item and other.name == self.name


class Fragile(Item):
    loads = True

    def __setstate__(self, state: dict) -> None:
        if not Fragile.loads:
            raise RuntimeError("made of glass")
        self.__dict__ = state


@pytest.mark.parametrize(
    "values", [[{"i": n} for n in range(256)], [(n, {n}) for n in range(9)], [Item(n) for n in range(9)]]
)
@pytest.mark.parametrize(("start", "count"), [(0, None), (0, 1), (3, None), (3, 4), (8, 1), (9, 0)])
def test_a_part_of_a_batch(values, start, count) -> None:
    encoded = encode_batch(values, SIGNER, b"place")
    assert encoded.count == len(values)
    expected = values[start : None if count is None else start + count]
    assert decode_batch(encoded.data, SIGNER, b"place", start, count) == expected


@pytest.mark.parametrize("values", [[1, 2], [Item(1), 2]])
def test_more_items_than_there_are_is_damage(values) -> None:
    data = encode_batch(values, SIGNER, b"").data
    with pytest.raises(CheckpointDamaged, match="has 2 items, 3 were asked for"):
        decode_batch(data, SIGNER, b"", 1, 2)


@pytest.mark.parametrize("change", [lambda data: data + b"\x01", lambda data: data[:-1]])
def test_a_plain_batch_read_in_parts_is_neither_longer_nor_shorter(change) -> None:
    reader = PlainReader(change(encode_batch([1, 2, 3], None, b"").data))
    assert reader.take(0, 2) == [1, 2]
    with pytest.raises(CheckpointDamaged):
        reader.take(2, 1)


def test_a_part_may_not_end_within_a_tuple() -> None:
    data = encode_batch([(1, 2), 3], None, b"").data
    stray = data[:2] + data[3:6] + data[-1:]  # the mark stands where the tuple was
    with pytest.raises(CheckpointDamaged, match="a mark"):
        PlainReader(stray).take(0, 1)


def test_an_empty_batch() -> None:
    assert decode_batch(encode_batch([], None, b"").data, None, b"") == []


def test_objects_of_one_item_go_on_sharing_and_those_of_two_never_do() -> None:
    shared = Item("shared")
    first, second = decode_batch(
        encode_batch([{"a": shared, "b": Item(shared)}, {"a": shared}], SIGNER, b"").data, SIGNER, b""
    )
    assert first["b"].name is first["a"]
    assert second["a"] == first["a"]
    assert second["a"] is not first["a"]


def test_an_object_that_cannot_be_built_spoils_its_own_item_only(monkeypatch) -> None:
    data = encode_batch([1, Item("a"), {"x": Fragile("b")}, Item("c"), 2], SIGNER, b"").data
    monkeypatch.setattr(Fragile, "loads", False)
    items = decode_batch(data, SIGNER, b"")
    assert items[:2] == [1, Item("a")]
    assert items[3:] == [Item("c"), 2]
    assert type(items[2]) is Unreadable
    assert "RuntimeError: made of glass" in str(items[2].error)
    assert decode_batch(data, SIGNER, b"", 3, 2) == [Item("c"), 2]


def test_a_value_that_cannot_be_built_is_an_error(monkeypatch) -> None:
    data = encode_value(Fragile(), SIGNER, b"")
    monkeypatch.setattr(Fragile, "loads", False)
    with pytest.raises(EmissionNotSerializable, match="made of glass"):
        decode_value(data, SIGNER, b"")


def test_a_reduce_that_raises_is_named_by_its_path() -> None:
    class Stubborn:
        def __reduce__(self):
            raise OSError("not me")

    with pytest.raises(EmissionNotSerializable, match=r"value\['x'\] \(Stubborn\) .* not me"):
        encode_value({"x": Stubborn()}, SIGNER, b"")


def test_a_reduce_may_encode_in_turn() -> None:
    class Nested:
        def __reduce__(self):
            return decode_value, (encode_value([1, (2,)], None, b""), None, b"")

    assert decode_value(encode_value([(0,), Nested()], SIGNER, b""), SIGNER, b"") == [(0,), [1, (2,)]]


def test_objects_need_a_key_to_be_read_and_the_right_place() -> None:
    data = encode_value(Item(), SIGNER, b"job 1")
    with pytest.raises(KeyUnavailable, match="given no key"):
        decode_value(data, None, b"job 1")
    with pytest.raises(KeyUnavailable, match="signed with key"):
        decode_value(data, Signer([b"x" * 32]), b"job 1")
    with pytest.raises(SignatureInvalid):
        decode_value(data, SIGNER, b"job 2")
    assert decode_value(data, SIGNER, b"job 1") == Item()


def make_local():
    class Local:
        def __init__(self, n: int) -> None:
            self.n = n

    return Local


def test_classes_and_functions_that_no_module_has_travel_in_payloads() -> None:
    local, offset = make_local(), 5
    value = {"object": local(3), "class": local, "function": lambda n: n + offset}
    back = decode_value(encode_value(value, SIGNER, b""), SIGNER, b"")
    assert type(back["object"]) is local
    assert back["class"] is local
    assert back["function"](1) == 6
