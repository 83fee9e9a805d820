"""The file format, for all inputs: what was written comes back, what was changed does not pass."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routilux_mp._storage import frames, views
from routilux_mp.errors import CheckpointDamaged

pieces = st.lists(st.binary(max_size=40), max_size=4)
contents = st.lists(st.binary(max_size=60) | pieces, max_size=6)
tokens = st.binary(min_size=16, max_size=16)


@given(contents, tokens, tokens, st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_round_trip(
    data: list[bytes | list[bytes]], owner: bytes, nonce: bytes, predecessor: bytes, number: int, kind: int
) -> None:
    raw, digest = frames.encode(kind, 7, number, owner=owner, nonce=nonce, predecessor=predecessor, frames=data)
    file = frames.decode(raw, "it")
    assert list(file.frames) == [one if isinstance(one, bytes) else b"".join(one) for one in data]
    assert file.digest == digest == hashlib.sha256(raw).digest()
    header = file.header
    assert (header.kind, header.epoch, header.number) == (kind, 7, number)
    assert (header.owner, header.nonce, header.predecessor) == (owner, nonce, predecessor)
    assert raw.startswith(frames.pack_header(header))


@given(contents, st.data())
def test_any_change_is_found(data: list[bytes | list[bytes]], draw: st.DataObject) -> None:
    raw, _ = frames.encode(2, 1, 2, owner=bytes(16), nonce=bytes(16), predecessor=bytes(32), frames=data)
    at = draw.draw(st.integers(0, len(raw) - 1))
    match draw.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
        case "flip":
            changed = raw[:at] + bytes([raw[at] ^ draw.draw(st.integers(1, 255))]) + raw[at + 1 :]
        case "cut":
            changed = raw[:at]
        case "insert":
            changed = raw[:at] + draw.draw(st.binary(min_size=1, max_size=9)) + raw[at:]
        case _:
            changed = raw + raw[at:]
    if changed != raw:
        with pytest.raises(CheckpointDamaged):
            frames.decode(changed, "it")


@given(st.binary(max_size=300))
def test_noise_is_damage_and_nothing_else(noise: bytes) -> None:
    for raw in (
        noise,
        frames.pack_header(frames.Header(2, 1, 1, 3, len(noise), bytes(16), bytes(16), bytes(32))) + noise,
    ):
        with pytest.raises(CheckpointDamaged):
            frames.decode(raw, "it")


@given(st.binary(max_size=200))
def test_noise_in_a_view_is_damage_or_somebodys_own_document(noise: bytes) -> None:
    try:
        position, document = views.unwrap(noise, "view")
    except CheckpointDamaged:
        return
    assert position is None
    assert document == noise


json_objects = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4)


@given(json_objects, st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from([None, 2]))
def test_views_round_trip(content: dict[str, object], epoch: int, commit: int, indent: int | None) -> None:
    raw = views.wrap(json.dumps(content, indent=indent).encode(), (epoch, commit))
    position, document = views.unwrap(raw, "view")
    assert position == (epoch, commit)
    assert json.loads(document) == content
    shown = json.loads(raw)  # what every other tool sees
    assert shown.pop("checkpoint") == {"epoch": epoch, "commit": commit}
    assert shown.pop("crc32")
    assert shown == {key: value for key, value in content.items() if key not in ("checkpoint", "crc32")}
