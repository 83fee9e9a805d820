"""A directory for blobs that cannot be made durable blocks whoever needs it; it is no failure of a user's handler."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from routilux_mp._storage.blobs import map_blob, put_blob_file
from routilux_mp._storage.files import RealFiles
from routilux_mp.errors import StorageBlocked
from tests.support.faulty import FaultyFiles


@pytest.mark.parametrize("nth", [1, 2])
def test_it_is_tried_again(nth: int, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    folder = f"{job}/blobs/e0000001"
    files = FaultyFiles(RealFiles(), nth, error=errno.EIO, only=lambda operation, args: operation == "fsync")
    with pytest.raises(StorageBlocked, match="Input/output error"):
        put_blob_file(folder, "a-1", [b"payload"], fs=files)
    put_blob_file(folder, "a-2", [b"payload"], fs=files)
    assert bytes(map_blob(f"{folder}/a-2")) == b"payload"


def test_a_directory_that_somebody_else_made_is_made_durable_too(tmp_path: Path) -> None:
    # Its maker may have been killed between the two: then only a power cut would show that its name was not kept.
    folder = tmp_path / "job" / "blobs" / "e0000001"
    folder.mkdir(parents=True)
    synced = 0

    def note(operation: str, args: tuple[object, ...]) -> bool:
        nonlocal synced
        synced += operation == "fsync"
        return False

    files = FaultyFiles(RealFiles(), 1, error=errno.EIO, only=note)
    put_blob_file(str(folder), "a-1", [b"payload"], fs=files)
    assert synced == 4, "the job's directory, blobs/, the file, and the epoch's directory"
    put_blob_file(str(folder), "a-2", [b"payload"], fs=files)
    assert synced == 6
