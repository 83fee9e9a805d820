"""Files by their whole paths, for a system that cannot open one relative to a directory: Windows.

Only the inline backend runs there. The rule it owns: what it cannot promise it does not pretend. Between
looking and opening somebody may put a symbolic link in a file's place, and a directory cannot be flushed.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat

from .files import Entry, FileSystem, FileTooLarge, NotARegularFile, RealFiles
from .layout import LISTING_COUNT_MAX

#: Numbers of directories begin here, far above those of open files.
_FIRST = 1 << 30
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_CLOEXEC", 0)


def system_files(*, group_shared: bool = False) -> FileSystem:
    """The operating system's files, in the safest way that it offers."""
    return RealFiles(group_shared=group_shared) if os.open in os.supports_dir_fd else PathFiles()


class PathFiles:
    """The operating system's own files; a directory's handle stands for its path."""

    has_paths = True

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._numbers = itertools.count(_FIRST)

    def open_root(self, path: str, *, create: bool) -> int:
        if create:
            os.makedirs(path, mode=0o700, exist_ok=True)
        return self._directory(os.path.abspath(path))

    def open_dir(self, name: str, at: int) -> int:
        path = self._path(name, at)
        if os.path.islink(path):
            raise OSError(errno.ELOOP, "a symbolic link", path)
        return self._directory(path)

    def make_dir(self, name: str, at: int) -> bool:
        try:
            os.mkdir(self._path(name, at), 0o700)
        except FileExistsError:
            return False
        return True

    def names(self, at: int) -> list[str]:
        return os.listdir(self._paths[at])

    def entries(self, at: int) -> list[Entry]:
        found = []
        with os.scandir(self._paths[at]) as listing:
            for entry in itertools.islice(listing, LISTING_COUNT_MAX):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append(Entry(entry.name, stat.S_ISDIR(status.st_mode), status.st_mtime_ns))
        return found

    def create(self, name: str, at: int) -> int:
        return os.open(self._path(name, at), os.O_CREAT | os.O_EXCL | os.O_WRONLY | _BINARY, 0o600)

    def create_unnamed(self, at: int) -> int:
        raise OSError(errno.EOPNOTSUPP, "no files without a name on this system")

    def write(self, handle: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]

    def fsync(self, handle: int) -> None:
        if handle not in self._paths:
            os.fsync(handle)

    def overwrite(self, name: str, at: int, data: bytes) -> None:
        handle = self._open(name, at, os.O_WRONLY)
        try:
            self.write(handle, data)
            os.ftruncate(handle, len(data))
        finally:
            os.close(handle)

    def close(self, handle: int) -> None:
        if self._paths.pop(handle, None) is None:
            os.close(handle)

    def link(self, name: str, at: int, target: str, target_at: int) -> None:
        os.link(self._path(name, at), self._path(target, target_at))

    def link_unnamed(self, handle: int, target: str, target_at: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no files without a name on this system")

    def move(self, name: str, at: int, target: str, target_at: int) -> None:
        if os.name != "nt":  # elsewhere this would replace
            raise OSError(errno.EOPNOTSUPP, "no rename here that replaces nothing")
        os.rename(self._path(name, at), self._path(target, target_at))

    def replace(self, name: str, at: int, target: str, target_at: int) -> None:
        os.replace(self._path(name, at), self._path(target, target_at))

    def unlink(self, name: str, at: int) -> None:
        os.unlink(self._path(name, at))

    def read(self, name: str, at: int, limit_bytes: int) -> bytes:
        return self._read(name, at, 0, None, limit_bytes)

    def read_range(self, name: str, at: int, offset: int, length: int) -> bytes:
        return self._read(name, at, offset, length, None)

    def map(self, name: str, at: int) -> memoryview:
        # Read, not mapped: a mapped file could not be removed here.
        return memoryview(self._read(name, at, 0, None, None))

    def _read(self, name: str, at: int, offset: int, length: int | None, limit_bytes: int | None) -> bytes:
        with os.fdopen(self._open(name, at, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if limit_bytes is not None and size > limit_bytes:
                raise FileTooLarge(errno.EFBIG, f"{size} bytes are more than the limit of {limit_bytes}", name)
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def _open(self, name: str, at: int, flags: int) -> int:
        path = self._path(name, at)
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise NotARegularFile(errno.EINVAL, "not a regular file", name)
        return os.open(path, flags | _BINARY)

    def _path(self, name: str, at: int) -> str:
        return os.path.join(self._paths[at], name)

    def _directory(self, path: str) -> int:
        if not os.path.isdir(path):
            kind = NotADirectoryError if os.path.exists(path) else FileNotFoundError
            raise kind(errno.ENOENT, os.strerror(errno.ENOENT), path)
        number = next(self._numbers)
        self._paths[number] = path
        return number
