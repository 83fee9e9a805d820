"""Blobs: large payloads in files of their own, durable before the commit that names them.

Workers put and map blobs themselves; the log carries only the `BlobRef`. The rules it owns: a blob
is written once under a name that is never used again (not its content's: a late collector could
delete what a new commit has just named), and it says at its end how long it is and what its CRC-32
is, so that every cut and every flipped bit is found when it is mapped. (What is signed in it is
digested for that; to find damage a CRC does, in a fifth of the time.)
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

from ..errors import BlobMissing, CheckpointDamaged, StorageError, UsageError
from .files import FileSystem, RealFiles, let_go
from .layout import BLOBS, check_blob_name, epoch_name
from .place import Place
from .put import Putter, blocked

# The end of a blob: magic, length and CRC-32 of the payload, CRC-32 of those. At the end, so that
# the payload begins at a page boundary when it is mapped.
_TRAILER = struct.Struct("<8sQI")
_CRC = struct.Struct("<I")
_MAGIC = b"RMPBLOB1"
TRAILER_BYTES = _TRAILER.size + _CRC.size


class BlobRef(NamedTuple):
    """What travels instead of a large payload."""

    #: "e0000007/<file>", below the job's `blobs/`.
    name: str
    size_bytes: int
    crc32: int


def make_dir(place: Place, epoch: int) -> str:
    """The path of the epoch's blob directory, which is durable on return."""
    where = place.where(BLOBS, epoch_name(epoch))
    with blocked(where):
        job = place.open_plainly()
    try:
        let_go(place.fs, place.root.putter.make_dirs(job, (BLOBS, epoch_name(epoch)), where=where))
    finally:
        let_go(place.fs, job)
    return where


def path_of(job_path: str, name: str) -> str:
    """The path of a blob, for any process that was told the job's directory."""
    return f"{job_path}/{BLOBS}/{check_blob_name(name)}"


def put_blob_file(
    blob_dir: str, name: str, chunks: Iterable[bytes | memoryview], fs: FileSystem | None = None
) -> BlobRef:
    """Write a blob into `blob_dir`; it and its name are durable on return.

    `name` must never have been used before (a random nonce and a running number).

    Raises:
        StorageBlocked: it could not be written; nothing is left of it.
    """
    fs = fs or RealFiles()
    path = f"{blob_dir}/{name}"
    full_name = check_blob_name(f"{blob_dir.rsplit('/', 1)[-1]}/{name}")
    with blocked(path):
        at = _open_or_make(fs, blob_dir)
        try:
            try:
                handle = fs.create(name, at)
            except FileExistsError:
                raise UsageError(f"a blob named {full_name} exists; blob names are used once") from None
            try:
                size, checksum = _write(fs, handle, chunks)
                fs.fsync(handle)
            except BaseException:  # also an interrupt or an error of the caller's iterable: leave no half blob
                fs.close(handle)
                fs.unlink(name, at)
                raise
            fs.close(handle)
            fs.fsync(at)
        finally:
            let_go(fs, at)
    return BlobRef(full_name, size, checksum)


def _open_or_make(fs: FileSystem, blob_dir: str) -> int:
    """Most jobs have no blobs, so it is the first one that makes the directory, durably."""
    try:
        return fs.open_root(blob_dir, create=False)
    except FileNotFoundError:
        above, _, epoch = blob_dir.rpartition("/")
        job = fs.open_root(os.path.dirname(above), create=False)
        try:
            return Putter(fs, b"").make_dirs(job, (BLOBS, epoch), where=blob_dir)
        finally:
            fs.close(job)


def _write(fs: FileSystem, handle: int, chunks: Iterable[bytes | memoryview]) -> tuple[int, int]:
    total = checksum = 0
    for chunk in chunks:
        fs.write(handle, chunk)  # type: ignore[arg-type]
        checksum = crc32(chunk, checksum)
        total += memoryview(chunk).nbytes
    trailer = _TRAILER.pack(_MAGIC, total, checksum)
    fs.write(handle, trailer + _CRC.pack(crc32(trailer)))
    return total, checksum


def map_blob(path: str, expected: BlobRef | None = None, fs: FileSystem | None = None) -> memoryview:
    """The payload of a blob, mapped, not copied; its length and checksum are checked first.

    Raises:
        CheckpointDamaged: it is missing, cut, changed, or not the one that `expected` names.
        StorageError: it cannot be read.
    """
    fs = fs or RealFiles()
    folder, _, name = path.rpartition("/")
    try:
        at = fs.open_root(folder, create=False)
        try:
            whole = fs.map(name, at)
        finally:
            let_go(fs, at)
    except FileNotFoundError:
        raise BlobMissing(f"the blob {path} is missing") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL):
            raise CheckpointDamaged(f"the blob {path} is not a regular file; it was not read") from error
        raise StorageError(f"the blob {path} cannot be read: {error.strerror or error}") from error
    size = whole.nbytes - TRAILER_BYTES
    if size < 0:
        raise CheckpointDamaged(f"the blob {path} is damaged: it is cut off")
    trailer = bytes(whole[size : size + _TRAILER.size])
    magic, length, checksum = _TRAILER.unpack(trailer)
    is_whole = magic == _MAGIC and length == size and _CRC.pack(crc32(trailer)) == whole[size + _TRAILER.size :]
    if not is_whole or crc32(whole[:size]) != checksum:
        raise CheckpointDamaged(f"the blob {path} is damaged: its end or its checksum does not match")
    if expected is not None and (size, checksum) != (expected.size_bytes, expected.crc32):
        raise CheckpointDamaged(f"the blob {path} is not the one that the log names")
    return whole[:size]
