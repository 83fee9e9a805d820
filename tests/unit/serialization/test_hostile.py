"""Bytes from somebody who can write but has no key: a named error each, and no code run."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import struct

import msgpack
import numpy as np
import pytest

from routilux_mp._serialization.batch import Unreadable, decode_batch, encode_batch, encode_value
from routilux_mp._serialization.signing import SIGNATURE_BYTES, Signer
from routilux_mp.errors import CheckpointDamaged, KeyUnavailable, SignatureInvalid

SIGNER = Signer([b"k" * 32])
PLACE = b"job/batch/field"
NAMED = (CheckpointDamaged, SignatureInvalid, KeyUnavailable)

ran: list[str] = []


def explode() -> None:
    ran.append("boom")


class Bomb:
    def __reduce__(self):
        return explode, ()


class Thing:
    pass


@pytest.fixture(autouse=True)
def nothing_runs():
    ran.clear()
    yield
    assert ran == []


def batch_with(packed: bytes, blob: bytes = b"", signature: bytes = b"", flags: int = 2) -> bytes:
    return bytes([0x10 | flags]) + struct.pack("<QQ", len(packed), len(blob)) + packed + blob + signature


def blob_of(pickled: bytes) -> bytes:
    return struct.pack("<IQI", 1, len(pickled), 0) + pickled


def object_reference(part: int = 0, number: int = 0) -> msgpack.ExtType:
    return msgpack.ExtType(32, struct.pack(">II", part, number))


def forged(signature: bytes, pickled: bytes | None = None) -> bytes:
    blob = blob_of(pickled or pickle.dumps([Bomb()]))
    return batch_with(msgpack.packb([object_reference()]), blob, signature)


@pytest.mark.parametrize(
    "signature",
    [bytes(SIGNATURE_BYTES), SIGNER.sign(PLACE, b"other content"), b"", b"short"],
    ids=["zeros", "of something else", "none", "short"],
)
def test_a_forged_object_is_not_loaded(signature) -> None:
    with pytest.raises(NAMED):
        decode_batch(forged(signature), SIGNER, PLACE)


def test_a_pickle_is_loaded_when_the_signature_is_good_and_only_then() -> None:
    blob = blob_of(pickle.dumps([Bomb()]))
    good = SIGNER.sign(PLACE, hashlib.sha256(blob).digest())
    with pytest.raises(SignatureInvalid):
        decode_batch(forged(good), SIGNER, b"another place")
    assert ran == []
    decode_batch(forged(good), SIGNER, PLACE)
    assert ran == ["boom"]  # the test can tell
    ran.clear()


def test_the_signature_of_another_object_does_not_carry_over() -> None:
    other = encode_value(Thing(), SIGNER, PLACE)
    with pytest.raises(SignatureInvalid):
        decode_batch(forged(other[-SIGNATURE_BYTES:]), SIGNER, PLACE)


def test_objects_cannot_be_smuggled_into_plain_data() -> None:
    packed = msgpack.packb([object_reference()])
    for data in (b"\x10" + packed, b"\x11" + packed, batch_with(packed, flags=4), batch_with(packed, b"x", flags=4)):
        with pytest.raises(CheckpointDamaged):
            decode_batch(data, SIGNER, PLACE)


@pytest.mark.parametrize("reference", [(1, 0), (0, 1), (2**32 - 1, 0)])
def test_a_reference_to_an_object_that_is_not_there(reference) -> None:
    blob = blob_of(pickle.dumps([1]))
    signature = SIGNER.sign(PLACE, hashlib.sha256(blob).digest())
    with pytest.raises(CheckpointDamaged):
        decode_batch(batch_with(msgpack.packb([object_reference(*reference)]), blob, signature), SIGNER, PLACE)


def samples() -> dict[str, bytes]:
    return {
        "plain": encode_batch([{"i": n, "s": "x" * n} for n in range(9)], None, PLACE).data,
        "marked": encode_batch([(1, {2, 3}), {(4,): 5}, 2**90], None, PLACE).data,
        "objects": encode_batch([{"i": n, "o": Thing()} for n in range(3)], SIGNER, PLACE).data,
        "beside": encode_batch([{"a": np.zeros(9_000)}], None, PLACE).data,
        "all": encode_batch([{"a": np.zeros(9_000), "o": Thing(), "t": (1,)}], SIGNER, PLACE).data,
    }


@pytest.mark.parametrize("name", samples())
def test_every_cut_is_found(name) -> None:
    data = samples()[name]
    cuts = range(len(data)) if len(data) < 2_000 else [*range(400), *range(400, len(data), 1_777), len(data) - 1]
    for cut in cuts:
        with pytest.raises(NAMED):
            decode_batch(data[:cut], SIGNER, PLACE)


@pytest.mark.parametrize("name", samples())
def test_every_flipped_bit_ends_in_a_named_error_or_in_plain_data(name) -> None:
    data = samples()[name]
    for place in range(min(len(data), 300)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                items = decode_batch(bytes(flipped), SIGNER, PLACE)
            except NAMED:
                continue
            assert all(type(item) is not Unreadable for item in items)


def test_every_flipped_bit_of_an_object_is_found() -> None:
    data = encode_value(Thing(), SIGNER, PLACE)
    packed_bytes, blob_bytes = struct.unpack_from("<QQ", data, 1)
    for place in range(17 + packed_bytes, len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(NAMED):
                decode_batch(bytes(flipped), SIGNER, PLACE)
    assert blob_bytes > 0


def test_a_changed_buffer_of_an_object_is_found() -> None:
    thing = Thing()
    thing.array = np.zeros(20_000)
    data = bytearray(encode_value(thing, SIGNER, PLACE))
    assert decode_batch(bytes(data), SIGNER, PLACE)[0].array.sum() == 0
    data[-9] ^= 1
    with pytest.raises(SignatureInvalid):
        decode_batch(bytes(data), SIGNER, PLACE)


@pytest.mark.parametrize("seed", range(20))
def test_noise(seed) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        head = bytes([0x10 | chance.randrange(8)])
        data = head + chance.randbytes(chance.randrange(120))
        try:
            decode_batch(data, SIGNER, PLACE)
        except NAMED:
            continue
        assert data[0] in (0x10, 0x11)  # noise may be plain data, never more


@pytest.mark.parametrize(
    "packed",
    [
        b"\x91" * 100_000 + b"\xc0",  # nested without end
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"\xdf\xff\xff\xff\xff\xc0",
        b"\xc6\xff\xff\xff\xffabc",
        b"\xc9\xff\xff\xff\xff\x05abc",
        b"\x91" + b"\xdd\x00\x10\x00\x00" * 900,
        msgpack.packb([{"a": 1}, msgpack.ExtType(99, b"")]),
        msgpack.packb([msgpack.ExtType(5, b"\xff" * 12)]),  # a month 255
        msgpack.packb([msgpack.ExtType(6, b"")]),
        msgpack.packb([msgpack.ExtType(8, struct.pack(">iii", 2**31 - 1, 0, 0))]),
        b"\x91\xc7\x05\xff12345",  # a timestamp of five bytes
        msgpack.packb({"not": "a list"}),
        b"\x91\x81\x90\x01",  # a list as a key
        b"\xc1",
        b"\x90\x90",
    ],
    ids=range(15),
)
def test_oversized_deep_and_nonsensical_data(packed) -> None:
    for head in (b"\x10", b"\x11"):
        with pytest.raises(CheckpointDamaged):
            decode_batch(head + packed, None, b"")
    with pytest.raises(CheckpointDamaged):
        decode_batch(batch_with(packed, flags=5), None, b"")


@pytest.mark.parametrize(
    "value",
    [
        msgpack.ExtType(1, b""),
        {"a": msgpack.ExtType(2, b"")},
        [1, msgpack.ExtType(1, b"")],
        [msgpack.ExtType(1, b"x"), 1],
        {"k": [msgpack.ExtType(2, b""), [1]]},  # a set of lists
    ],
)
def test_a_mark_out_of_place(value) -> None:
    with pytest.raises(CheckpointDamaged):
        decode_batch(b"\x11" + msgpack.packb([value]), None, b"")


def test_a_mark_in_data_that_says_it_has_none() -> None:
    with pytest.raises(CheckpointDamaged):
        decode_batch(b"\x10" + msgpack.packb([[msgpack.ExtType(1, b""), 1]]), None, b"")


@pytest.mark.parametrize(
    "description",
    [
        ("O", [1], False, b"\0" * 8),
        ("|O", [1], False, b"\0" * 8),
        ("i4,O", [1], False, b"\0" * 12),
        ("<i4", [2], False, b"\0" * 4),
        ("<i4", [-1], False, b""),
        ("<i4", [2**40, 2**40], False, b""),
        ("<i4", [1.0], False, b"\0" * 4),
        ("<i4", "1", False, b"\0" * 4),
        ("<i4", [1] * 65, False, b"\0" * 4),
        ("<U9999999999", [1], False, b"\0" * 4),
        ("<i3", [1], False, b"\0" * 3),
        (7, [1], False, b"\0"),
        ("<i4",),
    ],
    ids=str,
)
def test_arrays_that_are_none(description) -> None:
    packed = msgpack.packb([msgpack.ExtType(16, msgpack.packb(description))])
    with pytest.raises(CheckpointDamaged):
        decode_batch(b"\x10" + packed, None, b"")


@pytest.mark.parametrize(("offset", "size"), [(0, 80_001), (2**63, 8), (-8, 8), (0.5, 8), (80_000, 8)])
def test_a_buffer_outside_of_the_data(offset, size) -> None:
    packed = msgpack.packb([msgpack.ExtType(17, msgpack.packb(("|u1", [size], False, offset, size)))])
    with pytest.raises(CheckpointDamaged):
        decode_batch(batch_with(packed, flags=4) + bytes(80_000), None, b"")


def test_lengths_that_reach_beyond_the_end() -> None:
    for lengths in [(2**64 - 1, 0), (0, 2**64 - 1), (2**63, 2**63), (1, 10**6)]:
        with pytest.raises(NAMED):
            decode_batch(b"\x12" + struct.pack("<QQ", *lengths) + os.urandom(64), SIGNER, PLACE)


def test_a_blob_whose_head_promises_too_much() -> None:
    for blob in (struct.pack("<I", 2**32 - 1), struct.pack("<IQI", 1, 2**63, 2**32 - 1), struct.pack("<IQI", 1, 0, 1)):
        data = batch_with(msgpack.packb([object_reference()]), blob, bytes(SIGNATURE_BYTES))
        with pytest.raises(NAMED):
            decode_batch(data, SIGNER, PLACE)
