"""The committed past of a job, read in a worker from the log on disk, when a handler asks for it.

What this worker finished and what is still on its way to the disk is added from memory. Without a
checkpoint directory there is only that.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .._core.records import Durable
from .._history import ExecutionRecord, Timestamp

if TYPE_CHECKING:
    from .jobs import JobHere


class LogOnDisk:
    """Reads the log of one job; see ``notes.Past``."""

    def __init__(self, job: JobHere) -> None:
        self._job = job
        #: Encoded entries of activations that this worker has finished, in order.
        self._finished: list[bytes] = []

    def remember(self, entry: bytes) -> None:
        """An activation that logged this has returned; its commit may take a moment."""
        self._finished.append(entry)

    def forget(self) -> None:
        """What this worker finished may have been handed back: only the disk counts."""
        self._finished.clear()

    def shared_log(self) -> list[dict[str, Any]]:
        """All entries, in commit order."""
        from .records import encoded_log_of, log_of

        records = list(self._records())
        decode = self._job.decode_at
        entries: list[dict[str, Any]] = list(log_of(self._job.info.job_id, records, decode))
        committed = Counter(encoded_log_of(records))
        for entry in self._finished:
            if committed[entry] > 0:
                committed[entry] -= 1
            else:
                entries.append(self._job.decode_log(entry))
        return entries

    def history(self) -> list[ExecutionRecord]:
        """All records, in commit order."""
        from .records import history_of

        job = self._job
        found = history_of(job.info.job_id, job.topology, self._records(), job.decode_batch, job.decode_at)
        return [ExecutionRecord(i.routine_id, i.event_name, i.data, Timestamp.of(i.time_ns)) for i in found]

    def _records(self) -> Iterator[Durable]:
        blob_dir = self._job.info.blob_dir
        if blob_dir is None:
            return
        # A worker that never asks pays nothing for the store.
        from .._storage.codec import decode_record
        from .._storage.store import Store
        from ..settings import Settings

        root, job_id = os.path.split(os.path.dirname(os.path.dirname(blob_dir)))
        with Store(root, Settings()) as store:
            for ref, data in store.read(job_id).history():
                yield decode_record(data, tuple(ref))  # type: ignore[arg-type]
