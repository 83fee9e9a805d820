"""A job that this process owns: the folded job, what of it is not durable yet, and what callers see."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from typing import Any, Literal, Protocol

from .._core.batch import Batch
from .._core.effects import Changed, Effect
from .._core.invariants import check
from .._core.job import Group, Job
from .._core.outstanding import needed_batches
from .._core.records import Completed, Durable, Failed, Submitted
from .._core.release import is_in_order, is_needed_for_order
from .._core.step import step
from .._core.stimuli import Stimulus
from .._core.view import JobView, view_of
from .._storage.blobs import path_of
from .._storage.codec import batches_of, encode_record
from .._worker import shared
from .._worker.spill import PayloadReader, referred_blob

log = logging.getLogger(__name__)

#: Views are made at most this often while a job is busy; a change of status shows at once.
VIEW_INTERVAL_NS = 20_000_000
#: Consumed payloads that may lie in shared memory a little longer.
_BLOBS_HELD = 8


class Tenure(Protocol):
    """The right to commit, as the loop uses it (see ``_storage``); ``NullTenure`` keeps nothing."""

    def next_position(self) -> tuple[int, int]: ...
    def commit(self, data: Sequence[bytes]) -> None: ...
    def should_roll(self, snapshot_bytes_estimate: int) -> bool: ...
    def roll(self, snapshot: bytes) -> None: ...
    def housekeep(self) -> None: ...
    def release_blobs(self, names: Iterable[str]) -> None: ...
    def seal(self, reason: Literal["handover", "ended"]) -> None: ...
    def write_views(self, flow_doc: bytes | None, state_doc: bytes) -> None: ...
    def close(self) -> None: ...


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
            weakref.finalize(self, shared.remove, shared_dir).atexit = False
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

    def should_roll(self, snapshot_bytes_estimate: int) -> bool:
        return False

    def roll(self, snapshot: bytes) -> None:
        pass

    def housekeep(self) -> None:
        pass

    def release_blobs(self, names: Iterable[str]) -> None:
        if self.shared_dir is None:
            return
        for name in names:
            try:
                os.unlink(path_of(self.shared_dir, name))
            except OSError:
                pass  # it was removed with the runtime

    def seal(self, reason: Literal["handover", "ended"]) -> None:
        pass

    def write_views(self, flow_doc: bytes | None, state_doc: bytes) -> None:
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


def _waiting(job: Job) -> Iterator[Batch]:
    """Batches of emissions that wait: to be run, to be taken by a policy, to be released in order."""
    for routine in job.routines:
        for item in routine.ready:
            for run in item.runs if isinstance(item, Group) else (item,):
                yield run.batch
        for slot in routine.slots:
            for run in slot:
                yield run.batch
        for _, emits in routine.held_emits.values():
            for emit in emits:
                yield emit.batch


class LiveJob:
    """One job in the loop. Only the loop's thread touches it, but for :attr:`view` and the condition."""

    def __init__(self, job: Job, tenure: Tenure, code_id: str) -> None:
        self.job = job
        self.tenure = tenure
        self.code_id = code_id
        self.memory = tenure if isinstance(tenure, NullTenure) else None
        self.found_ns = 0  # when the job had changed last, as this process found it; 0: it began here
        self.sent_before = job.sent_count  # outputs that earlier owners' commits carry
        self.recorded_before = job.record_count  # and of their history
        self.records: list[Durable] = []  # applied, not yet on their way to the disk
        self.filling = 1  # number of the commit that the next records will be part of
        self.in_flight: int | None = None
        self.is_dirty = True  # a caller could see a difference
        self.blocked: tuple[str, int] | None = None
        self.retry_at_ns = 0  # of a blocked commit
        self.retry: Callable[[], None] | None = None
        self.lost: BaseException | None = None
        self.is_finished = False  # ended, sealed, and out of the loop
        self.is_sealing = False
        self.is_leaving = False  # to be sealed for hand-over once nothing of it runs
        self.rests_until_ns = 0  # nothing is dispatched before: what it needs could not be read
        self.is_doubted = False  # nothing is dispatched before a commit has shown that it is still ours
        self.is_confirming = False  # that commit is on its way
        self.handle: Any = None  # of the caller, for the views
        self.payloads: PayloadReader | None = None
        #: Blobs that this tenure's commits name, with the batches in them; None stands for a result.
        self._blobs: dict[str, list[Batch | None]] = {}
        self._blobs_max = _BLOBS_HELD  # more than that, and it is worth looking which are not needed any more
        self.is_writing_views = False
        self.shown_status = "running"  # in job_state.json
        self.shown_view: JobView | None = None
        self.show_again_ns = 0
        self.view: JobView = view_of(job, 0)
        self.changed = threading.Condition()
        self._position = (0, 0)  # where the commit that was taken last goes
        self._taken: tuple[int, JobView] | None = None
        self._taken_ns = 0
        self._version = 0

    @property
    def version(self) -> int:
        """Of the newest view that was taken; it may wait for its commit."""
        return self._version

    @property
    def is_unsettled(self) -> bool:
        """Something has still to be committed or shown, although nothing more happens to the job."""
        if self.in_flight is not None or self.is_sealing:
            return self.blocked is not None  # else its end will be heard of
        is_behind = self.memory is None and self.view.status != self.shown_status
        return bool(self.records) or self.is_dirty or self.is_doubted or self.is_writing_views or is_behind

    @property
    def is_under_way(self) -> bool:
        """A commit or a seal is being done; one that is blocked and waits is not."""
        return (self.in_flight is not None or self.is_sealing) and not (self.blocked and self.retry_at_ns > 0)

    def has_come_back(self) -> None:
        """Nothing is being done any more."""
        self.in_flight, self.is_sealing = None, False

    def rest(self, until_ns: int, reason: str) -> None:
        """Dispatch nothing of this job before ``until_ns``."""
        if not self.rests_until_ns:
            log.warning("job %s waits: %s", self.job.job_id, reason)
        self.rests_until_ns = until_ns

    # -- stepping -----------------------------------------------------------------------------

    def step(self, stimulus: Stimulus, now_ns: int, *, verify: bool = False) -> list[Effect]:
        """Let a stimulus happen; keep its records for the next commit."""
        records, effects = step(self.job, stimulus, now_ns, self.filling)
        if records:
            self.records += records  # type: ignore[arg-type]
        if verify:
            check(self.job)
        out = [e for e in effects if type(e) is not Changed]
        if len(out) != len(effects):
            self.is_dirty = True
        return out

    # -- committing ---------------------------------------------------------------------------

    def take_commit(self, now_ns: int) -> tuple[int, list[bytes]]:
        """The records that have gathered, encoded; their batches learn where they will be."""
        number, records = self.filling, self.records
        self.filling += 1
        self.records = []
        self.in_flight = number
        frames: list[bytes] = []
        if self.memory is not None:
            self.memory.keep(self.job, records)
            self._release_consumed(records)
        else:
            epoch, commit = self._position = self.tenure.next_position()
            for index, record in enumerate(records):
                frames.append(encode_record(record))
                self._note_blobs(record)
                for k, batch in enumerate(batches_of(record)):
                    batch.ref = (epoch, commit, index, k)
        if self.is_dirty and (
            self.job.status != self.view.status
            or now_ns - self._taken_ns >= VIEW_INTERVAL_NS
            or any(type(r) is Failed for r in records)
        ):
            self._take_view(number, now_ns)
        return number, frames

    def _release_consumed(self, records: Sequence[Durable]) -> None:
        """Nothing is kept: a payload in shared memory goes when it is consumed, a few at a time."""
        for record in records:
            self._note_blobs(record)
        if len(self._blobs) > self._blobs_max or (self._blobs and self.job.is_terminal):
            self.tenure.release_blobs(self.unused_blobs())
            self._blobs_max = max(_BLOBS_HELD, 2 * len(self._blobs))

    def _note_blobs(self, record: Durable) -> None:
        if type(record) is not Completed:
            return
        for emit in record.emits:
            name = referred_blob(emit.batch.data) if emit.batch.data else None
            if name is not None:
                is_result = (record.routine, emit.event) not in self.job.topology.routes
                self._blobs.setdefault(name, []).append(None if is_result else emit.batch)

    def note_unnamed(self, batches: Iterable[Batch]) -> None:
        """No record will name the blobs that these batches lie in: they go with the next unused ones."""
        for batch in batches:
            name = referred_blob(batch.data) if batch.data else None
            if name is not None:
                self._blobs.setdefault(name, [])

    @property
    def blobs(self) -> list[str]:
        """Blobs that something queued, or a result, may refer to."""
        return list(self._blobs)

    def unused_blobs(self) -> list[str]:
        """Blobs that nothing queued and no result refers to any more; asked once for each."""
        if not self._blobs:
            return []
        needed = {id(batch) for batch in needed_batches(self.job)}
        unused = [
            name for name, users in self._blobs.items() if all(b is not None and id(b) not in needed for b in users)
        ]
        for name in unused:
            del self._blobs[name]
        return unused

    def spill(self, bytes_max: int) -> None:
        """Drop the payloads queued farthest back: they are in the log and are read back when they are due."""
        if self.memory is not None:
            return
        held = 0
        seen: set[int] = set()  # one batch may wait in many slots
        for batch in _waiting(self.job):
            if batch.data is None or id(batch) in seen:
                continue
            seen.add(id(batch))
            held += batch.size
            # What the commit on its way carries is not in the log yet.
            if held > bytes_max and batch.ref is not None and batch.ref[:2] != self._position:
                batch.data = None

    def stands(self, number: int) -> None:
        """The commit stands: what was waiting for it may be seen."""
        self.in_flight = None
        if self._taken is not None and self._taken[0] <= number:
            self._publish(self._taken[1])
            self._taken = None

    def publish_if_quiet(self, now_ns: int) -> bool:
        """Everything applied is durable: show it. False when there is something left to show later."""
        if not self.is_dirty:
            return True
        if self.records or self.in_flight is not None:
            return False
        if self.job.dispatches and now_ns - self._taken_ns < VIEW_INTERVAL_NS:
            return False
        self._take_view(self.filling, now_ns)
        assert self._taken is not None
        self._publish(self._taken[1])
        self._taken = None
        return True

    def _take_view(self, number: int, now_ns: int) -> None:
        self._version += 1
        self._taken = (number, view_of(self.job, self._version, self.blocked))
        self._taken_ns = now_ns
        self.is_dirty = False

    def _publish(self, view: JobView) -> None:
        with self.changed:
            self.view = view
            self.changed.notify_all()

    def lose(self, error: BaseException) -> None:
        """This process does not own the job any more."""
        self.lost = error
        with self.changed:
            self.changed.notify_all()

    def show_blocked(self, blocked: tuple[str, int] | None) -> None:
        self.blocked = blocked
        self._publish(self.view._replace(blocked=blocked))
