"""The committed past of a job, read in a worker from the log on disk, when a handler asks for it.

What this worker finished and what is still on its way to the disk is added from memory. With
``durability="none"`` there is only that: what other workers have logged is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from .._history import ExecutionRecord, Timestamp

if TYPE_CHECKING:
    from .._core.records import Durable
    from .jobs import JobHere

#: A place in the log: epoch, commit, frame.
Ref = tuple[int, int, int]


class LogOnDisk:
    """Reads the log of one job; see ``notes.Past``."""

    def __init__(self, job: JobHere) -> None:
        self._job = job
        #: Encoded entries of activations that this worker has finished and not yet found in the log, in order.
        self._finished: list[bytes] = []
        #: Entries found there, encoded; those from before the job came to this root as they are.
        self._found: list[bytes | dict[str, Any]] = []
        self._read_to: Ref = (0, 0, 0)

    def remember(self, entry: bytes) -> None:
        """An activation that logged this has returned; its commit may take a moment."""
        self._finished.append(entry)

    def forget(self) -> None:
        """What this worker finished may have been handed back: only the disk counts."""
        self._finished.clear()

    def shared_log(self) -> list[dict[str, Any]]:
        """All entries, in commit order. What has been read of the log is not read again."""
        from .._core.records import Adopted
        from .records import encoded_log_of, past_of

        for ref, record in self._records(self._read_to):
            if isinstance(record, Adopted):
                self._found += past_of(self._job.info.job_id, record, self._job.decode_at)["log"]
            for entry in encoded_log_of((record,)):
                self._found.append(entry)
                if entry in self._finished:
                    self._finished.remove(entry)
            self._read_to = ref
        entries = (*self._found, *self._finished)
        return [self._job.decode_log(entry) if isinstance(entry, bytes) else deepcopy(entry) for entry in entries]

    def history(self) -> list[ExecutionRecord]:
        """All records, in commit order."""
        from .records import history_of

        job = self._job
        records = (record for _, record in self._records((0, 0, 0)))
        found = history_of(job.info.job_id, job.topology, records, job.decode_batch, job.decode_at)
        return [ExecutionRecord(i.routine_id, i.event_name, i.data, Timestamp.of(i.time_ns)) for i in found]

    def _records(self, after: Ref) -> Iterator[tuple[Ref, Durable]]:
        """What the log says after a place in it."""
        blob_dir = self._job.info.blob_dir
        if blob_dir is None or not self._job.info.is_durable:
            return
        # A worker that never asks pays nothing for the store.
        from .._storage.codec import decode_record
        from .._storage.store import Store
        from ..settings import Settings

        root, job_id = os.path.split(os.path.dirname(os.path.dirname(blob_dir)))
        with Store(root, Settings()) as store:
            log = store.read(job_id)
            newest = list(log.frames())
            # Only what came before the newest snapshot is in archives, and mostly that was read long ago.
            is_enough = bool(newest) and newest[0][0][0] <= after[0]
            for ref, data in newest if is_enough else log.history():
                place = (ref[0], ref[1], ref[2])
                if place > after:
                    yield place, decode_record(data, place)
