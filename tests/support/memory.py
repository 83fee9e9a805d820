"""An in-memory file system with the semantics of a POSIX one, as far as a checkpoint can tell.

File data counts as durable after an fsync of the file, names after an fsync of their directory;
`after_power_cut` gives the file system as a disk could show it after a cut that lost everything else.
Every open handle is known, so that a test can say that none was left open.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from dataclasses import dataclass, field

from routilux_mp._storage.files import Entry, FileTooLarge, NotARegularFile


@dataclass
class File:
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


@dataclass
class Symlink:
    target: str


@dataclass
class Dir:
    names: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    mtime_ns: int = 0


Node = File | Dir | Symlink


class MemoryFiles:
    """One host's view of one disk. Thread-safe."""

    has_paths = False
    #: Whether a file can be made without a name (`O_TMPFILE`), whether `link` works at all, and `move`.
    can_unnamed = True
    can_link = True
    can_move = True

    def __init__(self, root: Dir | None = None) -> None:
        self.root = root if root is not None else Dir()
        self.handles: dict[int, Node] = {}
        self._next = itertools.count(3)
        self._time = itertools.count(1)
        self._lock = threading.RLock()

    # -- what FileSystem asks for ---------------------------------------------------------------

    def open_root(self, path: str, *, create: bool) -> int:
        with self._lock:
            at = self.root
            for name in path.strip("/").split("/"):
                if name not in at.names:
                    if not create:
                        raise _error(errno.ENOENT, path)
                    at.names[name] = at.durable[name] = Dir()
                child = at.names[name]
                if not isinstance(child, Dir):
                    raise _error(errno.ENOTDIR, path)
                at = child
            return self._open(at)

    def open_dir(self, name: str, at: int) -> int:
        with self._lock:
            node = self._node(name, at)
            if isinstance(node, Symlink):
                raise _error(errno.ELOOP, name)
            if not isinstance(node, Dir):
                raise _error(errno.ENOTDIR, name)
            return self._open(node)

    def make_dir(self, name: str, at: int) -> bool:
        with self._lock:
            if name in self._dir(at).names:
                return False
            self._add(at, name, Dir())
            return True

    def names(self, at: int) -> list[str]:
        with self._lock:
            return list(self._dir(at).names)

    def entries(self, at: int) -> list[Entry]:
        with self._lock:
            return [
                Entry(name, isinstance(node, Dir), node.mtime_ns if isinstance(node, Dir) else 0)
                for name, node in self._dir(at).names.items()
            ]

    def create(self, name: str, at: int) -> int:
        with self._lock:
            if name in self._dir(at).names:
                raise _error(errno.EEXIST, name)
            file = File()
            self._add(at, name, file)
            return self._open(file)

    def create_unnamed(self, at: int) -> int:
        with self._lock:
            self._dir(at)
            if not self.can_unnamed:
                raise _error(errno.EOPNOTSUPP, "O_TMPFILE")
            return self._open(File())

    def write(self, handle: int, data: bytes) -> None:
        with self._lock:
            self._file(handle).data += data

    def fsync(self, handle: int) -> None:
        with self._lock:
            node = self.handles[handle]
            if isinstance(node, Dir):
                node.durable = dict(node.names)
            elif isinstance(node, File):
                node.durable = bytes(node.data)

    def overwrite(self, name: str, at: int, data: bytes) -> None:
        with self._lock:
            node = self._node(name, at)
            if not isinstance(node, File):
                raise NotARegularFile(errno.EINVAL, "not a regular file", name)
            node.data[:] = data

    def close(self, handle: int) -> None:
        with self._lock:
            del self.handles[handle]

    def link(self, name: str, at: int, target: str, target_at: int) -> None:
        with self._lock:
            self._link(self._node(name, at), target, target_at)

    def link_unnamed(self, handle: int, target: str, target_at: int) -> None:
        with self._lock:
            self._link(self._file(handle), target, target_at)

    def move(self, name: str, at: int, target: str, target_at: int) -> None:
        with self._lock:
            node = self._node(name, at)
            if not self.can_move:
                raise _error(errno.EINVAL, target)
            if target in self._dir(target_at).names:
                raise _error(errno.EEXIST, target)
            del self._dir(at).names[name]
            self._add(target_at, target, node)

    def replace(self, name: str, at: int, target: str, target_at: int) -> None:
        with self._lock:
            node = self._node(name, at)
            del self._dir(at).names[name]
            self._add(target_at, target, node)

    def unlink(self, name: str, at: int) -> None:
        with self._lock:
            self._node(name, at)
            del self._dir(at).names[name]

    def read(self, name: str, at: int, limit_bytes: int) -> bytes:
        data = self._regular(name, at)
        if len(data) > limit_bytes:
            raise FileTooLarge(errno.EFBIG, "too large", name)
        return data

    def read_range(self, name: str, at: int, offset: int, length: int) -> bytes:
        return self._regular(name, at)[offset : offset + length]

    def map(self, name: str, at: int) -> memoryview:
        return memoryview(self._regular(name, at))

    # -- what tests ask for -----------------------------------------------------------------------

    def node(self, path: str) -> Node:
        """What is at `path`; KeyError when nothing is."""
        node: Node = self.root
        for name in path.strip("/").split("/"):
            assert isinstance(node, Dir)
            node = node.names[name]
        return node

    def files(self, path: str = "") -> dict[str, bytes]:
        """All regular files below `path`, by path."""
        start = self.node(path) if path else self.root
        assert isinstance(start, Dir)
        found: dict[str, bytes] = {}
        for name, node in start.names.items():
            here = f"{path}/{name}" if path else name
            if isinstance(node, File):
                found[here] = bytes(node.data)
            elif isinstance(node, Dir):
                found.update(self.files(here))
        return found

    def set(self, path: str, data: bytes) -> None:
        """Change a file behind the store's back."""
        folder, _, name = path.rpartition("/")
        parent = self.node(folder)
        assert isinstance(parent, Dir)
        parent.names[name] = File(bytearray(data), data)

    def after_power_cut(self) -> MemoryFiles:
        """Only what was fsynced: data of files, names in directories."""
        return type(self)(_durable(self.root))

    # -- inside ---------------------------------------------------------------------------------------

    def _open(self, node: Node) -> int:
        handle = next(self._next)
        self.handles[handle] = node
        return handle

    def _dir(self, at: int) -> Dir:
        node = self.handles[at]
        assert isinstance(node, Dir)
        return node

    def _file(self, handle: int) -> File:
        node = self.handles[handle]
        assert isinstance(node, File)
        return node

    def _node(self, name: str, at: int) -> Node:
        try:
            return self._dir(at).names[name]
        except KeyError:
            raise _error(errno.ENOENT, name) from None

    def _regular(self, name: str, at: int) -> bytes:
        with self._lock:
            node = self._node(name, at)
            if isinstance(node, Symlink):
                raise _error(errno.ELOOP, name)
            if not isinstance(node, File):
                raise NotARegularFile(errno.EINVAL, "not a regular file", name)
            return bytes(node.data)

    def _link(self, node: Node, target: str, target_at: int) -> None:
        if not self.can_link:
            raise _error(errno.EPERM, target)
        if target in self._dir(target_at).names:
            raise _error(errno.EEXIST, target)
        self._add(target_at, target, node)

    def _add(self, at: int, name: str, node: Node) -> None:
        parent = self._dir(at)
        parent.names[name] = node
        parent.mtime_ns = next(self._time)


def _durable(node: Dir) -> Dir:
    kept: dict[str, Node] = {}
    for name, child in node.durable.items():
        match child:
            case Dir():
                kept[name] = _durable(child)
            case File(durable=durable):
                kept[name] = File(bytearray(durable), durable)
            case Symlink():
                kept[name] = child
    return Dir(kept, dict(kept))


def _error(number: int, name: str) -> OSError:
    return OSError(number, os.strerror(number), name)
