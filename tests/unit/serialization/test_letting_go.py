"""What was encoded or decoded is gone with its last user: no circle keeps it until the collector comes."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from routilux_mp._serialization.batch import (
    PlainReader,
    decode_batch,
    encode_batch,
    encode_in_pieces,
    encode_plain,
)
from routilux_mp._serialization.code import pack_code
from routilux_mp._serialization.packer import Packer
from routilux_mp._serialization.signing import Signer
from routilux_mp.errors import EmissionNotSerializable

SIGNER = Signer([b"k" * 32])


class Holder:
    """An object with an array in it."""

    def __init__(self) -> None:
        self.array = np.ones(10_000)


class Bytes(bytearray):
    """Can be referred to weakly."""


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


VALUES: dict[str, Callable[[], Any]] = {
    "large array": lambda: np.ones(10_000),
    "small array": lambda: np.ones(3),
    "object": Holder,
    "array in a tuple": lambda: (np.ones(10_000), {1, 2}),
    "array beside an object": lambda: [np.ones(10_000), Holder()],
    "array beside a tuple": lambda: {"a": np.ones(10_000), "b": (1, 2)},
}


def _owners(value: Any) -> list[weakref.ref[Any]]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    return [weakref.ref(part) for part in parts if isinstance(part, (Holder, np.ndarray))]


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("encode", [encode_batch, encode_in_pieces])
def test_what_was_encoded(make: Callable[[], Any], encode: Callable[..., Any]) -> None:
    value = make()
    owners = _owners(value)
    encoded = encode([value], SIGNER, b"")
    assert encoded
    del value, encoded
    assert owners
    assert [owner() for owner in owners] == [None] * len(owners)


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_what_was_tried_on_the_quick_way(make: Callable[[], Any]) -> None:
    value = make()
    owners = _owners(value)
    encode_plain(value)
    del value
    assert [owner() for owner in owners] == [None] * len(owners)


def test_what_could_not_be_encoded() -> None:
    value = Holder()
    owner = weakref.ref(value)
    with pytest.raises(EmissionNotSerializable):
        encode_batch([value, threading.Lock()], SIGNER, b"")
    del value
    assert owner() is None


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_the_memory_that_was_decoded_from(make: Callable[[], Any]) -> None:
    memory = Bytes(encode_batch([make()], SIGNER, b"").data)
    owner = weakref.ref(memory)
    items = decode_batch(memoryview(memory), SIGNER, b"")
    assert len(items) == 1
    del items, memory
    assert owner() is None


def test_the_memory_that_a_part_was_decoded_from() -> None:
    memory = Bytes(encode_batch([(n, {n}) for n in range(9)], SIGNER, b"").data)
    owner = weakref.ref(memory)
    reader = PlainReader(memoryview(memory))
    assert reader.take(0, 4) == [(n, {n}) for n in range(4)]
    del reader, memory
    assert owner() is None


def test_code_that_was_packed() -> None:
    class Routine:
        def __init__(self) -> None:
            self.weights = np.ones(10)

        def go(self) -> float:
            return float(SIGNER is not None and self.weights.sum())

    gc.collect()  # what the errors of other tests were raised through
    assert pack_code({"r": Routine()}, main=None).data
    assert [type(thing) for thing in gc.get_objects() if isinstance(thing, Packer)] == []
