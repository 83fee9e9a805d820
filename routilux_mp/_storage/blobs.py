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
import stat
import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple
from zlib import crc32

from ..errors import BlobMissing, CheckpointDamaged, StorageError, UsageError
from .files import FileSystem, let_go
from .layout import BLOBS, check_blob_name
from .path_files import system_files
from .place import Place
from .put import blocked

# The end of a blob: magic, length and CRC-32 of the payload, CRC-32 of those. At the end, so that
# the payload begins at a page boundary when it is mapped.
_TRAILER = struct.Struct("<8sQI")
_CRC = struct.Struct("<I")
_MAGIC = b"RMPBLOB1"
#: In memory, where nothing is kept: its payload has no checksum, which would cost as much as writing it.
_MAGIC_UNCHECKED = b"RMPBLOB0"
TRAILER_BYTES = _TRAILER.size + _CRC.size


class BlobRef(NamedTuple):
    """What travels instead of a large payload."""

    #: "e0000007/<file>", below the job's `blobs/`.
    name: str
    size_bytes: int
    crc32: int


def make_dir(place: Place, folder: str) -> None:
    """The directory `folder` of the job's blobs, whether it is there already or not; its name is durable on return.

    Raises:
        StorageBlocked: it could not be made.
        OutcomeUnknown: its name may be durable or not, and no later fsync would tell.
    """
    where = place.where(BLOBS, folder)
    with blocked(where):
        job = place.open_plainly()
    try:
        let_go(place.fs, place.root.putter.make_dirs(job, (BLOBS, folder), where=where))
    finally:
        let_go(place.fs, job)


def path_of(job_path: str, name: str) -> str:
    """The path of a blob, for any process that was told the job's directory."""
    return f"{job_path}/{BLOBS}/{check_blob_name(name)}"


def put_blob_file(
    blob_dir: str, name: str, chunks: Iterable[bytes | memoryview], fs: FileSystem | None = None
) -> BlobRef:
    """Write a blob into `blob_dir`; it and its name in there are durable on return.

    `name` must never have been used before (a random nonce and a running number). That the directory's own name is
    durable is seen to by the job's owner, before the commit that names the blob (`make_dir`): when that fails it has to
    give the job up, and nobody else can.

    Raises:
        StorageBlocked: it could not be written, and is not used.
    """
    ref, make_durable = begin_blob_file(blob_dir, name, chunks, fs)
    make_durable()
    return ref


def begin_blob_file(
    blob_dir: str, name: str, chunks: Iterable[bytes | memoryview], fs: FileSystem | None = None,
    *, is_checked: bool = True,
) -> tuple[BlobRef, Callable[[], None]]:  # fmt: skip
    """As `put_blob_file`, in two steps: once this returns `chunks` may change; what it returns waits for the disk.

    That is to be called once, by whichever thread, and raises as this does. Without `is_checked` damage of the payload
    is not found: for what lies in memory only.
    """
    fs = fs or _files_for(blob_dir)
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
                size, checksum = _write(fs, handle, chunks, is_checked)
            except BaseException:  # also an interrupt or an error of the caller's iterable: leave no half blob
                fs.close(handle)
                fs.unlink(name, at)
                raise
        except BaseException:
            let_go(fs, at)
            raise
    return BlobRef(full_name, size, checksum), partial(_make_durable, fs, at, name, handle, path)


def _make_durable(fs: FileSystem, at: int, name: str, handle: int, path: str) -> None:
    with blocked(path):
        try:
            try:
                try:
                    fs.fsync(handle)
                finally:
                    fs.close(handle)
                fs.fsync(at)
            except OSError:
                # Neither is tried again: who still wants it writes it anew, under another name.
                fs.unlink(name, at)
                raise
        finally:
            let_go(fs, at)


def _open_or_make(fs: FileSystem, blob_dir: str) -> int:
    """Most jobs have no blobs, so it is the first one that makes the directory; the job's owner makes it durable."""
    try:
        return _open_folder(fs, blob_dir)
    except FileNotFoundError:
        pass
    above, _, epoch = blob_dir.rpartition("/")
    handle = fs.open_root(os.path.dirname(above), create=False)
    for name in (BLOBS, epoch):
        try:
            fs.make_dir(name, handle)
            child = fs.open_dir(name, handle)
        finally:
            let_go(fs, handle)
        handle = child
    return handle


def _write(
    fs: FileSystem, handle: int, chunks: Iterable[bytes | memoryview], is_checked: bool
) -> tuple[int, int]:  # fmt: skip
    total = checksum = 0
    for chunk in chunks:
        fs.write(handle, chunk)  # type: ignore[arg-type]
        if is_checked:
            checksum = crc32(chunk, checksum)
        total += memoryview(chunk).nbytes
    trailer = _TRAILER.pack(_MAGIC if is_checked else _MAGIC_UNCHECKED, total, checksum)
    fs.write(handle, trailer + _CRC.pack(crc32(trailer)))
    return total, checksum


def map_blob(
    path: str, expected: BlobRef | None = None, fs: FileSystem | None = None, *, read_bytes_max: int = 0
) -> memoryview:
    """The payload of a blob, mapped, not copied; its length and checksum are checked first.

    One that is expected and no larger than `read_bytes_max` is copied: whoever cuts a file that is mapped ends the
    process that looks at it.

    Raises:
        CheckpointDamaged: it is missing, cut, changed, or not the one that `expected` names.
        StorageError: it cannot be read.
    """
    folder, _, name = path.rpartition("/")
    fs = fs or _files_for(folder)
    try:
        at = _open_folder(fs, folder)
        try:
            if expected is None or expected.size_bytes > read_bytes_max:
                whole = fs.map(name, at)
            else:  # one byte more than there may be, so that something after the end is seen
                whole = memoryview(fs.read_range(name, at, 0, expected.size_bytes + TRAILER_BYTES + 1))
        finally:
            let_go(fs, at)
    except FileNotFoundError:
        raise BlobMissing(f"the blob {path} is missing") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.ENOTDIR):
            raise CheckpointDamaged(f"the blob {path} is not a regular file; it was not read") from error
        raise StorageError(f"the blob {path} cannot be read: {error.strerror or error}") from error
    size = whole.nbytes - TRAILER_BYTES
    if size < 0:
        raise CheckpointDamaged(f"the blob {path} is damaged: it is cut off")
    # What costs nothing first: the whole of it is read only when its length is the one that is expected.
    trailer = bytes(whole[size : size + _TRAILER.size])
    magic, length, checksum = _TRAILER.unpack(trailer)
    is_blob = magic in (_MAGIC, _MAGIC_UNCHECKED) and length == size
    if not is_blob or _CRC.pack(crc32(trailer)) != whole[size + _TRAILER.size :]:
        raise CheckpointDamaged(f"the blob {path} is damaged: its end does not match")
    if expected is not None and (size, checksum) != (expected.size_bytes, expected.crc32):
        raise CheckpointDamaged(f"the blob {path} is not the one that the log names")
    if magic == _MAGIC and crc32(whole[:size]) != checksum:
        raise CheckpointDamaged(f"the blob {path} is damaged: its checksum does not match")
    return whole[:size]


def _files_for(blob_dir: str) -> FileSystem:
    """For a process that knows no more than this path: a job is shared with a group if its owner made it so."""
    try:
        is_shared = bool(os.stat(os.path.dirname(os.path.dirname(blob_dir))).st_mode & stat.S_IWGRP)
    except OSError:
        is_shared = False  # whatever it is, opening it says so
    return system_files(group_shared=is_shared)


def _open_folder(fs: FileSystem, blob_dir: str) -> int:
    """The directory; below the checkpoint root no symbolic link is followed."""
    root, *names = blob_dir.rsplit("/", 3)
    handle = fs.open_root(root or "/", create=False)
    for name in names:
        try:
            child = fs.open_dir(name, handle)
        finally:
            let_go(fs, handle)
        handle = child
    return handle
