"""What a disk may show after a power cut: every operation is recorded, crash states are made from the record.

The model is a weak one. A file's data is safe up to its last fsync; of what was written later any
prefix may be there. A change of a directory (a name made, linked, replaced, deleted) is safe after an
fsync of that directory; of the later ones any subset may have been kept. A name may be kept and the
data it stands for not; a directory whose own name was lost takes everything below with it.
Not modelled: `tmp/`, from which nothing is ever read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from tests.support.faulty import OPERATIONS
from tests.support.memory import Dir, File, MemoryFiles, Node

#: Of so many changes of directories that are not safe yet, every subset is made.
_EVERY_SUBSET_MAX = 6
#: Of more: every subset of the newest, together with a few of the older ones.
_NEWEST = 2


class Change(NamedTuple):
    """A change of a directory: `name` stands for `node` now, None: for nothing."""

    directory: int
    name: str
    node: int | None


class Write(NamedTuple):
    file: int
    data: bytes


class Sync(NamedTuple):
    node: int


class Mark(NamedTuple):
    """Something that the test wants to remember at this point."""

    value: Any


Event = Change | Write | Sync | Mark


class RecordingFiles:
    """`disk`, with a record of everything that changes it."""

    def __init__(self, disk: MemoryFiles) -> None:
        self.has_paths = False
        self.events: list[Event] = []
        self._disk = disk
        self._numbers: dict[int, int] = {id(disk.root): 0}
        # Kept alive, so that no other object gets the same identity.
        self._nodes: list[object] = []
        self._tmp: int | None = None

    def mark(self, value: Any) -> None:
        self.events.append(Mark(value))

    def __getattr__(self, name: str) -> Any:
        if name not in OPERATIONS:
            raise AttributeError(name)
        return getattr(self._disk, name)

    def open_root(self, path: str, *, create: bool) -> int:
        handle = self._disk.open_root(path, create=create)
        if create and not self.events:
            # The root is the operator's; it is safe from the start.
            assert "/" not in path.strip("/")
            self.events += [Change(0, path.strip("/"), self._at(handle)), Sync(0)]
        return handle

    def make_dir(self, name: str, at: int) -> bool:
        is_new = self._disk.make_dir(name, at)
        if is_new:
            self._changed(at, name)
            if name == "tmp":
                self._tmp = self._of(at, name)
                self.events.append(Sync(self._at(at)))
        return is_new

    def create(self, name: str, at: int) -> int:
        handle = self._disk.create(name, at)
        self._changed(at, name)
        return handle

    def write(self, handle: int, data: bytes) -> None:
        self._disk.write(handle, data)
        self.events.append(Write(self._at(handle), bytes(data)))

    def fsync(self, handle: int) -> None:
        self._disk.fsync(handle)
        self.events.append(Sync(self._at(handle)))

    def link(self, name: str, at: int, target: str, target_at: int) -> None:
        self._disk.link(name, at, target, target_at)
        self._changed(target_at, target)

    def link_unnamed(self, handle: int, target: str, target_at: int) -> None:
        self._disk.link_unnamed(handle, target, target_at)
        self._changed(target_at, target)

    def move(self, name: str, at: int, target: str, target_at: int) -> None:
        self._disk.move(name, at, target, target_at)
        self._changed(target_at, target)

    def replace(self, name: str, at: int, target: str, target_at: int) -> None:
        self._disk.replace(name, at, target, target_at)
        self._changed(target_at, target)

    def unlink(self, name: str, at: int) -> None:
        self._disk.unlink(name, at)
        if self._at(at) != self._tmp:
            self.events.append(Change(self._at(at), name, None))

    def _changed(self, at: int, name: str) -> None:
        if self._at(at) != self._tmp:
            self.events.append(Change(self._at(at), name, self._of(at, name)))

    def _at(self, handle: int) -> int:
        return self._number(self._disk.handles[handle])

    def _of(self, at: int, name: str) -> int:
        directory = self._disk.handles[at]
        assert isinstance(directory, Dir)
        return self._number(directory.names[name])

    def _number(self, node: object) -> int:
        if id(node) not in self._numbers:
            self._nodes.append(node)
            self._numbers[id(node)] = len(self._numbers)
        return self._numbers[id(node)]


@dataclass
class Medium:
    """What is safe after some of the events, and what is not yet."""

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    pending: list[Change] = field(default_factory=list)
    data: dict[int, bytes] = field(default_factory=dict)
    synced: dict[int, int] = field(default_factory=dict)
    directories: set[int] = field(default_factory=lambda: {0})

    def apply(self, event: Event) -> None:
        match event:
            case Change(_, _, _):
                self.pending.append(event)
                self.directories.add(event.directory)
            case Write(file, data):
                self.data[file] = self.data.get(file, b"") + data
            case Sync(node):
                self.synced[node] = len(self.data.get(node, b""))
                kept = []
                for change in self.pending:
                    if change.directory == node:
                        _change(self.names, change)
                    else:
                        kept.append(change)
                self.pending = kept

    def states(self, random: Random) -> Iterator[State]:
        """What the next start may find."""
        unsynced = [node for node, data in self.data.items() if self.synced.get(node, 0) < len(data)]
        for changes in _subsets(self.pending, random):
            names = {directory: dict(entries) for directory, entries in self.names.items()}
            for change in changes:
                _change(names, change)
            for torn in (0.0, 0.5, 1.0) if unsynced else (1.0,):
                lengths = {node: self._length(node, torn) for node in unsynced}
                yield State(self, tuple(self._entries(0, "", names, lengths)))

    def _length(self, node: int, torn: float) -> int:
        synced = self.synced.get(node, 0)
        return synced + int((len(self.data[node]) - synced) * torn)

    def _entries(
        self, directory: int, path: str, names: dict[int, dict[str, int]], lengths: dict[int, int]
    ) -> Iterator[Found]:
        for name, child in sorted(names.get(directory, {}).items()):
            here = f"{path}/{name}"
            if child in self.data:
                yield Found(here, child, lengths.get(child, len(self.data[child])))
            else:
                yield Found(here, child, None)
                yield from self._entries(child, here, names, lengths)


class Found(NamedTuple):
    """A name that is there after the cut, with so much of its data; None: it is a directory."""

    path: str
    node: int
    length: int | None


class State(NamedTuple):
    """One disk that may be found. Equal `entries` are equal disks."""

    medium: Medium
    entries: tuple[Found, ...]

    def disk(self) -> MemoryFiles:
        directories = {"": Dir()}
        for path, node, length in self.entries:
            above, _, name = path.rpartition("/")
            found: Node
            if length is None:
                found = directories[path] = Dir()
            else:
                data = self.medium.data[node][:length]
                found = File(bytearray(data), data)
            directories[above].names[name] = directories[above].durable[name] = found
        return MemoryFiles(directories[""])


def _change(names: dict[int, dict[str, int]], change: Change) -> None:
    entries = names.setdefault(change.directory, {})
    if change.node is None:
        entries.pop(change.name, None)
    else:
        entries[change.name] = change.node


def _subsets(pending: Sequence[Change], random: Random) -> Iterator[list[Change]]:
    """Every subset of a few changes; of many, every subset of the newest with some of the older ones."""
    split = 0 if len(pending) <= _EVERY_SUBSET_MAX else len(pending) - _NEWEST
    older, newest = list(pending[:split]), pending[split:]
    chosen = [older, []] if older else [[]]
    if older:
        chosen.append([change for change in older if random.random() < 0.5])
    for bits in itertools.product((False, True), repeat=len(newest)):
        for some in chosen:
            yield [*some, *(change for change, kept in zip(newest, bits) if kept)]
