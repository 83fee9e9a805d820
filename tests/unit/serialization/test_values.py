"""Plain values come back exactly as they were, type by type, and need no key."""

from __future__ import annotations

import collections
import enum
import math
import subprocess
import sys
import threading
from datetime import UTC, date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from routilux_mp._serialization.batch import decode_batch, decode_value, encode_batch, encode_value
from routilux_mp._serialization.signing import Signer
from routilux_mp.errors import EmissionNotSerializable, KeyUnavailable

SIGNER = Signer([b"k" * 32])


def round_trip(value):
    return decode_value(encode_value(value, None, b""), None, b"")


def same(left, right) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return [*left] == [*right] and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right or left != left


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 2**5000, -(2**5000),
        0.0, -0.0, math.inf, math.nan, 1j, complex(math.inf, -0.0),
        "", "é\0\U0001f600", "\ud800 lone", b"", b"\xff\0", bytearray(b"ab"), [bytearray(), b""],
        [], [[]], (), ((),), (1, (2, [3, (4,)])), {}, {"b": 1, "a": 2}, {1: 2, (1, (2,)): 3, None: 4, b"k": 5},
        set(), {1, (2, 3)}, frozenset({1, frozenset({2})}), {frozenset({1}): {2}},
        date(2024, 2, 29), time(23, 59, 59, 999999), time(1, 2, tzinfo=UTC), timedelta(-1, 3, 4), timedelta.max,
        datetime.min, datetime.max, datetime(2024, 10, 27, 2, 30, fold=1), datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3, microseconds=5))),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5), "Zoné")),
    ],
    ids=lambda value: f"{type(value).__name__}-{value!r:.30}",
)  # fmt: skip
def test_plain_values_come_back_exactly(value) -> None:
    back = round_trip(value)
    assert same(back, value)
    assert repr(back) == repr(value)
    assert same(round_trip([value, {"x": value}]), [value, {"x": value}])


def test_a_datetime_keeps_its_fold_and_the_name_of_its_zone() -> None:
    value = datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5), "Zoné"))
    assert round_trip(value).tzname() == "Zoné"
    assert round_trip(datetime(2024, 1, 1, fold=1)).fold == 1
    assert round_trip(datetime(2024, 1, 1, tzinfo=UTC)).tzinfo is UTC


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        Number.ONE,
        Text("t"),
        Point(1, 2),
        collections.OrderedDict(a=1),
        range(3),
        datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_only_looks_plain_is_an_object_and_comes_back_as_it_was(value) -> None:
    with pytest.raises(KeyUnavailable, match="must be signed"):
        encode_value({"a": [value]}, None, b"")
    back = decode_value(encode_value({"a": [value]}, SIGNER, b"c"), SIGNER, b"c")
    assert same(back, {"a": [value]})


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(10)[::3],
        np.array(3.5), np.zeros((0, 3), "f4"), np.array(["a", "bcd"]), np.array([b"x"]), np.array([True, False]),
        np.array(["2024-01-01", "NaT"], "M8[D]"), np.array([1, 2], "m8[ns]"), np.array([1, 2], ">i4"),
        np.array([1 + 2j]), np.zeros(20_000), np.asfortranarray(np.arange(40_000).reshape(200, 200)),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_arrays(array, kind) -> None:
    back = decode_value(kind(encode_value({"a": array}, None, b"")), None, b"")["a"]
    assert type(back) is np.ndarray
    assert (back.dtype.str, back.shape) == (array.dtype.str, array.shape)
    assert np.array_equal(back, array, equal_nan=array.dtype.kind in "fcmM")
    assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc
    assert back.flags.aligned


@pytest.mark.parametrize(
    "scalar",
    [np.float64(0.1), np.int8(-3), np.bool_(True), np.str_("né"), np.bytes_(b"q"), np.datetime64("2024-01-01")],
)
def test_numpy_scalars_keep_their_type(scalar) -> None:
    assert same(round_trip([scalar]), [scalar])


def test_an_array_of_objects_is_an_object() -> None:
    array = np.array([{"a": 1}, None], dtype=object)
    with pytest.raises(KeyUnavailable):
        encode_value(array, None, b"")
    assert list(decode_value(encode_value(array, SIGNER, b""), SIGNER, b"")) == [{"a": 1}, None]


def test_a_large_array_is_shared_with_a_mapping_and_copied_from_bytes() -> None:
    array = np.arange(50_000, dtype="i4")
    data = encode_value(array, None, b"")
    mapped = decode_value(memoryview(data), None, b"")
    assert not mapped.flags.writeable
    assert np.shares_memory(mapped, np.frombuffer(data, "u1"))
    copied = decode_value(data, None, b"")
    copied += 1
    assert np.array_equal(copied, array + 1)
    assert np.array_equal(decode_value(data, None, b""), array)


def test_a_small_array_may_be_changed_by_its_receiver() -> None:
    back = decode_value(memoryview(encode_value(np.arange(3), None, b"")), None, b"")
    back[0] = 7
    assert back[0] == 7


class Holder:
    def __init__(self, inner: object) -> None:
        self.inner = inner


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_an_object_keeps_its_large_buffers_beside_it(kind) -> None:
    array = np.arange(50_000)
    data = encode_value({"a": [Holder(array), Holder(array[::2]), Holder(array[:9])]}, SIGNER, b"")
    first, second, third = decode_value(kind(data), SIGNER, b"")["a"]
    assert np.array_equal(first.inner, array)
    assert np.array_equal(second.inner, array[::2])
    assert np.array_equal(third.inner, array[:9])
    assert np.shares_memory(first.inner, np.frombuffer(data, "u1")) == (kind is memoryview)
    assert first.inner.flags.writeable == (kind is bytes)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> dict:
    value: dict = {"a": [1]}
    value["a"].append((value,))
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (cyclic(), r"value\['a'\]\[1\]\[0\] contains itself"),
        (nested(5_000), "nested deeper than 510 levels"),
        ([bytearray(), nested(5_000)], "nested deeper than 510 levels"),
        ({"a": [1, threading.Lock()]}, r"value\['a'\]\[1\] \(lock\)"),
        ({"a": (x for x in "")}, r"value\['a'\] \(generator\)"),
        ([memoryview(b"x")], r"value\[0\] \(memoryview\)"),
        ({"m": sys}, r"value\['m'\] \(module\)"),
    ],
    ids=["cycle", "deep", "deep-slow-way", "lock", "generator", "memoryview", "module"],
)
def test_what_cannot_be_encoded_is_named_by_its_path(value, text) -> None:
    with pytest.raises(EmissionNotSerializable, match=text):
        encode_value(value, SIGNER, b"")
    # The encoder of this thread works on.
    assert round_trip([1, (2,)]) == [1, (2,)]


def test_the_path_goes_into_objects() -> None:
    with pytest.raises(EmissionNotSerializable, match=r"value\['a'\]\[3\]\.inner\['conn'\] \(lock\)") as caught:
        encode_batch([1, {"a": [0, 1, 2, Holder({"conn": threading.Lock()})]}], SIGNER, b"")
    assert caught.value.item_index == 1


def test_any_depth_that_is_encoded_is_decoded() -> None:
    for depth in (500, 1_010, 1_030, 2_000):
        try:
            data = encode_value(nested(depth), None, b"")
        except EmissionNotSerializable:
            continue
        back, levels = decode_value(data, None, b""), 0
        while back:
            [back] = back
            levels += 1
        assert levels == depth


def test_plain_batches_are_independent_of_each_other() -> None:
    shared = [1]
    first, second = decode_batch(encode_batch([shared, shared], None, b"").data, None, b"")
    assert first == second
    assert first is not second


def test_numpy_is_not_imported_for_values_without_arrays() -> None:
    program = (
        "import sys\n"
        "from routilux_mp._serialization.batch import encode_value, decode_value\n"
        "decode_value(encode_value({'a': (1, {2})}, None, b''), None, b'')\n"
        "print(sorted({'numpy', 'dill', 'multiprocess'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
