"""The seam to the operating system: every operation on a checkpoint goes through a `FileSystem`.

Not here: any protocol. `RealFiles` is the real one; tests put an in-memory one and a faulty one in
its place, so that the k-th operation can be made to fail. The rules it owns: files are opened
relative to a directory descriptor, never through a symbolic link, never inherited by a child
process, and only when they are regular files; a directory of another user is refused; directories are 0700
and files 0600 whatever the umask, or, where the operator shares the root with a group, 2770 and 0660.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import stat
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import NamedTuple, Protocol

from .layout import LISTING_COUNT_MAX

_log = logging.getLogger(__name__)

# Windows has none of these, and `path_files` in place of `RealFiles`; but this module can be imported there.
_NOFOLLOW, _CLOEXEC, _NONBLOCK = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"))
_DIR_FLAGS = os.O_RDONLY | _CLOEXEC | getattr(os, "O_DIRECTORY", 0)
_CREATE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NOFOLLOW | _CLOEXEC
# O_NONBLOCK: opening a FIFO that somebody put in a file's place must not hang.
_READ_FLAGS = os.O_RDONLY | _NOFOLLOW | _CLOEXEC | _NONBLOCK
_TMPFILE = getattr(os, "O_TMPFILE", 0)


class NotARegularFile(OSError):
    """Something that is not a regular file stands where a checkpoint file should be."""


class FileTooLarge(OSError):
    """The file is larger than the limit for its kind."""


class ForeignOwner(OSError):
    """The directory belongs to somebody else."""


class Entry(NamedTuple):
    """One line of a directory listing."""

    name: str
    is_dir: bool
    mtime_ns: int


class FileSystem(Protocol):
    """What a checkpoint needs of an operating system. Handles are small integers; errors are OSErrors."""

    #: Whether `FileLock` can be used on its paths (an in-memory file system has none).
    has_paths: bool

    def open_root(self, path: str, *, create: bool) -> int: ...
    def open_dir(self, name: str, at: int) -> int: ...
    def make_dir(self, name: str, at: int) -> bool: ...
    def names(self, at: int) -> list[str]: ...
    def entries(self, at: int) -> list[Entry]: ...
    def create(self, name: str, at: int) -> int: ...
    def create_unnamed(self, at: int) -> int: ...
    def write(self, handle: int, data: bytes) -> None: ...
    def fsync(self, handle: int) -> None: ...
    def overwrite(self, name: str, at: int, data: bytes) -> None: ...
    def close(self, handle: int) -> None: ...
    def link(self, name: str, at: int, target: str, target_at: int) -> None: ...
    def link_unnamed(self, handle: int, target: str, target_at: int) -> None: ...
    def move(self, name: str, at: int, target: str, target_at: int) -> None: ...
    def replace(self, name: str, at: int, target: str, target_at: int) -> None: ...
    def unlink(self, name: str, at: int) -> None: ...
    def read(self, name: str, at: int, limit_bytes: int) -> bytes: ...
    def read_range(self, name: str, at: int, offset: int, length: int) -> bytes: ...
    def map(self, name: str, at: int) -> memoryview: ...


class RealFiles:
    """The operating system's own files."""

    has_paths = True

    def __init__(self, *, group_shared: bool = False) -> None:
        """``group_shared``: what belongs to another user and to a group of this one is good, too."""
        self._is_shared = group_shared
        self._dir_mode, self._file_mode = (0o2770, 0o660) if group_shared else (0o700, 0o600)
        self._fixes_modes = group_shared or _umask_takes_owner_bits()

    def open_root(self, path: str, *, create: bool) -> int:
        """The checkpoint root; the operator named it, so it may be reached through symbolic links."""
        if create and not os.path.isdir(path):
            parent = os.path.dirname(os.path.abspath(path))
            os.makedirs(parent, exist_ok=True)
            try:
                os.mkdir(path, self._dir_mode)
                if self._fixes_modes:
                    os.chmod(path, self._dir_mode)
            except FileExistsError:
                pass  # another process made it at the same moment; opening it tells whether it is a directory
            above = os.open(parent, _DIR_FLAGS)
            try:
                os.fsync(above)
            finally:
                os.close(above)
        return self._owned(os.open(path, _DIR_FLAGS), path)

    def open_dir(self, name: str, at: int) -> int:
        return self._owned(os.open(name, _DIR_FLAGS | _NOFOLLOW, dir_fd=at), name)

    def _owned(self, handle: int, name: str) -> int:
        """The open directory; closed, and refused, if another user could have put anything into it."""
        status, me = os.fstat(handle), os.geteuid()
        if status.st_uid == me or (self._is_shared and status.st_gid in (os.getegid(), *os.getgroups())):
            return handle
        os.close(handle)
        text = f"it belongs to user {status.st_uid} and group {status.st_gid}, and this process is user {me}"
        cure = "" if self._is_shared else "; if a group is to share it, say so with the setting group_shared"
        raise ForeignOwner(errno.EACCES, text + cure, name)

    def make_dir(self, name: str, at: int) -> bool:
        """True when the directory is new, False when something of that name was there."""
        try:
            os.mkdir(name, self._dir_mode, dir_fd=at)
        except FileExistsError:
            return False
        if self._fixes_modes:
            os.chmod(name, self._dir_mode, dir_fd=at)
        return True

    def names(self, at: int) -> list[str]:
        """A fresh listing. The directory is opened anew: that makes a network client look again."""
        handle = os.open(".", _DIR_FLAGS, dir_fd=at)
        try:
            with os.scandir(handle) as listing:
                found = [entry.name for entry in islice(listing, LISTING_COUNT_MAX + 1)]
        finally:
            os.close(handle)
        if len(found) > LISTING_COUNT_MAX:
            raise FileTooLarge(errno.EFBIG, f"more than {LISTING_COUNT_MAX:,} names in one directory")
        return found

    def entries(self, at: int) -> list[Entry]:
        """A listing with kinds and times; what vanishes meanwhile is left out."""
        found = []
        with os.scandir(at) as listing:
            for entry in islice(listing, LISTING_COUNT_MAX):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append(Entry(entry.name, stat.S_ISDIR(status.st_mode), status.st_mtime_ns))
        return found

    def create(self, name: str, at: int) -> int:
        return self._private(os.open(name, _CREATE_FLAGS, self._file_mode, dir_fd=at))

    def create_unnamed(self, at: int) -> int:
        """A file without a name, given one by `link_unnamed`; a killed writer leaves nothing behind."""
        if not _TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE on this system")
        return self._private(os.open(".", _TMPFILE | os.O_WRONLY | _CLOEXEC, self._file_mode, dir_fd=at))

    def _private(self, handle: int) -> int:
        if self._fixes_modes:
            os.fchmod(handle, self._file_mode)
        return handle

    def write(self, handle: int, data: bytes) -> None:
        written = os.write(handle, data)
        if written != len(data):  # a signal, or more than the kernel takes at once
            rest = memoryview(data)[written:]
            while rest:
                rest = rest[os.write(handle, rest) :]

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def overwrite(self, name: str, at: int, data: bytes) -> None:
        """Write over a file that is there, in place: for heartbeats, where a torn one does no harm."""
        handle = os.open(name, os.O_WRONLY | _NOFOLLOW | _CLOEXEC | _NONBLOCK, dir_fd=at)
        try:
            _regular_size(handle, name)
            self.write(handle, data)
            os.ftruncate(handle, len(data))
        finally:
            os.close(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def link(self, name: str, at: int, target: str, target_at: int) -> None:
        os.link(name, target, src_dir_fd=at, dst_dir_fd=target_at, follow_symlinks=False)

    def link_unnamed(self, handle: int, target: str, target_at: int) -> None:
        os.link(f"/proc/self/fd/{handle}", target, dst_dir_fd=target_at, follow_symlinks=True)

    def move(self, name: str, at: int, target: str, target_at: int) -> None:
        """Rename, unless something is there under the new name: FileExistsError, and the system decides."""
        import ctypes  # only where there are no hard links

        rename, flag = _rename_that_replaces_nothing()
        if rename(at, os.fsencode(name), target_at, os.fsencode(target), flag):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)

    def replace(self, name: str, at: int, target: str, target_at: int) -> None:
        os.replace(name, target, src_dir_fd=at, dst_dir_fd=target_at)

    def unlink(self, name: str, at: int) -> None:
        os.unlink(name, dir_fd=at)

    def read(self, name: str, at: int, limit_bytes: int) -> bytes:
        """The whole file. Shorter than its size says is for the caller's checksums to find."""
        handle = os.open(name, _READ_FLAGS, dir_fd=at)
        try:
            size = _regular_size(handle, name)
            if size > limit_bytes:
                raise FileTooLarge(errno.EFBIG, f"{size} bytes are more than the limit of {limit_bytes}", name)
            data = os.read(handle, size + 1)
            while 0 < len(data) < size:
                more = os.read(handle, size - len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(handle)

    def read_range(self, name: str, at: int, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer at the end of the file."""
        handle = os.open(name, _READ_FLAGS, dir_fd=at)
        try:
            available = max(0, _regular_size(handle, name) - offset)
            parts = []
            length = min(length, available)
            while length:
                part = os.pread(handle, length, offset)
                if not part:
                    break
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
            return b"".join(parts)
        finally:
            os.close(handle)

    def map(self, name: str, at: int) -> memoryview:
        """The file's bytes, mapped read-only for as long as the view lives."""
        handle = os.open(name, _READ_FLAGS, dir_fd=at)
        try:
            size = _regular_size(handle, name)
            return memoryview(mmap.mmap(handle, size, access=mmap.ACCESS_READ)) if size else memoryview(b"")
        finally:
            os.close(handle)


def let_go(fs: FileSystem, directory: int) -> None:
    """Close a directory. It was only read or fsynced, so a failure loses nothing and hides no other error."""
    try:
        fs.close(directory)
    except OSError as error:
        _log.debug("directory not closed", extra={"error": str(error)})


def _regular_size(handle: int, name: str) -> int:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise NotARegularFile(errno.EINVAL, "not a regular file", name)
    return status.st_size


@cache
def _rename_that_replaces_nothing() -> tuple[Callable[[int, bytes, int, bytes, int], int], int]:
    """The C library's, and its flag; Python has none."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    for name, flag in (("renameat2", 1), ("renameatx_np", 4)):  # Linux: RENAME_NOREPLACE; macOS: RENAME_EXCL
        if hasattr(library, name):
            function = library[name]
            function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
            return function, flag
    raise OSError(errno.EOPNOTSUPP, "no rename here that replaces nothing")


def _umask_takes_owner_bits() -> bool:
    """Whether new files must be given their mode explicitly: nearly never, and a call saved per file.

    `os.umask` could only be read by setting it, for all threads at once.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return bool(int(line.split()[1], 8) & 0o700)
    except OSError:
        pass  # no /proc: set the modes explicitly
    return True
