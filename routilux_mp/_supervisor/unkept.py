"""The right to commit as the loop uses it, and the one of a job of which nothing is kept on disk."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import merge
from typing import Literal, Protocol

from .._core.job import Job
from .._core.records import Completed, Durable, Failed, Submitted
from .._core.release import is_in_order, is_needed_for_order
from .._storage.blobs import path_of
from .._storage.leftovers import Sweep
from .._storage.reader import LogRef
from .._worker import shared


class Tenure(Protocol):
    """The right to commit, as the loop uses it (see ``_storage``); ``NullTenure`` keeps nothing."""

    def next_position(self) -> tuple[int, int]: ...
    def commit(self, data: Sequence[bytes]) -> None: ...
    def should_roll(self, snapshot_bytes_estimate: int, blob_bytes: int = 0) -> bool: ...
    def roll(self, snapshot: bytes) -> None: ...
    def housekeep(self) -> None: ...
    def secure_blobs(self, folders: Iterable[str]) -> None: ...
    def release_blobs(self, names: Iterable[str]) -> None: ...
    def sweep_blobs(
        self, sweep: Sweep, named: Callable[[LogRef, bytes], None], is_over: Callable[[], bool] = ...
    ) -> None: ...
    def seal(self, reason: Literal["handover", "ended"]) -> None: ...
    def show(self, make: Callable[[], tuple[bytes | None, bytes]]) -> None: ...
    def close(self) -> None: ...


def _remove(shared_dir: str, pid: int) -> None:
    """But not in a fork of the caller's, for which nothing of this is in use."""
    if os.getpid() == pid:
        shared.remove(shared_dir)


class NullTenure:
    """``durability="none"``: every commit stands at once, and only what callers may still ask for is kept.

    That is every result and shared-log entry, and the newest records of the history.
    """

    def __init__(self, history_max: int, shared_dir: str | None = None) -> None:
        """``shared_dir``: of the job, where its workers put large payloads; gone with this object."""
        self._history_max = history_max
        self.shared_dir = shared_dir
        if shared_dir is not None:
            os.makedirs(shared_dir, 0o700)
            # When the interpreter ends, the backend has removed everything.
            weakref.finalize(self, _remove, shared_dir, os.getpid()).atexit = False
        self._number = 0
        #: (running number, record): what may be dropped, and what is kept for as long as the job is.
        self._records: deque[tuple[int, Durable]] = deque()
        self._wanted: list[tuple[int, Durable]] = []
        self._entries = 0
        self._lock = threading.Lock()

    def keep(self, job: Job, records: Sequence[Durable]) -> None:
        with self._lock:
            for record in records:
                self._number += 1
                if _is_wanted(job, record):
                    self._wanted.append((self._number, record))
                elif size := _entries_of(record):
                    self._records.append((self._number, record))
                    self._entries += size
            while self._entries > self._history_max:
                self._entries -= _entries_of(self._records.popleft()[1])

    def records(self) -> list[Durable]:
        with self._lock:
            return [record for _, record in merge(self._wanted, self._records, key=lambda pair: pair[0])]

    def next_position(self) -> tuple[int, int]:
        return (0, 0)

    def commit(self, data: Sequence[bytes]) -> None:
        pass

    def should_roll(self, snapshot_bytes_estimate: int, blob_bytes: int = 0) -> bool:
        return False

    def roll(self, snapshot: bytes) -> None:
        pass

    def housekeep(self) -> None:
        pass

    def secure_blobs(self, folders: Iterable[str]) -> None:
        pass

    def release_blobs(self, names: Iterable[str]) -> None:
        if self.shared_dir is None:
            return
        for name in names:
            try:
                os.unlink(path_of(self.shared_dir, name))
            except OSError:
                pass  # it was removed with the runtime

    def sweep_blobs(
        self, sweep: Sweep, named: Callable[[LogRef, bytes], None], is_over: Callable[[], bool] = bool
    ) -> None:
        pass

    def seal(self, reason: Literal["handover", "ended"]) -> None:
        pass

    def show(self, make: Callable[[], tuple[bytes | None, bytes]]) -> None:
        pass

    def close(self) -> None:
        pass


def _entries_of(record: Durable) -> int:
    if isinstance(record, Completed):
        return sum(emit.batch.count for emit in record.emits) + 1
    return int(isinstance(record, (Failed, Submitted)))


def _has_log(record: Durable) -> bool:
    """It carries entries of the shared log, or outputs."""
    return any(op.op in ("log", "send") for op in getattr(record, "ops", ()))


def _is_wanted(job: Job, record: Durable) -> bool:
    """Kept for as long as the job is: it carries results, log entries, or the flow itself."""
    if isinstance(record, Submitted):
        return True
    topology, routes = job.topology, job.topology.routes
    for number, spec in enumerate(topology.routines):
        if is_in_order(spec) and is_needed_for_order(record, number):
            if any((number, event) not in routes for event in range(len(spec.events))):
                return True  # its results are read in the order of its inputs
    return _has_log(record) or (
        isinstance(record, Completed) and any((record.routine, e.event) not in routes for e in record.emits)
    )
