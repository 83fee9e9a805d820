"""Payloads from the hands of one handler to those of the next: values, arrays, and what is spilled to a blob.

    python -m pytest bench/test_payload.py

A batch as the worker makes it (``encode_batch``), and as the next one reads it; arrays are written to a blob and mapped
again, as they are when they are too large for a message. ``test_codec.py`` has the kinds of small values.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from routilux_mp._serialization.batch import decode_batch, encode_batch, encode_in_pieces
from routilux_mp._serialization.signing import Signer
from routilux_mp._storage.blobs import begin_blob_file, map_blob, put_blob_file

np = pytest.importorskip("numpy", reason="the payloads are numpy arrays")

pytestmark = pytest.mark.bench
SIGNER = Signer([b"k" * 32])
Note = Callable[..., None]
COUNT = 256
PLAIN: dict[str, list[Any]] = {
    "small dicts": [{"i": n} for n in range(COUNT)],
    "nested": [{"name": f"n{n}", "at": (n, n + 1), "tags": ["a", {"b": [n, None, True]}]} for n in range(COUNT)],
    "1 KiB bytes": [bytes(1024)] * COUNT,
}
SIZES = {"1 MB": 1_000_000, "10 MB": 10_000_000}
size = pytest.mark.parametrize("size", SIZES)
plain = pytest.mark.parametrize("kind", PLAIN)


def _blobs(job: Path) -> Path:
    """Where the blobs of a job's first epoch are."""
    folder = job / "blobs" / "e0000001"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory where the payloads of a job go that keeps nothing."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm here")
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as folder:
        yield Path(folder)


def _array(size: str) -> Any:
    return np.arange(SIZES[size] // 8, dtype=np.float64)


@plain
def test_encode_values(benchmark: Any, noted: Note, kind: str) -> None:
    encoded = benchmark(encode_batch, PLAIN[kind], SIGNER, b"")
    noted("ns per item", 1e9 / COUNT)
    assert encoded.count == COUNT


@plain
def test_decode_values(benchmark: Any, noted: Note, kind: str) -> None:
    data = encode_batch(PLAIN[kind], SIGNER, b"").data
    assert benchmark(decode_batch, data, SIGNER, b"") == PLAIN[kind]
    noted("ns per item", 1e9 / COUNT)


@size
def test_encode_array(benchmark: Any, noted: Note, size: str) -> None:
    """Not put together: the array's own memory is one of the pieces, so that its size should not matter."""
    array = _array(size)
    pieces = benchmark(encode_in_pieces, [{"x": array}], SIGNER, b"")
    noted("us", 1e6)
    assert sum(memoryview(piece).nbytes for piece in pieces) >= array.nbytes


@size
def test_decode_array(benchmark: Any, noted: Note, size: str) -> None:
    """From a mapped batch: the array shares its memory."""
    array = _array(size)
    data = memoryview(encode_batch([{"x": array}], SIGNER, b"").data)
    [found] = benchmark(decode_batch, data, SIGNER, b"")
    noted("us", 1e6)
    assert np.array_equal(found["x"], array)
    assert not found["x"].flags.owndata


@size
def test_copy_array(benchmark: Any, noted: Note, size: str) -> None:
    """The reference: one copy in memory."""
    array = _array(size)
    assert benchmark(array.copy).nbytes == array.nbytes
    noted("us per MB", 1e6 / (SIZES[size] / 1e6))


@size
def test_spill_durably(benchmark: Any, noted: Note, tmp_path: Path, size: str) -> None:
    """Encoded and written to a blob with a checksum; it and its name are durable."""
    _spill(benchmark, noted, _blobs(tmp_path), size, is_kept=True)


@size
def test_spill_to_memory(benchmark: Any, noted: Note, in_memory: Path, size: str) -> None:
    """Encoded and written to a blob in shared memory, as with ``durability="none"``."""
    _spill(benchmark, noted, _blobs(in_memory), size, is_kept=False)


def _spill(benchmark: Any, noted: Note, folder: Path, size: str, is_kept: bool) -> None:
    array, numbers = _array(size), count(1)

    def spill() -> Path:
        name = f"b{next(numbers)}"
        pieces = encode_in_pieces([{"x": array}], SIGNER, b"")
        begin_blob_file(str(folder), name, pieces, is_checked=is_kept)[1]()
        return folder / name

    def emptied() -> None:
        for path in folder.iterdir():  # what was written does not fill the disk
            path.unlink()

    path = benchmark.pedantic(spill, setup=emptied, rounds=20, warmup_rounds=2)
    noted("us per MB", 1e6 / (SIZES[size] / 1e6))
    assert path.stat().st_size > array.nbytes


@size
def test_map_array(benchmark: Any, noted: Note, tmp_path: Path, size: str) -> None:
    """A blob mapped, its checksum verified, decoded: what the next worker pays before the handler runs."""
    array, folder = _array(size), _blobs(tmp_path)
    ref = put_blob_file(str(folder), "b1", encode_in_pieces([{"x": array}], SIGNER, b""))

    def mapped() -> Any:
        [item] = decode_batch(map_blob(str(folder / "b1"), ref), SIGNER, b"")
        return item["x"]

    assert np.array_equal(benchmark(mapped), array)
    noted("us per MB", 1e6 / (SIZES[size] / 1e6))
