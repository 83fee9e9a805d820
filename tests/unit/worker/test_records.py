"""Reading what a job has done, also when what it was done with is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.records import Completed
from routilux_mp._core.stimuli import Emit
from routilux_mp._core.topology import RoutineSpec, Topology
from routilux_mp._serialization.batch import decode_batch, encode_batch
from routilux_mp._serialization.places import emission_place
from routilux_mp._worker.records import history_of, results_of
from routilux_mp._worker.spill import PayloadReader, Spiller
from routilux_mp.errors import BlobMissing, CheckpointDamaged

TOPOLOGY = Topology("f", "concurrent", (RoutineSpec("r", "R", (), ("out",)),), ())
PLACE = emission_place("j", "r", "out")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job" / "blobs" / "e0000001"
    made.mkdir(parents=True)
    return made


def _records(folder: Path) -> list[Any]:
    """Two commits: three emissions in a blob, then one that is in the log."""
    large = encode_batch([{"n": n, "data": b"x" * 1000} for n in range(3)], None, PLACE).data
    _, [reference] = Spiller().put(str(folder), [[large]])
    small = encode_batch([{"n": 3}], None, PLACE).data
    batches = [Batch(3, reference), Batch(1, small)]
    return [Completed(n, 0, (n, 1), (Emit(0, batch),)) for n, batch in enumerate(batches)]


def _history(folder: Path, records: list[Any]) -> list[dict[str, Any]]:
    reader = PayloadReader(str(folder))

    def decode(batch: Batch, place: bytes) -> list[Any]:
        return decode_batch(reader.open(batch.data or b""), None, place)

    return [item.data for item in history_of("j", TOPOLOGY, records, decode, lambda data, place: None)]


def test_the_history_says_what_emissions_were_whose_blob_is_gone(folder: Path) -> None:
    records = _records(folder)
    assert [item.get("n") for item in _history(folder, records)] == [0, 1, 2, 3]
    for file in folder.iterdir():
        file.unlink()
    *gone, last = _history(folder, records)
    assert last == {"n": 3}
    assert len(gone) == 3
    assert all(item["size_bytes"] > 3000 and item["of"] == 3 and item["blob"].startswith("e0000001/") for item in gone)

    def missing(batch: Batch, place: bytes) -> list[Any]:
        raise BlobMissing("gone")

    with pytest.raises(BlobMissing):  # results are never let go: this one is lost
        list(results_of("j", TOPOLOGY, 0, 0, records, missing, lambda data, place: None))


def test_a_damaged_blob_is_not_taken_for_one_that_is_gone(folder: Path) -> None:
    records = _records(folder)
    for file in folder.iterdir():
        file.write_bytes(b"\xff" + file.read_bytes()[1:])
    with pytest.raises(CheckpointDamaged, match="damaged"):
        _history(folder, records)
