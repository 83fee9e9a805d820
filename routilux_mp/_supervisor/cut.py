"""A job at one commit, whole and self-contained: what a serialised JobState is made from.

Taken in the loop's thread, so that nothing moves meanwhile; payloads that lie in the log or in blobs are
fetched afterwards. The rule owned here: a cut refers to nothing outside of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from .._core.batch import Batch
from .._core.invariants import InvariantBroken, check
from .._core.job import Job
from .._core.outstanding import Owed, needed_batches, outstanding
from .._core.plain import fill, to_plain, with_entry
from .._core.view import JobView, view_of
from .._serialization.packing import pack, unpack
from .._worker.spill import referred_bytes
from ..errors import CheckpointDamaged
from ..settings import Settings
from . import recovery

if TYPE_CHECKING:
    from .._worker.records import HistoryItem, OutputItem
    from .handle import JobHandle

_FORMAT = 1


class Taken(NamedTuple):
    """What is copied in the loop's thread."""

    plain: bytes
    #: Payloads that are in memory but named by their place in the log.
    payloads: dict[tuple[int, int, int, int], bytes]
    #: Of all payloads that are needed to go on, as far as it is known without reading them.
    size_bytes: int
    view: JobView
    version: int  # of the view that will show at least as much
    time_ns: int
    #: Of all payloads nothing is needed but what the job was begun with.
    is_done: bool


def take(job: Job, version: int, now_ns: int) -> Taken:
    """Copy the job as it stands now."""
    batches = list(needed_batches(job))
    payloads = {b.ref: b.data for b in batches if b.ref is not None and b.data is not None}
    size = sum({id(b): (referred_bytes(b.data) if b.data else 0) or b.size for b in batches}.values())
    is_done = len(batches) == (job.entry_batch is not None)  # a failed entry has the same batch once more
    return Taken(pack(to_plain(job)), payloads, size, view_of(job, version), version, now_ns, is_done)


def task_of(job_id: str, routine_id: str, owed: Owed, seq: int, slot: str | None, data: Any) -> dict[str, Any]:
    """An activation that has not returned, as it is shown to people."""
    return {
        "activation_id": f"{job_id}/{routine_id}/{seq}",
        "routine_id": routine_id,
        "slot_name": slot,
        "data": data,
        "priority": 0,
        "metadata": {},
        "attempt": owed.attempt,
        "not_before": owed.due_ns,
    }


class Cut:
    """The cut, with the same names for reading as ``JobHandle``."""

    def __init__(self, handle: JobHandle, taken: Taken, settings: Settings, bytes_max: int | None) -> None:
        """``bytes_max``: payloads above that are left where they are; :attr:`is_whole` is then False."""
        self._handle = handle
        self._taken = taken
        self._settings = settings
        self.job_id = handle.job_id
        self.view = taken.view
        self.time_ns = taken.time_ns
        self.size_bytes, self.logged_bytes = taken.size_bytes, handle.live.logged_bytes
        self.is_whole = bytes_max is None or taken.size_bytes <= bytes_max
        if not taken.is_done:
            self.job  # noqa: B018 - what it refers to is fetched now

    @cached_property
    def job(self) -> Job:
        """The job as it was."""
        job = recovery.new_job(self.job_id, self._settings)
        fill(job, unpack(self._taken.plain))
        for batch in needed_batches(job) if self.is_whole else ():
            self._fetch(batch)
        return job

    def _fetch(self, batch: Batch) -> None:
        data = batch.data if batch.data is not None or batch.ref is None else self._taken.payloads.get(batch.ref)
        whole = self._handle.payload_of(batch) if data is None else self._handle.open_payload(data)
        batch.data, batch.ref, batch.size = bytes(whole), None, len(whole)

    def engine(self) -> bytes:
        """Everything that is needed to go on."""
        return pack({"v": _FORMAT, "time_ns": self.time_ns, "job": self._plain()})

    def _plain(self) -> dict[str, Any]:
        if not self._taken.is_done:
            return to_plain(self.job)
        plain: dict[str, Any] = unpack(self._taken.plain)
        with_entry(plain, self._fetch)
        return plain

    def pending(self) -> list[dict[str, Any]]:
        """Activations that have not returned, in order per routine; of a cut that is not whole without their data."""
        if self.is_whole:
            return self._handle.tasks(outstanding(self.job))
        specs = self.job.topology.routines
        return [
            task_of(self.job_id, specs[owed.routine].routine_id, owed, owed.item.seq + offset, None, None)
            for owed in outstanding(self.job)
            for offset in range(owed.item.count)
        ]

    def history(self) -> Iterator[HistoryItem]:
        """The history up to this commit."""
        return islice(self._handle.history(), self.view.history_count)

    def newest_history(self, count: int, bytes_max: int) -> list[HistoryItem]:
        """Its newest part."""
        return self._handle.newest_history(count, bytes_max)

    def shared_log(self) -> Iterator[Any]:
        """The shared log up to this commit."""
        return islice(self._handle.shared_log(), self.view.log_count)

    def outputs(self) -> Iterator[OutputItem]:
        """The outputs up to this commit."""
        return islice(self._handle.outputs(), self.view.sent_count)


def read_engine(data: bytes, job_id: str, settings: Settings, now_ns: int) -> tuple[Job, int]:
    """The job that :meth:`Cut.engine` described, to go on at ``now_ns``; and when it had changed last.

    A retry that waits does so for what was left of its delay, or until it is due, whichever is sooner.

    Raises:
        CheckpointDamaged: it is no such description, or one that contradicts itself.
    """
    where = f"the document of job {job_id}"
    job = recovery.new_job(job_id, settings)
    try:
        content = unpack(data)
        if content["v"] != _FORMAT:
            raise CheckpointDamaged(f"{where} was written in format {content['v']!r}; use a newer routilux_mp")
        fill(job, content["job"])
        check(job)
        taken_ns = int(content["time_ns"])
        batches: list[Batch] = list(needed_batches(job))
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, InvariantBroken) as error:
        raise CheckpointDamaged(f"{where} is damaged: what is to be gone on with makes no sense: {error!r}") from error
    if any(type(batch.data) is not bytes for batch in batches):
        raise CheckpointDamaged(f"{where} is damaged: it lacks data that is still needed")
    for batch in batches:
        batch.ref = None

    def sooner(due_ns: int) -> int:
        return min(due_ns, now_ns + max(0, due_ns - taken_ns)) if due_ns else 0

    for routine in job.routines:
        routine.ask_due_ns = sooner(routine.ask_due_ns)
        for seq, special in routine.special.items():
            routine.special[seq] = special._replace(due_ns=sooner(special.due_ns))
    job.answered, job.answered_low, job.is_offered = {}, "", False
    return job, job.updated_ns
