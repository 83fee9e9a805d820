"""One host's view of a shared disk over a network: stale caches, lost replies, full disks, I/O errors.

Not here: who runs when (`turns`), what a process does. The rule it owns: the server (`MemoryFiles`)
is never wrong about what `link` and `mkdir` find there, and a host is wrong about everything else
for as long as its caches live: names that it once saw missing, files that it once saw, listings.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple, Protocol

from routilux_mp._storage.files import Entry, FileTooLarge
from tests.support.memory import Dir, File, MemoryFiles, Node

#: How long an NFS client was seen to go on believing that a name is missing, seconds.
CACHE_S = 29.0
#: How old a listing was seen to be although the directory was opened anew, seconds.
LISTING_S = 1.5

_BEFORE = {
    "create": (errno.ENOSPC, errno.EDQUOT, errno.EIO),
    "create_unnamed": (errno.ENOSPC, errno.EDQUOT, errno.EIO),
    "write": (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG),
    "fsync": (errno.EIO, errno.ESTALE),
    "open_dir": (errno.EIO, errno.ESTALE),
    "read": (errno.EIO, errno.ESTALE),
    "read_range": (errno.EIO, errno.ESTALE),
    "names": (errno.EIO,),
    "unlink": (errno.EIO,),
}


class World(Protocol):
    """What a host needs to know of the simulation around it."""

    random: Random
    now: float
    fault_share: float
    #: Counted by the hosts: how often they answered wrongly, and how often an operation failed.
    stale_answers: int
    faults: int

    def turn(self, process: Any) -> None:
        """A file system call of `process` begins; others may run first. Raises Crashed when it is dead."""

    def before_link(self, process: Any, name: str) -> None:
        """A file is about to get its name."""

    def placed(self, name: str, raw: bytes) -> None:
        """A file got its name."""


class _Seen(NamedTuple):
    node: Node | None
    until: float


class Caches:
    """What one host's kernel remembers; it outlives the processes that run there."""

    def __init__(self) -> None:
        self.names: dict[int, dict[str, _Seen]] = {}
        self.listings: dict[int, tuple[list[str], float]] = {}

    def forget(self, directory: Node, name: str) -> None:
        self.names.get(id(directory), {}).pop(name, None)


class HostFiles:
    """The `FileSystem` of one process on one host."""

    has_paths = False

    def __init__(self, disk: MemoryFiles, world: World, process: Any, caches: Caches) -> None:
        self._disk = disk
        self._world = world
        self._process = process
        self._caches = caches

    # -- changes: the server decides ------------------------------------------------------------------

    def open_root(self, path: str, *, create: bool) -> int:
        self._begin("open_root")
        return self._disk.open_root(path, create=create)

    def make_dir(self, name: str, at: int) -> bool:
        self._begin("make_dir")
        return bool(self._change(at, name, lambda: self._disk.make_dir(name, at)))

    def create(self, name: str, at: int) -> int:
        self._begin("create")
        return self._disk.create(name, at)

    def create_unnamed(self, at: int) -> int:
        self._begin("create_unnamed")
        return self._disk.create_unnamed(at)

    def write(self, handle: int, data: bytes) -> None:
        self._begin("write")
        self._disk.write(handle, data)

    def overwrite(self, name: str, at: int, data: bytes) -> None:
        self._begin("write")
        self._disk.overwrite(name, at, data)

    def fsync(self, handle: int) -> None:
        self._begin("fsync")
        self._disk.fsync(handle)

    def close(self, handle: int) -> None:
        # No turn for others: finalizers call it too, at moments that no seed decides.
        self._disk.close(handle)

    def link(self, name: str, at: int, target: str, target_at: int) -> None:
        self._begin("link")
        node = self._disk.handles[at].names[name]  # type: ignore[union-attr]
        self._give_name(node, target, target_at, lambda: self._disk.link(name, at, target, target_at))

    def link_unnamed(self, handle: int, target: str, target_at: int) -> None:
        self._begin("link_unnamed")
        node = self._disk.handles[handle]
        self._give_name(node, target, target_at, lambda: self._disk.link_unnamed(handle, target, target_at))

    def move(self, name: str, at: int, target: str, target_at: int) -> None:
        self._begin("move")
        raise _error(errno.EINVAL)  # as an NFS client says; there are links

    def replace(self, name: str, at: int, target: str, target_at: int) -> None:
        self._begin("replace")
        node = self._disk.handles[at].names.get(name)  # type: ignore[union-attr]
        if node is None:
            raise _error(errno.ENOENT)
        self._give_name(node, target, target_at, lambda: self._disk.replace(name, at, target, target_at), errno.ENOENT)

    def unlink(self, name: str, at: int) -> None:
        self._begin("unlink")
        self._change(at, name, lambda: self._disk.unlink(name, at))

    # -- reading: the caches answer -------------------------------------------------------------------

    def open_dir(self, name: str, at: int) -> int:
        self._begin("open_dir")
        return self._disk._open(self._look_up(name, at))

    def names(self, at: int) -> list[str]:
        self._begin("names")
        world, directory = self._world, self._disk.handles[at]
        assert isinstance(directory, Dir)
        listed, until = self._caches.listings.get(id(directory), ([], 0.0))
        if until > world.now and world.random.random() < 0.5:
            world.stale_answers += listed != list(directory.names)
            return list(listed)
        fresh = list(directory.names)
        self._caches.listings[id(directory)] = (fresh, world.now + world.random.random() * LISTING_S)
        # What it sees in a new listing, a host no longer believes to be missing.
        known = self._caches.names.get(id(directory), {})
        for name in fresh:
            if name in known and known[name].node is None:
                del known[name]
        return list(fresh)

    def entries(self, at: int) -> list[Entry]:
        self._begin("entries")
        return self._disk.entries(at)

    def read(self, name: str, at: int, limit_bytes: int) -> bytes:
        self._begin("read")
        data = self._data(name, at)
        if len(data) > limit_bytes:
            raise FileTooLarge(errno.EFBIG, "too large", name)
        return data

    def read_range(self, name: str, at: int, offset: int, length: int) -> bytes:
        self._begin("read_range")
        return self._data(name, at)[offset : offset + length]

    def map(self, name: str, at: int) -> memoryview:
        self._begin("map")
        return memoryview(self._data(name, at))

    # -- inside ---------------------------------------------------------------------------------------

    def _begin(self, operation: str) -> None:
        """Others may run first; then the operation may fail without having done anything."""
        world = self._world
        world.turn(self._process)
        if world.fault_share and operation in _BEFORE and world.random.random() < world.fault_share:
            world.faults += 1
            raise _error(world.random.choice(_BEFORE[operation]))

    def _change(self, at: int, name: str, operation: Callable[[], Any]) -> Any:
        """A change whose reply may be lost, whether or not it took effect."""
        world = self._world
        is_faulty = world.fault_share > 0 and world.random.random() < world.fault_share
        world.faults += is_faulty
        if is_faulty and world.random.random() < 0.5:
            raise _error(world.random.choice((errno.EIO, errno.ESTALE, errno.ETIMEDOUT)))
        done = operation()
        if done is not False:
            self._caches.forget(self._disk.handles[at], name)
        if is_faulty:
            raise _error(world.random.choice((errno.EIO, errno.ESTALE, errno.ETIMEDOUT)))
        return done

    def _give_name(
        self, node: Node, target: str, at: int, operation: Callable[[], None], repeated: int = errno.EEXIST
    ) -> None:
        world = self._world
        assert isinstance(node, File)
        raw = bytes(node.data)
        world.before_link(self._process, target)

        def give() -> None:
            operation()
            world.placed(target, raw)

        self._change(at, target, give)
        if world.fault_share and world.random.random() < world.fault_share:
            # The reply was lost, the client asked again, and the server found the name taken, or gone.
            raise _error(repeated)

    def _look_up(self, name: str, at: int) -> Node:
        world, directory = self._world, self._disk.handles[at]
        assert isinstance(directory, Dir)
        node = directory.names.get(name)
        known = self._caches.names.setdefault(id(directory), {})
        seen = known.get(name)
        if seen is not None and seen.until > world.now:
            # What was replaced is known to be: opening a file asks the server whether the old one is still there.
            is_replaced = isinstance(seen.node, File) and isinstance(node, File)
            if seen.node is not node and not is_replaced and world.random.random() < 0.7:
                node = seen.node
                world.stale_answers += 1
        else:
            known[name] = _Seen(node, world.now + world.random.random() * CACHE_S)
        if node is None:
            raise _error(errno.ENOENT)
        return node

    def _data(self, name: str, at: int) -> bytes:
        node = self._look_up(name, at)
        assert isinstance(node, File)
        return bytes(node.data)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
