"""The ownership protocol as a transition system: what one process can do next on one disk.

Not here: exploring the reachable states (`explorer`), the broken variants (`variants`). Each flag of
`Rules` is asked in the one step that it is about.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.state import (
    SEAL,
    Disk,
    Doomed,
    Keeper,
    Move,
    Process,
    Rules,
    Size,
    Violation,
    files_before,
    opened_after,
    record_at,
    stale_readings,
    whole_epoch,
    with_record,
)


def moves(disk: Disk, process: Process, rules: Rules, size: Size) -> Iterator[Move]:
    """Everything that `process` may do next."""
    role = process.role
    if role == "idle" and size.standbys_remember:
        yield from _read(disk, process, rules, size)
    elif role == "idle":
        yield from _read_and_put(disk, process, rules, size)
    elif role == "seal":
        yield from _seal(disk, process)
        yield from _sweep_early(disk, process, process, rules)
    elif role in ("open", "rolled"):
        yield from _open(disk, process, rules)
    else:
        if size.has_results:
            yield from _work(disk, process)
        yield from _commit(disk, process, rules, size)
        yield from _roll(disk, process, size)
        yield from _break_rules(disk, process, rules)
    if process.keeper:
        yield from _keep(disk, process, rules)
    elif role == "own" and _has_work(disk, process, rules):
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
            after = _believes(reading, rules)._replace(keeper=process.keeper, spared=process.spared)
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
        standby = _believes(reading, rules)._replace(keeper=process.keeper, spared=process.spared)
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
            yield from _sweep_early(disk, standby, process, rules)


def _without_result(disk: Disk, epoch: int) -> Disk:
    return disk._replace(results=disk.results - {epoch})


def _work(disk: Disk, process: Process) -> Iterator[Move]:
    """A worker writes the blob that task 1's commit will name, or dies before that."""
    if process.written:
        yield Move("its worker dies", disk, process._replace(written=0))
    elif 1 not in process.done and process.epoch not in disk.results:
        after = disk._replace(results=disk.results | {process.epoch})
        yield Move(f"its worker writes a blob in {process.epoch}", after, process._replace(written=process.epoch))


def _sweep_early(disk: Disk, reading: Process, after: Process, rules: Rules) -> Iterator[Move]:
    """Only broken: what nobody has named so far is taken for what nobody will name."""
    if not rules.sweeps_below_seal and 1 not in reading.done:
        for epoch in sorted(e for e in disk.results if e <= reading.epoch):
            yield Move(f"delete the blob of epoch {epoch}", _without_result(disk, epoch), after)


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
    return Process(keeper=process.keeper, spared=process.spared)


def _seal(disk: Disk, process: Process) -> Iterator[Move]:
    epoch, number, done = process.epoch, process.number, process.done
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
    role, epoch, number, done = process.role, process.epoch, process.number, process.done
    if epoch >= len(disk.log):
        return
    at = f"OPEN {epoch + 1}"
    put = _put(disk, epoch + 1, 1, opened_after(number))
    if put is None:
        yield Move(f"{at} is taken: stands by", disk, _gives_up(process))
        return
    snapshots = role == "rolled" or rules.snapshot_after_takeover
    keeper = ("snapshot" if snapshots else "begin", epoch + 1, done if snapshots else ())
    after = Process("own", epoch + 1, 1, done, keeper=keeper, written=process.written, spared=process.written)
    yield Move(f"put {at}", put, after)
    yield Move(f"put {at}, reply lost", put, _gives_up(process))


def _commit(disk: Disk, process: Process, rules: Rules, size: Size) -> Iterator[Move]:
    epoch, number, done, is_unsure = process.epoch, process.number, process.done, process.is_unsure
    todo = [task for task in range(size.tasks) if task not in done]
    if size.has_results and not process.written:
        todo = [task for task in todo if task != 1]
    # Only an owner that believes a put to have failed may come up with another batch for the same place.
    for task in todo if is_unsure else todo[:1]:
        place = (epoch, number + 1)
        if rules.commit == "append":
            place = (epoch, len(disk.log[epoch - 1]) + 1)
        at = f"COMMIT of task {task} at {place[0]}/{place[1]}"
        after = process._replace(number=number + 1, done=(*done, task), is_unsure=False)
        if task == 1:
            after = after._replace(written=0)
        before = disk
        if rules.commit == "overwrite":
            before = disk._replace(log=with_record(disk.log, *place, None))
        put = _put(before, *place, task)
        if put is None:
            if is_unsure:
                yield Move(f"{at}: takes what stands there for it", disk, after, acknowledged=task)
            else:
                yield Move(f"{at}: the place is taken, fenced", disk, _gives_up(process))
            continue
        if task == 1 and rules.blob_name == "content":
            put = put._replace(has_blob=True)
        if task == 1 and process.written:
            put = put._replace(named=put.named | {(process.written, epoch)})
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
    epoch, number, done = process.epoch, process.number, process.done
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
            doomed = _doomed(disk, epoch, rules) + _leftovers(disk, epoch, process, rules)
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


def _leftovers(disk: Disk, epoch: int, process: Process, rules: Rules) -> tuple[Doomed, ...]:
    """Blobs that no COMMIT below `epoch` names and none from there on will."""
    named = {x for x, e in disk.named if e < epoch}
    spared = process.spared if rules.spares_living else 0
    return tuple(("result", x, 0) for x in sorted(disk.results - named) if x < epoch and x != spared)


def _has_work(disk: Disk, process: Process, rules: Rules) -> bool:
    epoch = process.epoch
    if rules.archives_first and _without_archive(disk, epoch):
        return True
    return bool(_doomed(disk, epoch, rules) or _leftovers(disk, epoch, process, rules))


def _without(disk: Disk, doomed: Doomed) -> Disk:
    kind, x, n = doomed
    if kind == "file":
        return disk._replace(log=with_record(disk.log, x, n, None))
    if kind == "snapshot":
        return disk._replace(snapshots=(*disk.snapshots[: x - 1], None, *disk.snapshots[x:]))
    if kind == "result":
        return _without_result(disk, x)
    return disk._replace(has_blob=False)
