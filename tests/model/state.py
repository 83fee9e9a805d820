"""What the model is about: a disk, processes, rules; and what a reader of that disk can see.

Not here: what a process does next (`protocol`), what must hold (`invariants`). No timing is assumed
anywhere: a process may believe at any moment that the owner is dead, may sleep for ever between two
steps and wake up later, may crash; a reader may see any earlier prefix; the reply to any put may be
lost. The rule it owns: a step is one change of the disk, made atomic by the file server.

Names: a *place* is (epoch, number) of a commit file; `Disk.log[e - 1][n - 1]` is the record there.
Task 0 uses up the job's one blob, task 1 emits the same content again: enough to tell a blob that
has its own name from one that is named by its content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

#: Records: a COMMIT is the number of its task (>= 0); OPEN says how many files the epoch before it has.
SEAL: Final = -1
_OPEN: Final = -10

Record = int | None
Tasks = tuple[int, ...]
Log = tuple[tuple[Record, ...], ...]
Doomed = tuple[str, int, int]
#: What a housekeeping thread does next: (step, epoch, argument), () while it rests.
Keeper = tuple[str, int, tuple[Any, ...]] | tuple[()]


@dataclass(frozen=True)
class Rules:
    """The protocol; each flag that is not at its default takes one rule away."""

    #: A commit file is put if absent; "append": at the end of whatever is there; "overwrite": in place.
    commit: str = "put"
    #: A standby makes the epoch immovable with a SEAL before it opens the next.
    seals: bool = True
    #: A standby that got the lock goes on in the same epoch.
    trusts_lock: bool = False
    #: What an owner makes of a put whose reply was lost.
    lost_reply: str = "give up"
    keeps_seal: bool = True
    keeps_open: bool = True
    #: COMMIT files of an epoch go only when so many newer snapshots are durable.
    snapshots_needed: int = 2
    archives_first: bool = True
    collects_live_epoch: bool = False
    #: A failed fsync is tried again on the same file, which then reports success for lost pages.
    retries_fsync: bool = False
    blob_name: str = "own"
    #: The blob goes only when the commit that released it stands.
    blob_waits_for_commit: bool = True
    #: What nobody named is judged by a log that a SEAL has ended.
    sweeps_below_seal: bool = True
    #: What a living worker of ours wrote may still be named.
    spares_living: bool = True
    #: Also after a take-over a snapshot may be put. (The store does so only after a roll: a subset.)
    snapshot_after_takeover: bool = True


@dataclass(frozen=True)
class Size:
    """How much is explored."""

    processes: int = 3
    tasks: int = 2
    epochs: int = 3
    crashes: int = 1
    #: Whether a standby that read and sleeps is a state of its own. It need not be: as a reading may show
    #: any earlier prefix, one that read long ago and slept is one that reads now and is shown little.
    standbys_remember: bool = True
    #: Task 1's result is a blob that a worker writes some time before the commit that names it.
    has_results: bool = False


class Disk(NamedTuple):
    """What the file server holds, and (ghosts) what stood first at every place."""

    log: Log
    first: Log
    #: By epoch: the tasks that a snapshot of its start contains.
    snapshots: tuple[Tasks | None, ...]
    archives: tuple[tuple[Record, ...] | None, ...]
    has_blob: bool
    #: Places whose data is not on the medium although it was fsynced "successfully".
    volatile: frozenset[tuple[int, int]]
    #: Epochs in whose folder a worker's blob lies; and (ghost) those that a COMMIT names, with its epoch.
    results: frozenset[int] = frozenset()
    named: frozenset[tuple[int, int]] = frozenset()


class Process(NamedTuple):
    """One process, asleep before its next step."""

    #: idle | seal (about to seal `epoch` after `number`) | open | own | rolled
    role: str = "idle"
    epoch: int = 0
    number: int = 0
    done: Tasks = ()
    #: A put of its own, which it believes to have failed, may stand in its next place.
    is_unsure: bool = False
    #: Its housekeeping thread, which outlives ownership.
    keeper: Keeper = ()
    #: The epoch in whose folder its worker has written what task 1's commit will name; 0: none, or it is dead.
    written: int = 0
    #: What `written` was when the epoch before that of `keeper` ended.
    spared: int = 0


class Move(NamedTuple):
    """One step of one process."""

    label: str
    disk: Disk
    process: Process
    #: The task that it now reports as safe.
    acknowledged: int | None = None
    is_crash: bool = False


def opened_after(files: int) -> int:
    return _OPEN - files


def files_before(record: Record) -> int | None:
    """How many files the epoch before has, as the OPEN `record` says; None when it is no OPEN."""
    return _OPEN - record if record is not None and record <= _OPEN else None


class Violation(Exception):
    """An invariant does not hold."""


def first_disk(size: Size) -> Disk:
    """A job was created: OPEN of epoch 1 stands."""
    log: Log = ((opened_after(0),), *((),) * (size.epochs - 1))
    none = (None,) * size.epochs
    return Disk(log, log, none, none, True, frozenset())


def record_at(log: Log, epoch: int, number: int) -> Record:
    if not 1 <= epoch <= len(log) or number > len(log[epoch - 1]):
        return None
    return log[epoch - 1][number - 1]


def with_record(log: Log, epoch: int, number: int, record: Record) -> Log:
    row = log[epoch - 1]
    row += (None,) * (number - len(row))
    row = (*row[: number - 1], record, *row[number:])
    while row and row[-1] is None:
        row = row[:-1]
    return (*log[: epoch - 1], row, *log[epoch:])


# -- reading ------------------------------------------------------------------------------------


def history(disk: Disk) -> Tasks:
    """The truth: all that ever stood, in order, as if nothing were ever deleted."""
    found: list[int] = []
    for epoch in range(1, len(disk.first) + 1):
        row = disk.first[epoch - 1]
        if not row or row[0] is None:
            break
        following = files_before(record_at(disk.first, epoch + 1, 1))
        for record in row[1:following]:
            if record is None or record == SEAL:
                break
            found.append(record)
        if following is None:
            break
    return tuple(found)


def whole_epoch(disk: Disk, epoch: int) -> tuple[Record, ...] | None:
    """The files of an ended epoch, from its directory or its archive; None: neither has all of them."""
    archived = disk.archives[epoch - 1]
    if archived is not None:
        return archived
    following = files_before(record_at(disk.log, epoch + 1, 1))
    if following is None:
        return None
    row = disk.log[epoch - 1][:following]
    is_whole = len(row) == following and None not in row and SEAL not in row[:-1]
    return row if is_whole else None


def tasks_in(row: tuple[Record, ...]) -> Tasks:
    return tuple(record for record in row if record is not None and record >= 0)


def fresh_reading(disk: Disk, *, from_snapshot: bool = True) -> Tasks | None:
    """What a process that never saw the job reads now; None when it cannot be read to its end."""
    start = max((e for e, s in enumerate(disk.snapshots, 1) if s is not None), default=1) if from_snapshot else 1
    done = disk.snapshots[start - 1] or ()
    for epoch in range(start, len(disk.log) + 1):
        whole = whole_epoch(disk, epoch)
        if whole is not None:
            done += tasks_in(whole)
            continue
        row = disk.log[epoch - 1]
        if record_at(disk.log, epoch + 1, 1) is not None or not row or None in row:
            return None
        end = row.index(SEAL) if SEAL in row else len(row)
        return done + tasks_in(row[:end])
    return done


def stale_readings(disk: Disk) -> set[Process]:
    """Every position at which a standby may believe that the log ends: any prefix, from any start."""
    newest = max((e for e, s in enumerate(disk.snapshots, 1) if s is not None), default=1)
    return {reading for start in {1, newest} for reading in _readings_from(disk, start)}


def _readings_from(disk: Disk, start: int) -> Iterator[Process]:
    done = disk.snapshots[start - 1] or ()
    for epoch in range(start, len(disk.log) + 1):
        seen = done
        for number, record in enumerate(disk.log[epoch - 1], 1):
            if record is None:
                break
            if record == SEAL:
                yield Process("open", epoch, number, seen)
                break
            seen += (record,) if record >= 0 else ()
            yield Process("seal", epoch, number, seen)
        whole = whole_epoch(disk, epoch)
        if whole is None:
            break
        done += tasks_in(whole)
