"""Any plain value, and any mixture of plain values and objects, comes back as it was."""

from __future__ import annotations

import dataclasses
from datetime import timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routilux_mp._serialization.batch import PlainReader, decode_batch, encode_batch, is_plain_batch
from routilux_mp._serialization.signing import Signer
from routilux_mp.errors import CheckpointDamaged, KeyUnavailable, SignatureInvalid

SIGNER = Signer([b"k" * 32])


@dataclasses.dataclass(frozen=True)
class Leaf:
    content: object


zones = st.one_of(
    st.none(), st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text(max_size=5))
)
characters = st.text(st.characters(), max_size=20)  # lone surrogates included
hashables = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), st.floats(allow_nan=False),
        characters, st.binary(max_size=20), st.dates(), st.datetimes(timezones=zones), st.timedeltas(),
        st.times(), st.complex_numbers(allow_nan=False),
    ),
    lambda inner: st.one_of(st.frozensets(inner, max_size=4), st.lists(inner, max_size=4).map(tuple)),
    max_leaves=6,
)  # fmt: skip


def containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(hashables, inner, max_size=4),
        st.sets(hashables, max_size=4),
    )


plain = st.recursive(st.one_of(hashables, st.binary(max_size=20).map(bytearray)), containers, max_leaves=15)
mixed = st.recursive(st.one_of(hashables, plain.map(Leaf)), containers, max_leaves=10)


def same(left: object, right: object) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, Leaf):
        return same(left.content, right.content)
    if isinstance(left, dict):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left.items(), right.items(), strict=True))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (set, frozenset)):
        return left == right and {type(item) for item in left} == {type(item) for item in right}
    return left == right and repr(left) == repr(right)


@given(st.lists(plain, max_size=6))
def test_plain_batches(values) -> None:
    encoded = encode_batch(values, None, b"")
    assert encoded.count == len(values)
    assert same(decode_batch(encoded.data, None, b""), values)


@given(st.lists(mixed, max_size=5), st.integers(0, 5), st.integers(0, 5), st.binary(max_size=8))
def test_mixed_batches_and_their_parts(values, start, count, place) -> None:
    data = encode_batch(values, SIGNER, place).data
    start = min(start, len(values))
    count = min(count, len(values) - start)
    assert same(decode_batch(data, SIGNER, place, start, count), values[start : start + count])
    assert same(decode_batch(memoryview(data), SIGNER, place), values)


@given(st.lists(plain, max_size=12), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=5))
def test_plain_batches_part_by_part(values, parts) -> None:
    reader = PlainReader(encode_batch(values, None, b"").data)
    for skip, count in parts:
        start = reader.given + skip
        if start + count > len(values):
            with pytest.raises(CheckpointDamaged, match="were asked for"):
                reader.take(start, count)
            return
        assert same(reader.take(start, count), values[start : start + count])
        assert reader.given == start + count


@given(st.lists(plain, max_size=6), st.data())
def test_a_damaged_part_is_the_last_that_is_read(values, data) -> None:
    encoded = bytearray(encode_batch(values, None, b"").data)
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    if not is_plain_batch(encoded):
        return
    try:
        reader = PlainReader(bytes(encoded))
    except CheckpointDamaged:
        return
    try:
        for _ in values:
            reader.take(reader.given, 1)
    except CheckpointDamaged:
        assert reader.given > len(values)


@given(st.lists(mixed, max_size=3), st.data())
def test_one_changed_byte_never_runs_code_and_never_escapes(values, data) -> None:
    encoded = bytearray(encode_batch(values, SIGNER, b"p").data)
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode_batch(bytes(encoded), SIGNER, b"p")
    except (CheckpointDamaged, SignatureInvalid, KeyUnavailable):
        return


@given(st.binary(max_size=200))
def test_any_bytes_end_in_values_or_in_a_named_error(data) -> None:
    try:
        decode_batch(data, SIGNER, b"p")
    except (CheckpointDamaged, SignatureInvalid, KeyUnavailable):
        return


dtypes = st.sampled_from(["?", "i1", "<i8", ">u2", "f2", "<f8", ">f4", "c16", "<U3", "S2", "M8[ns]", "m8[3h]"])


@settings(max_examples=60)
@given(
    dtypes, st.lists(st.integers(0, 4), max_size=4), st.booleans(), st.integers(1, 3), st.binary(min_size=1, max_size=9)
)
def test_arrays(dtype, shape, by_columns, step, filling) -> None:
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = (filling * (size // len(filling) + 1))[:size]
    if kind.kind in "?bU":
        raw = bytes(size)  # any other bytes are no booleans and no characters
    array = np.frombuffer(raw, kind).reshape(shape) if size else np.zeros(shape, kind)
    if by_columns:
        array = np.asfortranarray(array)
    if array.ndim:
        array = array[::step]
    [back] = decode_batch(encode_batch([array], None, b"").data, None, b"")
    assert (back.dtype.str, back.shape, back.tobytes()) == (array.dtype.str, array.shape, array.tobytes())
