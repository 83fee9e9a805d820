"""One activation from the log, for ``show JOB ACTIVATION``: its attempts, what each died of, what can be done.

Nothing is written, and nothing of the user's is opened: of input only plain data is shown, shortened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from .._core.job import Group, Item, Job, Run
from .._core.records import Durable, Failed
from .._serialization.batch import decode_batch
from .._serialization.places import emission_place, slot_place
from .._storage.codec import batches_of, decode_record
from .._storage.reader import LogRef
from .._storage.replay import JobLog
from .._storage.store import Store
from .._supervisor.recovery import fold
from .._worker.spill import describe_reference, is_reference
from ..errors import RoutiluxError, UnknownName
from ..settings import Settings

#: Failures that ``show JOB`` lists, the newest.
FAILURES_SHOWN = 5
_INPUT_CHARACTERS_MAX = 500

#: What followed from a failed attempt, for people.
_FOLLOWS = {
    "retry": "to be tried again",
    "again": "to be run again, alone",
    "continue": "the job goes on",
    "skip": "skipped",
    "tolerate": "the job goes on",
    "stop": "the job fails",
    "dead": "a dead letter; the job goes on",
    "dead_stop": "a dead letter; the job fails",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that failed."""

    activation: str
    attempt: int
    time: str
    #: ``error``, ``timeout``, ``crash`` or ``storage``
    kind: str
    error_type: str
    #: Of a crash or a timeout: how the worker process ended.
    message: str
    traceback: str
    #: What came of it.
    follows: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What ``show JOB ACTIVATION`` prints."""

    job_id: str
    activation: str
    #: ``done``, ``queued``, ``waits for its retry``, ``dead letter``
    stands: str
    #: Plain data, shortened; empty when it is done.
    input: str
    attempts: tuple[Attempt, ...]
    #: Commands that do something about it.
    next: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def activation(root: str, job_id: str, name: str) -> Shown:
    """What the log says of one activation; ``name``: routine/number, as others print it.

    Raises:
        UnknownName: there is no such job, routine or activation.
        CheckpointDamaged: the log cannot be read.
    """
    settings = Settings.load(checkpoint_dir=root)
    with Store(root, settings) as store:
        log = store.read(job_id)
        job = fold(log, settings)
        number, seq = _parsed(job, name)
        attempts = [a for a in _attempts(job, _records(log.history())) if a.activation == name]
        stands, item = _where(job, number, seq)
        return Shown(
            job_id, name, stands, "" if item is None else _input(job, log, number, item, seq), tuple(attempts),
            _next(stands, store.view_paths(job_id).job, name),
        )  # fmt: skip


def newest_failures(job: Job, log: JobLog) -> list[Attempt]:
    """The last failed attempts, the newest last; the log is read from its end, and only if anything failed."""
    has_failed = job.dead_letters or any(routine.failures for routine in job.routines)
    if not has_failed and not any(said.get("error") for said in job.framework.values()):
        return []
    found: list[Attempt] = []
    for frames in log.backwards():
        found = [*_attempts(job, _records(frames)), *found]
        if len(found) >= FAILURES_SHOWN:
            break
    return found[-FAILURES_SHOWN:]


def _records(frames: Iterable[tuple[Any, bytes]]) -> Iterator[Durable]:
    return (decode_record(data, tuple(ref)) for ref, data in frames)


def _attempts(job: Job, records: Iterable[Durable]) -> Iterator[Attempt]:
    for record in records:
        if isinstance(record, Failed):
            failure, rid = record.failure, job.routine_id(record.routine)
            yield Attempt(
                activation=f"{rid}/{record.seq}" if record.seq >= 0 else f"{rid}: its policy",
                attempt=record.attempt,
                time=datetime.fromtimestamp(record.time_ns / 1e9).isoformat(timespec="milliseconds"),
                kind=failure.kind,
                error_type=failure.type_name,
                message=failure.message,
                traceback=failure.traceback,
                follows=_FOLLOWS.get(record.action, record.action),
            )


def _parsed(job: Job, name: str) -> tuple[int, int]:
    routine_id, _, digits = name.rpartition("/")
    number = job.topology.index_of(routine_id)
    if number is None or not digits.isdecimal():
        known = ", ".join(spec.routine_id for spec in job.topology.routines)
        raise UnknownName(f"'{name}' names no activation: it is routine/number, and the routines are {known}")
    if int(digits) >= job.routines[number].next_seq:
        count = job.routines[number].next_seq
        raise UnknownName(f"routine '{routine_id}' of job {job.job_id} has had {count} activations, from 0 on")
    return number, int(digits)


def _where(job: Job, number: int, seq: int) -> tuple[str, Item | None]:
    routine = job.routines[number]
    if seq in routine.special:
        special = routine.special[seq]
        return ("waits for its retry" if special.due_ns or special.attempt > 1 else "queued"), special.item
    for letter in job.dead_letters:
        if (letter.routine, letter.seq) == (number, seq):
            return "dead letter", letter.item
    for item in routine.ready:
        if item.seq <= seq < item.seq + item.count:
            return "queued", item
    return "done", None


def _input(job: Job, log: JobLog, number: int, item: Item, seq: int) -> str:
    try:
        if isinstance(item, Group):
            slots = job.topology.routines[number].slots
            values: Any = {slots[run.slot]: _values(job, log, number, run) for run in item.runs}
        else:
            values = _values(job, log, number, item)[seq - item.seq]
    except RoutiluxError as error:
        return f"not shown: {error}"
    text = repr(values)
    return text if len(text) <= _INPUT_CHARACTERS_MAX else f"{text[:_INPUT_CHARACTERS_MAX]}…"


def _values(job: Job, log: JobLog, number: int, run: Run) -> list[Any]:
    batch, routines = run.batch, job.topology.routines
    data = batch.data
    if data is None:
        assert batch.ref is not None, "what is neither in memory nor in the log does not exist"
        data = list(batches_of(decode_record(log.read(LogRef(*batch.ref[:3])))))[batch.ref[3]].data or b""
    if is_reference(data):
        return [describe_reference(data)] * run.count
    if run.connection < 0:
        place = slot_place(job.job_id, routines[number].routine_id, routines[number].slots[run.slot])
    else:
        source, event, _, _ = job.topology.connections[run.connection]
        place = emission_place(job.job_id, routines[source].routine_id, routines[source].events[event])
    return decode_batch(data, None, place, run.start, run.count)


def _next(stands: str, path: str, name: str) -> tuple[str, ...]:
    if stands in ("dead letter", "waits for its retry"):
        return (f"routilux-mp retry {path} {name}", f"routilux-mp skip {path} {name}")
    return ()
