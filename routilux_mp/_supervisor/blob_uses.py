"""Which of a job's blobs are still needed, and which nobody refers to any more.

Not here: when they are deleted (``_storage.housekeeping``), what of earlier owners is found (``leftovers``).
The rule it owns: a blob is given up only when nothing that is queued, running, waiting or dead refers to it, and
never when it holds a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .._core.batch import Batch
from .._core.job import Job
from .._core.outstanding import needed_batches
from .._core.records import Completed, Durable
from .._core.topology import Topology
from .._worker.spill import referred_blob, referred_bytes

#: Where a batch lies in the log.
Ref = tuple[int, int, int, int]
#: Who refers to a blob: a batch, its place in the log, or None for a result.
User = Batch | Ref | None


class BlobUses:
    """Belongs to the loop's thread."""

    def __init__(self, *, keeps_results: bool) -> None:
        """``keeps_results``: somebody will ask for the names of those that hold results, too."""
        self._keeps_results = keeps_results
        self._users: dict[str, list[User]] = {}
        #: Payloads that went into blobs since :meth:`unused` was asked last: so much may be given up soon.
        self.new_bytes = 0
        self._new_folders: set[str] = set()

    def __len__(self) -> int:
        return len(self._users)

    @property
    def names(self) -> list[str]:
        """Blobs that something queued, or a result, may refer to."""
        return list(self._users)

    def note(self, job: Job, record: Durable) -> None:
        """The record is being committed: from now on it names the blobs that its emissions lie in."""
        if type(record) is not Completed:
            return
        for name, users in users_in(job.topology, record).items():
            self._new_folders.add(name.partition("/")[0])
            if self._keeps_results or None not in users:
                self._users.setdefault(name, []).extend(users)
                self.new_bytes += sum(referred_bytes(b.data) for b in users if b is not None and b.data)

    def take_folders(self) -> set[str]:
        """Where the blobs lie that have been noted since this was asked last."""
        found, self._new_folders = self._new_folders, set()
        return found

    def note_unnamed(self, batches: Iterable[Batch]) -> None:
        """No record will name the blobs that these batches lie in: they go with the next unused ones."""
        for batch in batches:
            name = referred_blob(batch.data) if batch.data else None
            if name is not None:
                self._users.setdefault(name, [])

    def inherit(self, users: Mapping[str, Iterable[Ref]]) -> None:
        """Earlier owners' commits name these, each in these places of the log."""
        for name, refs in users.items():
            self._users.setdefault(name, []).extend(refs)

    def unused(self, job: Job) -> list[str]:
        """Blobs that nothing queued and no result refers to any more; told once of each."""
        self.new_bytes = 0
        if not self._users:
            return []
        needed: set[int | Ref] = set()
        for batch in needed_batches(job):
            needed.add(id(batch))
            if batch.ref is not None:
                needed.add(batch.ref)
        unused = [name for name, users in self._users.items() if not _is_needed(users, needed)]
        for name in unused:
            del self._users[name]
        return unused


def users_in(topology: Topology, record: Completed) -> dict[str, list[Batch | None]]:
    """The blobs that a record names, and its batches that lie in each; None stands for a result."""
    found: dict[str, list[Batch | None]] = {}
    for event, batch in record.emits:
        name = referred_blob(batch.data) if batch.data else None
        if name is not None:
            is_result = (record.routine, event) not in topology.routes
            found.setdefault(name, []).append(None if is_result else batch)
    return found


def _is_needed(users: Iterable[User], needed: set[int | Ref]) -> bool:
    return any(user is None or (id(user) if isinstance(user, Batch) else user) in needed for user in users)
