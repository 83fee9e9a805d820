"""Whether a job may go on with the code it finds, when that is not the code it was begun with.

The rule it owns: work that was begun with one code is not ended with another unless somebody has said so. Code that
has not been used yet, and code that will not be used any more, may change as it likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .._core.batch import Batch
from .._core.job import Job
from .._core.records import Adopted, Submitted
from .._core.stimuli import Recode
from .._serialization.packing import pack, unpack
from .._storage.codec import batches_of, decode_record
from .._storage.replay import LogRef
from ..errors import CheckpointDamaged, CodeChanged

if TYPE_CHECKING:
    from .._storage.replay import JobLog


class Kept(NamedTuple):
    """The code that a job keeps: in its first record, or in the newest that says otherwise."""

    #: Signature, code id, environment and bundle; empty: none was kept.
    signed: bytes = b""
    #: ``sources.pack_sources``; empty: an older version did not keep them.
    sources: bytes = b""


def kept_in(frame: bytes) -> Kept:
    """The code in a job's first record."""
    record = decode_record(frame)
    return Kept(*record.code[:2]) if isinstance(record, (Submitted, Adopted)) else Kept()


def kept_by(job: Job, log: JobLog) -> Kept:
    """The code that the job goes on with if nobody brings another."""
    if job.code is None:
        return kept_in(log.first())
    data = job.code.data
    if data is None:
        assert job.code.ref is not None, "what is neither in memory nor in the log does not exist"
        [batch] = batches_of(decode_record(log.read(LogRef(*job.code.ref[:3]))))
        data = batch.data or b""
    return Kept(*unpack(data)[:2])


def recode(job: Job, before: Kept, now: Kept, choice: str) -> list[Recode]:
    """What is to be recorded before the job goes on with the code ``now``: nothing if it is what it was.

    Raises:
        CodeChanged: the code of unfinished or stateful work has changed, and ``choice`` is not ``"reuse"``.
    """
    if not now.sources or not before.sources:
        return []  # nothing is known of the one or the other
    changed = _changes(job, before.sources, now.sources)
    concerned = {rid: why for number, rid, why in _at_stake(job) if rid in changed}
    if concerned and choice != "reuse":
        raise CodeChanged(_told(job, {rid: (why, changed[rid]) for rid, why in concerned.items()}))
    if now == before or (not now.signed and not changed):
        return []  # the same; or the same, run by a process that ships none: what is kept stays good
    return [Recode(Batch(1, pack(now)))]


def _changes(job: Job, before: bytes, now: bytes) -> dict[str, list[str]]:
    from .._serialization import sources

    if before == now:
        return {}
    old, new = sources.unpack_sources(before), sources.unpack_sources(now)
    try:
        found = {rid: sources.changes(old[rid], new[rid]) for rid in old if rid in new}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointDamaged(f"job {job.job_id}: the sources it keeps make no sense: {error!r}") from error
    return {rid: what for rid, what in found.items() if what}


def _at_stake(job: Job) -> Iterator[tuple[int, str, str]]:
    """Routines of which something is half done: (number, id, what)."""
    busy = {number for number, routine in enumerate(job.routines) if not routine.is_idle or any(routine.slots)}
    busy |= {deferred.routine for deferred in job.deferred}
    for number, routine in enumerate(job.routines):
        rid = job.routine_id(number)
        has_begun = routine.done > 0 or routine.has_run
        if number in busy:
            yield number, rid, "has unfinished work"
        elif job.state.get(rid):
            yield number, rid, "has state"
        elif has_begun and (job.is_open or busy & job.topology.upstream[number]):
            yield number, rid, "has done a part of its work"


def _told(job: Job, concerned: dict[str, tuple[str, list[str]]]) -> str:
    lines = [f"job {job.job_id} would go on with other code than it was begun with:"]
    for rid, (why, what) in concerned.items():
        lines.append(f"  routine '{rid}' {why}, and its code has changed: {'; '.join(what)}")
    lines.append(
        "Put the old code back; or go on with the new code, keeping what is done: on_code_change='reuse'; "
        "or begin again with it, as a new job: on_code_change='rerun' (routilux-mp resume --on-code-change ...)"
    )
    return "\n".join(lines)
