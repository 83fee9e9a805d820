"""A job that this process owns: the folded job, what of it is not durable yet, and what callers see."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from .._core.batch import Batch
from .._core.effects import Changed, Effect, GoOn
from .._core.invariants import check
from .._core.job import Job
from .._core.outstanding import batches_in
from .._core.records import Completed, Durable, Record, Taken
from .._core.step import step
from .._core.stimuli import Stimulus
from .._core.view import JobView, view_of
from .._storage.codec import batches_of, encode_record
from .._worker.spill import PayloadReader
from .blob_uses import BlobUses
from .failing import Failings
from .recent import Recent
from .unkept import NullTenure, Tenure

if TYPE_CHECKING:
    from . import cut

log = logging.getLogger(__name__)

#: Views are made at most this often while a job is busy; a change of status shows at once.
VIEW_INTERVAL_NS = 20_000_000
#: A commit file takes no further step when it is so large.
COMMIT_BYTES_MAX = 8 * 1024 * 1024
#: Records of work that goes its way: nobody outside has asked for them.
_ORDINARY = frozenset({Completed, Taken})
#: Consumed payloads that may lie in shared memory a little longer.
_BLOBS_HELD = 8


def _weight_of(record: Record) -> int:
    """The users' bytes in a record of what workers did."""
    if not isinstance(record, Completed):
        return 0
    size = sum([emit.batch.size for emit in record.emits])
    return size + sum([len(op.value) for op in record.ops if isinstance(op.value, bytes)]) if record.ops else size


def _waiting(job: Job) -> Iterator[Batch]:
    """Batches of emissions that wait: to be run, to be taken by a policy, to be released in order, for a person.

    What a worker is at is not among them.
    """
    for routine in job.routines:
        running = {dispatch.special for dispatch in routine.dispatches.values()}
        for item in chain((s.item for seq, s in routine.special.items() if seq not in running), routine.ready):
            yield from batches_in(item)
        for slot in routine.slots:
            for run in slot:
                yield run.batch
        for _, emits in routine.held_emits.values():
            for emit in emits:
                yield emit.batch
    for letter in job.dead_letters:
        yield from batches_in(letter.item)


def _lets_nothing_run(record: object) -> bool:
    """Work is done, and nothing comes of it."""
    return type(record) is Completed and not record.emits and not record.ops and record.cursor is None


class LiveJob:
    """One job in the loop. Only the loop's thread touches it, but for :attr:`view` and the condition."""

    def __init__(self, job: Job, tenure: Tenure | None, code_id: str) -> None:
        """``tenure``: None for a job that begins; it comes when its first records stand."""
        self.job = job
        self.tenure: Tenure = tenure  # type: ignore[assignment]
        self.code_id = code_id
        self.memory = tenure if isinstance(tenure, NullTenure) else None
        self.found_ns = 0  # when the job had changed last, as this process found it; 0: it began here
        self.sent_before = job.sent_count  # outputs that earlier owners' commits carry
        self.recorded_before = job.record_count  # and of their history
        self.ran_before = job.activations - int(
            job.entry >= 0 and job.routines[job.entry].done > 0
        )  # but for the entry
        self.records: list[Durable] = []  # applied, not yet on their way to the disk
        self._steps: list[int] = []  # where in ``records`` each step ends: one is never torn apart
        #: Of what has happened and may not be on stable storage yet; and how much of that is on its way there.
        self.volatile_bytes = 0
        self._flying_bytes = 0
        self.unspilled_bytes = 0  # that have come to the queues since they were looked through
        self.logged_bytes = 0  # of commits, those of earlier owners included; very much if that is not known
        self.held_answers: list[GoOn] = []  # to generators, which are to wait for the disk
        self.filling = 1  # number of the commit that the next records will be part of
        self.in_flight: int | None = None
        self.is_urgent = False  # among the records is one that somebody may wait for
        self.lets_run = False  # or one that something can run for
        self.gathers_until_ns = 0  # till then the records may wait for company, while every core is busy
        self.is_dirty = True  # a caller could see a difference
        self.blocked: tuple[str, int] | None = None
        self.retry_at_ns = 0  # of a blocked commit
        self.retry: Callable[[], None] | None = None
        self.lost: BaseException | None = None
        self.commit_key = ""  # under which its commits are under way
        self.is_finished = False  # ended, sealed, and out of the loop
        self.is_sealing = False
        self.last_cut: cut.Taken | None = None  # of a job that has ended, until it is sealed
        self.is_leaving = False  # to be sealed for hand-over once nothing of it runs
        self.rests_until_ns = 0  # nothing is dispatched before: what it needs could not be read
        self.is_doubted = False  # nothing is dispatched before a commit has shown that it is still ours
        self.is_confirming = False  # that commit is on its way
        self.handle: Any = None  # of the caller, for the views
        self.payloads: PayloadReader | None = None
        #: Blobs that may go once they are consumed.
        self.blobs = BlobUses(keeps_results=self.memory is not None)
        self._blobs_max = _BLOBS_HELD  # more than that, and it is worth looking which are not needed any more
        #: The epoch in which this process began to own the job, if it had owners before; and rolls that are to come
        #: before what dead workers of ours have left can be looked through.
        self.first_epoch = 0
        self.rolls_to_sweep = 0
        self.recent = Recent()
        self.failings = Failings()
        self.owed_flow: bytes | None = None  # flow.json, if it is for this process to write; its tenure does so once
        self.is_writing_views = False
        self.shown_status = "running"  # in job_state.json
        self.shown_view: JobView | None = None
        self.show_again_ns = 0
        self.view: JobView = view_of(job, 0)
        self.changed = threading.Condition()
        self._awaited: list[Callable[[JobView], bool]] = []  # views that somebody waits for
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
        if self.is_committing:
            return self.blocked is not None  # else its end will be heard of
        is_behind = self.memory is None and self.view.status != self.shown_status
        return bool(self.records) or self.is_dirty or self.is_doubted or self.is_writing_views or is_behind

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for something to become of it."""
        return bool(self._awaited)

    @property
    def has_begun(self) -> bool:
        """There is a right to commit: its first records stand, or are the next commit."""
        return self.tenure is not None

    @property
    def is_committing(self) -> bool:
        """A commit or a seal is on its way, or blocked: nothing further is taken before it has come back."""
        return self.in_flight is not None or self.is_sealing

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
            self._steps.append(len(self.records))
            self.volatile_bytes += sum(map(_weight_of, records))
            if unusual := [r for r in records if type(r) not in _ORDINARY]:
                self.is_urgent = True
                self.failings.note(unusual, self.filling)  # type: ignore[arg-type]
            self.lets_run = self.lets_run or not all(map(_lets_nothing_run, records))
        if verify:
            check(self.job)
        out = [e for e in effects if type(e) is not Changed]
        if len(out) != len(effects):
            self.is_dirty = True
        return out

    # -- committing ---------------------------------------------------------------------------

    def take_commit(self, now_ns: int) -> tuple[int, list[list[bytes]]]:
        """The records that have gathered, encoded, per commit file; their batches learn where they will be."""
        number, records, steps = self.filling, self.records, self._steps
        self.filling += 1
        self.records, self._steps = [], []
        is_urgent = self.is_urgent
        self.is_urgent = self.lets_run = False
        self.in_flight = number
        self._flying_bytes = self.volatile_bytes
        files: list[list[bytes]] = [[]]
        if self.memory is not None:
            self.memory.keep(self.job, records)
            self._release_consumed(records)
        else:
            files = self._encode(records, steps)
            self.recent.take(number, records, [frame for frames in files for frame in frames])
        # Whoever has asked for something waits for the view that shows it.
        if self.is_dirty and (is_urgent or now_ns - self._taken_ns >= VIEW_INTERVAL_NS):
            self._take_view(number, now_ns)
        return number, files

    def _encode(self, records: Sequence[Durable], steps: Sequence[int]) -> list[list[bytes]]:
        """Commit files, each no larger than it may be; what happened in one step goes into one."""
        epoch, first = self.tenure.next_position() if self.has_begun else (1, 1)
        before = 0 if self.has_begun else 1  # an OPEN has its document before its records
        files: list[list[bytes]] = [[]]
        size = begin = 0
        for end in steps:
            if size >= COMMIT_BYTES_MAX:
                files.append([])
                size = 0
            frames, commit = files[-1], first + len(files) - 1
            for record in records[begin:end]:
                self.blobs.note(self.job, record)
                for k, batch in enumerate(batches_of(record)):
                    batch.ref = (epoch, commit, before + len(frames), k)
                frame = encode_record(record)
                frames.append(frame)
                size += len(frame)
                self.logged_bytes += len(frame)
            begin = end
        return files

    def _release_consumed(self, records: Sequence[Durable]) -> None:
        """Nothing is kept: a payload in shared memory goes when it is consumed, a few at a time."""
        for record in records:
            self.blobs.note(self.job, record)
        if len(self.blobs) > self._blobs_max or self.job.is_terminal:
            self.tenure.release_blobs(self.blobs.unused(self.job))
            # Each look goes through all of them: many are left alone for longer than few.
            self._blobs_max = max(_BLOBS_HELD, len(self.blobs) * 5 // 4)

    def spill(self, bytes_max: int) -> None:
        """Drop the payloads queued farthest back: they are in the log and are read back when they are due."""
        self.unspilled_bytes = 0
        if self.memory is not None or self.in_flight is not None:
            return
        held = 0
        seen: set[int] = set()  # one batch may wait in many slots
        for batch in _waiting(self.job):
            if batch.data is None or id(batch) in seen:
                continue
            seen.add(id(batch))
            held += batch.size
            if held > bytes_max and batch.ref is not None:  # else it is not even on its way to the log
                batch.data = None

    def stands(self, number: int) -> list[str]:
        """The commit stands: what was waiting for it may be seen. Returns what is to be logged."""
        self.in_flight = None
        self.volatile_bytes -= self._flying_bytes
        self.unspilled_bytes += self._flying_bytes
        self._flying_bytes = 0
        self.recent.stands(number)
        if self._taken is not None and self._taken[0] <= number:
            self._publish(self._taken[1])
            self._taken = None
        return self.failings.stands(self.job, number)

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

    @contextmanager
    def waiting_for(self, predicate: Callable[[JobView], bool]) -> Iterator[None]:
        """Have whoever waits for :attr:`changed`, which is held here, woken by a view like that, and by no other."""
        self._awaited.append(predicate)
        try:
            yield
        finally:
            self._awaited.remove(predicate)

    def _publish(self, view: JobView) -> None:
        with self.changed:
            self.view = view
            if any(is_it(view) for is_it in self._awaited):
                self.changed.notify_all()

    def lose(self, error: BaseException) -> None:
        """This process does not own the job any more."""
        self.lost = error
        with self.changed:
            self.changed.notify_all()

    def show_blocked(self, blocked: tuple[str, int] | None) -> None:
        self.blocked = blocked
        view = self.view
        if view.version == 0:  # nothing of the job stands yet, but whose it is
            view = view._replace(flow_id=self.job.topology.flow_id, created_ns=self.job.created_ns)
        self._publish(view._replace(blocked=blocked))
