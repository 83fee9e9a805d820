"""What encoding and decoding cost per item, and what signing an object adds: ``pytest bench/test_codec.py``.

Needs pytest-benchmark. Goal: at most 0.35 us per item each way for a batch of 256 small dictionaries.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from routilux_mp._serialization.batch import decode_batch, encode_batch
from routilux_mp._serialization.signing import Signer

SIGNER = Signer([b"k" * 32])
COUNT = 256
BATCHES = {
    "small dicts": [{"i": n % 100} for n in range(COUNT)],
    "three keys": [{"a": n, "b": str(n), "c": n * 0.5} for n in range(COUNT)],
    "tuples": [(n, n) for n in range(COUNT)],
    "100 bytes": [b"x" * 100] * COUNT,
    "objects": [{"i": Fraction(n, 7)} for n in range(COUNT)],
}


@pytest.mark.bench
@pytest.mark.parametrize("name", BATCHES)
def test_encode(benchmark, noted, name) -> None:
    benchmark(encode_batch, BATCHES[name], SIGNER, b"")
    noted("ns per item", 1e9 / COUNT)


@pytest.mark.bench
@pytest.mark.parametrize("name", BATCHES)
def test_decode(benchmark, noted, name) -> None:
    data = encode_batch(BATCHES[name], SIGNER, b"").data
    assert benchmark(decode_batch, data, SIGNER, b"") == BATCHES[name]
    noted("ns per item", 1e9 / COUNT)
