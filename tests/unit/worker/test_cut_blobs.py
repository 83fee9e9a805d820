"""A blob that somebody cuts while it is looked at: an error for whoever must live on, the end of a worker at most."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from routilux_mp._storage.blobs import TRAILER_BYTES
from routilux_mp._worker import spill
from routilux_mp._worker.spill import PayloadReader, Spiller
from routilux_mp.errors import CheckpointDamaged

SIZE = 100_000

#: Opens a payload, cuts its blob, and looks at it.
_LOOK = """
import os, resource, sys
from routilux_mp._worker.spill import PayloadReader
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
folder, reference, is_copying = sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3] == "True"
payload = PayloadReader(folder, is_copying=is_copying).open(reference)
for name in os.listdir(folder):
    os.truncate(os.path.join(folder, name), 0)
assert bytes(payload) == b"x" * len(payload)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job" / "blobs" / "e0000001"
    made.mkdir(parents=True)
    return made


@pytest.mark.parametrize(("is_copying", "status"), [(True, 0), (False, -signal.SIGBUS)])
def test_a_file_that_is_cut_while_it_is_looked_at(folder: Path, is_copying: bool, status: int) -> None:
    _, [reference] = Spiller().put(str(folder), [[b"x" * SIZE]])
    ended = subprocess.run(
        [sys.executable, "-c", _LOOK, str(folder), reference.hex(), str(is_copying)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == status, ended.stderr


@pytest.mark.parametrize("left", [0, 10, TRAILER_BYTES, SIZE, SIZE + TRAILER_BYTES - 1, SIZE + TRAILER_BYTES + 1])
def test_a_file_that_was_cut_or_has_grown_is_damaged(folder: Path, left: int) -> None:
    path, [reference] = Spiller().put(str(folder), [[b"x" * SIZE]])
    with open(path, "r+b") as file:
        file.truncate(left)
    with pytest.raises(CheckpointDamaged):
        PayloadReader(str(folder), is_copying=True).open(reference)


def test_what_is_copied_is_kept_for_the_next_payload_in_it_but_not_much(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "_READ_BYTES_MAX", 2 * SIZE)
    monkeypatch.setattr(spill, "_COPIED_BYTES_MAX", 3 * SIZE)
    reader = PayloadReader(str(folder), is_copying=True)
    references = [Spiller().put(str(folder), [[b"a" * SIZE], [b"b" * 5]])[1] for _ in range(6)]
    for large, small in references:
        assert bytes(reader.open(large)) == b"a" * SIZE
        for file in folder.iterdir():
            file.rename(folder / f"hidden-{file.name}")
        assert bytes(reader.open(small)) == b"b" * 5, "it is at hand"
        for file in folder.iterdir():
            file.rename(folder / file.name.removeprefix("hidden-"))
    assert sum(len(blob) for blob in reader._mapped.values()) <= 3 * SIZE
    large_one = Spiller().put(str(folder), [[b"c" * 4 * SIZE]])[1][0]
    assert bytes(reader.open(large_one)) == b"c" * 4 * SIZE, "what is larger is mapped"
