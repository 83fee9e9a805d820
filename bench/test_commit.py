"""What a commit costs on the disk, beside the system calls alone that it cannot do without.

    python -m pytest bench/test_commit.py

Both leave one more file with as many bytes: written privately, fsynced, given its name by ``link``, its directory
fsynced. They take turns, since a disk has moods. The directory is a temporary one: set TMPDIR to measure another disk.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp._storage.frames import HEADER_BYTES
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.store import Store
from routilux_mp.settings import Settings

pytestmark = pytest.mark.bench
ROUNDS = 200
RECORD = b"r" * 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path), Settings()) as store:
        yield store


def _committed(tenure: Tenure, tmp_path: Path) -> Path:
    return tmp_path / "job" / "epochs" / "e0000001" / f"c{tenure.number:08d}"


@pytest.mark.parametrize("records", [1, 1000])
def test_commit(benchmark: Any, noted: Callable[..., None], store: Store, tmp_path: Path, records: int) -> None:
    """As the supervisor's committer thread does it: frames, checksums, the digest of the predecessor, put-if-absent."""
    tenure = store.create("job", None)
    tenure.commit([RECORD] * records)
    data = _committed(tenure, tmp_path).read_bytes()
    assert len(data) > HEADER_BYTES + records * len(RECORD)
    bare = Bare(tmp_path / "bare", data)
    try:
        benchmark.pedantic(tenure.commit, ([RECORD] * records,), setup=bare.put, rounds=ROUNDS, warmup_rounds=5)
    finally:
        bare.close()
    noted("us", 1e6, beside=statistics.median(bare.seconds))
    assert _committed(tenure, tmp_path).stat().st_size == len(data)
    assert (tmp_path / "bare" / "c1").read_bytes() == data


class Bare:
    """The same bytes by the system calls alone; nothing is computed."""

    def __init__(self, folder: Path, data: bytes) -> None:
        folder.mkdir()
        self.data, self.seconds = data, list[float]()
        self._at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def put(self) -> None:
        """Put one file, and keep how long it took."""
        start = time.perf_counter()
        handle = os.open("private", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self._at)
        os.write(handle, self.data)
        os.fsync(handle)
        os.link("private", f"c{len(self.seconds) + 1}", src_dir_fd=self._at, dst_dir_fd=self._at)
        os.fsync(self._at)
        os.close(handle)
        os.unlink("private", dir_fd=self._at)
        self.seconds.append(time.perf_counter() - start)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._at)


def test_replay(benchmark: Any, noted: Callable[..., None], store: Store) -> None:
    """What recovery reads: 50 commits of 1,000 records, found, checked and taken apart."""
    tenure = store.create("job", None)
    for _ in range(50):
        tenure.commit([RECORD] * 1000)

    def read() -> int:
        return sum(1 for _ in store.read("job").frames())

    assert benchmark(read) >= 50_000
    noted("us per record", 1e6 / 50_000)
