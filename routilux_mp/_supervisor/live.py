"""A job that this process owns: the folded job, what of it is not durable yet, and what callers see."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

from .._core.batch import Batch
from .._core.effects import Changed, Effect
from .._core.invariants import check
from .._core.job import Group, Job
from .._core.outstanding import needed_batches
from .._core.records import Completed, Durable, Failed, Submitted
from .._core.step import step
from .._core.stimuli import Stimulus
from .._core.view import JobView, view_of
from .._storage.codec import batches_of, encode_record
from .._worker.spill import PayloadReader, referred_blob

#: Views are made at most this often while a job is busy; a change of status shows at once.
VIEW_INTERVAL_NS = 20_000_000


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

    def __init__(self, history_max: int) -> None:
        self._history_max = history_max
        self._records: deque[Durable] = deque()
        self._entries = 0
        self._lock = threading.Lock()

    def keep(self, job: Job, records: Sequence[Durable]) -> None:
        with self._lock:
            for record in records:
                size = _entries_of(record)
                if size or _has_log(record):
                    self._records.append(record)
                    self._entries += size
            while self._entries > self._history_max and not _is_wanted(job, self._records[0]):
                self._entries -= _entries_of(self._records.popleft())

    def records(self) -> list[Durable]:
        with self._lock:
            return list(self._records)

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
        pass

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
    routes = job.topology.routes
    return _has_log(record) or (
        isinstance(record, Completed) and any((record.routine, e.event) not in routes for e in record.emits)
    )


class LiveJob:
    """One job in the loop. Only the loop's thread touches it, but for :attr:`view` and the condition."""

    def __init__(self, job: Job, tenure: Tenure, code_id: str) -> None:
        self.job = job
        self.tenure = tenure
        self.code_id = code_id
        self.memory = tenure if isinstance(tenure, NullTenure) else None
        self.found_ns = 0  # when the job had changed last, as this process found it; 0: it began here
        self.sent_before = job.sent_count  # outputs that earlier owners' commits carry
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
        self.is_doubted = False  # nothing is dispatched before a commit has shown that it is still ours
        self.is_confirming = False  # that commit is on its way
        self.handle: Any = None  # of the caller, for the views
        self.payloads: PayloadReader | None = None
        #: Blobs that this tenure's commits name, with the batches in them; None stands for a result.
        self._blobs: dict[str, list[Batch | None]] = {}
        self.is_writing_views = False
        self.shown_status = "running"  # in job_state.json
        self.shown_view: JobView | None = None
        self.show_again_ns = 0
        self.execution_deadline_ns = 0
        self.view: JobView = view_of(job, 0)
        self.changed = threading.Condition()
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
        else:
            epoch, commit = self.tenure.next_position()
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

    def _note_blobs(self, record: Durable) -> None:
        if type(record) is not Completed:
            return
        for emit in record.emits:
            name = referred_blob(emit.batch.data) if emit.batch.data else None
            if name is not None:
                is_result = (record.routine, emit.event) not in self.job.topology.routes
                self._blobs.setdefault(name, []).append(None if is_result else emit.batch)

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
        for routine in self.job.routines:
            for item in routine.ready:
                for run in item.runs if isinstance(item, Group) else (item,):
                    batch = run.batch
                    if batch.data is None:
                        continue
                    held += batch.size
                    if held > bytes_max and batch.ref is not None and run.commit < self.filling - 1:
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
