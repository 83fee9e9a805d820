"""The ownership protocol as a transition system: what one process can do next on one disk.

Not here: exploring the reachable states (`explorer`), or the broken variants (`variants`). No timing
is assumed anywhere: a process may believe at any moment that the owner is dead, may sleep for ever
between two steps and wake up later, may crash; a reader may see any earlier prefix; the reply to any
put may be lost. The rule it owns: a step is one change of the disk, made atomic by the file server.

Names: a *place* is (epoch, number) of a commit file; `Disk.log[e - 1][n - 1]` is the record there.
Task 0 uses up the job's one blob, task 1 emits the same content again: enough to tell a blob that
has its own name from one that is named by its content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
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


class Move(NamedTuple):
    """One step of one process."""

    label: str
    disk: Disk
    process: Process
    #: The task that it now reports as safe.
    acknowledged: int | None = None
    is_crash: bool = False


class Violation(Exception):
    """An invariant does not hold."""


def opened_after(files: int) -> int:
    return _OPEN - files


def files_before(record: Record) -> int | None:
    """How many files the epoch before has, as the OPEN `record` says; None when it is no OPEN."""
    return _OPEN - record if record is not None and record <= _OPEN else None


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


# -- steps --------------------------------------------------------------------------------------


def moves(disk: Disk, process: Process, rules: Rules, size: Size) -> Iterator[Move]:
    """Everything that `process` may do next."""
    role = process.role
    if role == "idle" and size.standbys_remember:
        yield from _read(disk, process, rules, size)
    elif role == "idle":
        yield from _read_and_put(disk, process, rules, size)
    elif role == "seal":
        yield from _seal(disk, process)
    elif role in ("open", "rolled"):
        yield from _open(disk, process, rules)
    else:
        yield from _commit(disk, process, rules, size)
        yield from _roll(disk, process, size)
        yield from _break_rules(disk, process, rules)
    if process.keeper:
        yield from _keep(disk, process, rules)
    elif role == "own" and _has_work(disk, process.epoch, rules):
        yield Move("housekeep again", disk, process._replace(keeper=_archiving(disk, process.epoch, rules)))
    if role != "idle" or process.keeper:
        yield Move("crash", disk, Process(), is_crash=True)


def power_cut(disk: Disk) -> Disk:
    """Every process is gone, and so is what was not really on the medium."""
    log = disk.log
    for epoch, number in disk.volatile:
        log = with_record(log, epoch, number, None)
    return disk._replace(log=log, volatile=frozenset())


def _read(disk: Disk, process: Process, rules: Rules, size: Size) -> Iterator[Move]:
    for reading in stale_readings(disk):
        if reading.epoch < size.epochs or reading.role != "open":
            after = _believes(reading, rules)._replace(keeper=process.keeper)
            yield Move(f"read to {reading.epoch}/{reading.number}", disk, after)


def _believes(reading: Process, rules: Rules) -> Process:
    """What a standby makes of a reading."""
    if rules.trusts_lock:
        return reading._replace(role="own")
    return reading if rules.seals else reading._replace(role="open")


def _read_and_put(disk: Disk, process: Process, rules: Rules, size: Size) -> Iterator[Move]:
    """A reading as of any earlier moment, and the put that it leads to."""
    ever = disk._replace(log=disk.first)
    for reading in stale_readings(disk) | stale_readings(ever):
        standby = _believes(reading, rules)._replace(keeper=process.keeper)
        if standby.role == "own":
            yield Move(f"read to {reading.epoch}/{reading.number}", disk, standby)
        elif standby.role == "open":
            yield from _open(disk, standby, rules)
        else:
            for move in _seal(disk, standby):
                if move.disk == disk:
                    continue  # it walks on: that is a reading which shows one file more
                if record_at(disk.first, standby.epoch, standby.number + 1) is None:
                    move = move._replace(process=_gives_up(standby))  # anybody may read this SEAL
                yield move


def _put(disk: Disk, epoch: int, number: int, record: int) -> Disk | None:
    """put-if-absent: None when something is there."""
    if record_at(disk.log, epoch, number) is not None:
        return None
    first = disk.first
    if record_at(first, epoch, number) is None:
        first = with_record(first, epoch, number, record)
    elif number == 1:
        raise Violation(f"two owners: OPEN of epoch {epoch} stood twice")
    return disk._replace(log=with_record(disk.log, epoch, number, record), first=first)


def _gives_up(process: Process) -> Process:
    """A standby again; its housekeeping thread may go on for a while."""
    return Process(keeper=process.keeper)


def _seal(disk: Disk, process: Process) -> Iterator[Move]:
    _, epoch, number, done, _, _ = process
    at = f"SEAL {epoch}/{number + 1}"
    put = _put(disk, epoch, number + 1, SEAL)
    if put is not None:
        yield Move(f"put {at}", put, process._replace(role="open", number=number + 1))
        yield Move(f"put {at}, reply lost", put, _gives_up(process))
        return
    there = record_at(disk.log, epoch, number + 1)
    assert there is not None
    if there == SEAL:
        yield Move(f"{at} is there", disk, process._replace(role="open", number=number + 1))
    else:
        yield Move(f"{at}: walks over a COMMIT", disk, process._replace(number=number + 1, done=(*done, there)))


def _open(disk: Disk, process: Process, rules: Rules) -> Iterator[Move]:
    role, epoch, number, done, _, _ = process
    if epoch >= len(disk.log):
        return
    at = f"OPEN {epoch + 1}"
    put = _put(disk, epoch + 1, 1, opened_after(number))
    if put is None:
        yield Move(f"{at} is taken: stands by", disk, _gives_up(process))
        return
    snapshots = role == "rolled" or rules.snapshot_after_takeover
    keeper = ("snapshot" if snapshots else "begin", epoch + 1, done if snapshots else ())
    yield Move(f"put {at}", put, Process("own", epoch + 1, 1, done, keeper=keeper))
    yield Move(f"put {at}, reply lost", put, _gives_up(process))


def _commit(disk: Disk, process: Process, rules: Rules, size: Size) -> Iterator[Move]:
    _, epoch, number, done, is_unsure, _ = process
    todo = [task for task in range(size.tasks) if task not in done]
    # Only an owner that believes a put to have failed may come up with another batch for the same place.
    for task in todo if is_unsure else todo[:1]:
        place = (epoch, number + 1)
        if rules.commit == "append":
            place = (epoch, len(disk.log[epoch - 1]) + 1)
        at = f"COMMIT of task {task} at {place[0]}/{place[1]}"
        after = process._replace(number=number + 1, done=(*done, task), is_unsure=False)
        put = _put(disk._replace(log=with_record(disk.log, *place, None)) if rules.commit == "overwrite" else disk,
                   *place, task)
        if put is None:
            if is_unsure:
                yield Move(f"{at}: takes what stands there for it", disk, after, acknowledged=task)
            else:
                yield Move(f"{at}: the place is taken, fenced", disk, _gives_up(process))
            continue
        if task == 1 and rules.blob_name == "content":
            put = put._replace(has_blob=True)
        if rules.retries_fsync:
            put = put._replace(volatile=put.volatile | {place})
        yield Move(f"put {at}", put, after, acknowledged=task)
        if rules.lost_reply == "is success":
            yield Move(f"{at} fails, taken as success", disk, after, acknowledged=task)
        elif rules.lost_reply == "is failure":
            yield Move(f"put {at}, taken as failure", put, process._replace(is_unsure=True))
        yield Move(f"put {at}, reply lost", put, _gives_up(process))
        yield Move(f"{at}: an error at link, gives up", disk, _gives_up(process))


def _roll(disk: Disk, process: Process, size: Size) -> Iterator[Move]:
    if process.epoch >= size.epochs:
        return
    at = f"SEAL {process.epoch}/{process.number + 1} (roll)"
    put = _put(disk, process.epoch, process.number + 1, SEAL)
    if put is None:
        yield Move(f"{at}: the place is taken, fenced", disk, _gives_up(process))
        return
    yield Move(f"put {at}", put, process._replace(role="rolled", number=process.number + 1, is_unsure=False))
    yield Move(f"put {at}, reply lost", put, _gives_up(process))


def _break_rules(disk: Disk, process: Process, rules: Rules) -> Iterator[Move]:
    """Steps that only broken variants have."""
    _, epoch, number, done, _, _ = process
    if rules.collects_live_epoch and number > 2:
        log = disk.log
        for place in range(2, number):
            log = with_record(log, epoch, place, None)
        if log != disk.log:
            yield Move(f"delete COMMITs of live epoch {epoch}", disk._replace(log=log), process)
    if not rules.blob_waits_for_commit and 0 not in done and disk.has_blob:
        yield Move("delete the blob that task 0 has used", disk._replace(has_blob=False), process)


# -- housekeeping, beside the commits ----------------------------------------------------------------


def _keep(disk: Disk, process: Process, rules: Rules) -> Iterator[Move]:
    step, epoch, argument = process.keeper  # type: ignore[misc]
    match step:
        case "snapshot":
            snapshots = disk.snapshots
            if snapshots[epoch - 1] is None:
                snapshots = (*snapshots[: epoch - 1], argument, *snapshots[epoch:])
            after = disk._replace(snapshots=snapshots)
            yield Move(f"put snapshot {epoch}", after, process._replace(keeper=_archiving(after, epoch, rules)))
        case "begin":
            yield Move("look for ended epochs", disk, process._replace(keeper=_archiving(disk, epoch, rules)))
        case "archive":
            x, *rest = argument
            archives, whole = disk.archives, whole_epoch(disk, x)
            if archives[x - 1] is None and whole is not None:
                archives = (*archives[: x - 1], whole, *archives[x:])
            keeper = ("archive", epoch, tuple(rest)) if rest else ("collect", epoch, ())
            yield Move(f"put archive {x}", disk._replace(archives=archives), process._replace(keeper=keeper))
        case "collect":
            doomed = _doomed(disk, epoch, rules)
            yield Move("choose what to collect", disk, process._replace(keeper=_deleting(epoch, doomed)))
        case "delete":
            (kind, x, n), *rest = argument
            following = process._replace(keeper=_deleting(epoch, tuple(rest)))
            yield Move(f"delete {kind} {x}/{n}", _without(disk, (kind, x, n)), following)


def _archiving(disk: Disk, epoch: int, rules: Rules) -> Keeper:
    missing = _without_archive(disk, epoch)
    return ("archive", epoch, missing) if missing and rules.archives_first else ("collect", epoch, ())


def _without_archive(disk: Disk, epoch: int) -> tuple[int, ...]:
    return tuple(x for x in range(1, epoch) if disk.archives[x - 1] is None and whole_epoch(disk, x) is not None)


def _deleting(epoch: int, doomed: tuple[Doomed, ...]) -> Keeper:
    return ("delete", epoch, doomed) if doomed else ()


def _doomed(disk: Disk, epoch: int, rules: Rules) -> tuple[Doomed, ...]:
    """What rule 5 allows the owner of `epoch` to delete."""
    kept = [e for e in range(len(disk.snapshots), 0, -1) if disk.snapshots[e - 1] is not None]
    if len(kept) < rules.snapshots_needed:
        return ()
    limit = kept[rules.snapshots_needed - 1]
    doomed: list[Doomed] = []
    for x in range(1, min(limit, epoch)):
        following = files_before(record_at(disk.log, x + 1, 1))
        if following is None or (rules.archives_first and disk.archives[x - 1] is None):
            continue
        low, high = (2 if rules.keeps_open else 1), (following - 1 if rules.keeps_seal else following)
        doomed += [("file", x, n) for n in range(low, high + 1) if record_at(disk.log, x, n) is not None]
    doomed += [("snapshot", x, 0) for x in kept if x < limit]
    released = next((e for e, row in enumerate(disk.first, 1) if 0 in row[1:]), None)
    if disk.has_blob and released is not None and released < limit and epoch > 1:  # it was written in epoch 1
        doomed.append(("blob", 0, 0))
    return tuple(doomed)


def _has_work(disk: Disk, epoch: int, rules: Rules) -> bool:
    return bool((rules.archives_first and _without_archive(disk, epoch)) or _doomed(disk, epoch, rules))


def _without(disk: Disk, doomed: Doomed) -> Disk:
    kind, x, n = doomed
    if kind == "file":
        return disk._replace(log=with_record(disk.log, x, n, None))
    if kind == "snapshot":
        return disk._replace(snapshots=(*disk.snapshots[: x - 1], None, *disk.snapshots[x:]))
    return disk._replace(has_blob=False)


# -- what must hold ---------------------------------------------------------------------------------


def check_disk(disk: Disk, rules: Rules, damaged_max: int) -> None:
    """Every reader reads the truth, also when any `damaged_max` snapshots and archives are damaged."""
    truth = history(disk)
    found = fresh_reading(disk, from_snapshot=False)
    if found != truth:
        raise Violation(f"the history reads as {found}, it was {truth}")
    files = [("snapshots", e) for e, s in enumerate(disk.snapshots) if s is not None]
    files += [("archives", e) for e, a in enumerate(disk.archives) if a is not None]
    for count in range(damaged_max + 1):
        for damaged in combinations(files, count):
            found = fresh_reading(_damage(disk, damaged))
            if found is None or set(found) != set(truth):
                raise Violation(f"with {damaged} damaged the state reads as {found}, it was {truth}")
    for state in [truth, *_newest_two(disk)]:
        names_blob = 0 not in state or (rules.blob_name == "content" and 1 in state)
        if names_blob and not disk.has_blob:
            raise Violation(f"the blob that state {state} names is gone")


def check_acknowledged(disk: Disk, acknowledged: Tasks) -> None:
    """What was reported as safe is in the history, and nothing is there or was reported twice."""
    truth = history(disk)
    if len(set(truth)) != len(truth):
        raise Violation(f"a task was committed twice: {truth}")
    if len(set(acknowledged)) != len(acknowledged):
        raise Violation(f"a task was acknowledged twice: {acknowledged}")
    lost = set(acknowledged) - set(truth)
    if lost:
        raise Violation(f"acknowledged tasks {sorted(lost)} are not in the history {truth}")


def check_growth(before: Disk, after: Disk) -> None:
    """What was once in the history stays where it is."""
    old, new = history(before), history(after)
    if new[: len(old)] != old:
        raise Violation(f"the history {old} became {new}")


def _damage(disk: Disk, files: tuple[tuple[str, int], ...]) -> Disk:
    for kind, index in files:
        row = getattr(disk, kind)
        disk = disk._replace(**{kind: (*row[:index], None, *row[index + 1 :])})
    return disk


def _newest_two(disk: Disk) -> list[Tasks]:
    return [state for state in reversed(disk.snapshots) if state is not None][:2]
