"""Judges one run, from what its processes said in private files and from the directory as it stands at the end.

It believes nobody: the log is read by a reader of its own (``chain``), and the package's replay must come to the
same end.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final, NamedTuple

from routilux_mp._core.records import Completed, Ended, Failed, Skipped, Submitted
from routilux_mp._core.topology import Topology
from routilux_mp._serialization.batch import decode_batch, decode_value
from routilux_mp._storage.codec import decode_record
from routilux_mp._storage.store import Store
from routilux_mp._supervisor import recovery
from routilux_mp.errors import RoutiluxError
from routilux_mp.settings import Settings
from tests.torture.chain import COMMIT, OPEN, SEAL, NotWhole, Placed, chain
from tests.torture.notes import Note

#: A stopped owner's workers start nothing after the lease; how late a busy machine may be with that.
_LATE_NS: Final = 5_000_000_000


class Frozen(NamedTuple):
    """A supervisor stood still."""

    family: int
    from_ns: int
    until_ns: int


class Committed(NamedTuple):
    """What the log says, without opening what users see."""

    done: dict[str, tuple[int, int]]  # key of an activation -> the commit that says that it is done
    results: list[tuple[int, str]]  # (i, token), in order
    status: str


def judge(
    job: Path, said: Sequence[Note], frozen: Sequence[Frozen], lease_s: float, wanted: Iterable[int],
    optional: set[int],
) -> list[str]:  # fmt: skip
    """What is wrong; nothing, one hopes. ``wanted``: what the job must have counted; ``optional``: what it may have."""
    said = [note for note in said if note.words[0].partition("/")[0] == job.name]
    try:
        files = chain(job)
        committed = _committed(job.name, files)
    except (NotWhole, RoutiluxError, LookupError) as error:
        return [f"the log: {error}"]
    wrong = [*_owners(files), *_acknowledged(files, said), *_end(files, committed, set(wanted), optional)]
    wrong += [f"a caller was told '{n.words[1]}'" for n in said if n.kind == "C" and n.words[1] != committed.status]
    mine = [note for note in said if note.kind in "SE"]
    wrong += _handlers(mine, committed)
    wrong += _ran_again(mine, committed, said, frozen, int(lease_s * 1e9))
    wrong += _replay(job, committed)
    return wrong


def lost(job: Path, said: Sequence[Note]) -> list[str]:
    """What is wrong with the log of a job that has not come to its end."""
    try:
        files = chain(job)
    except NotWhole as error:
        return [f"the log: {error}"]
    said = [note for note in said if note.words[0] == job.name]
    return [*_owners(files), *_acknowledged(files, said)]


def _owners(files: Sequence[Placed]) -> Iterable[str]:
    """Every epoch is written by the one that opened it."""
    owner = b""
    for file in files:
        if file.kind == OPEN:
            owner = file.owner
        elif file.kind == COMMIT and file.owner != owner:
            yield f"epoch {file.epoch}: file {file.number} was written by somebody who did not open it"


def _acknowledged(files: Sequence[Placed], said: Sequence[Note]) -> Iterable[str]:
    """Everything that the store said to stand does stand, and nobody else was told so of the same place."""
    places = {(file.epoch, file.number): file for file in files}
    first: dict[tuple[int, int], int] = {}
    for note in said:
        if note.kind == "O":
            epoch, number, digest, what = int(note.words[1]), 1, note.words[2], "OPEN"
        elif note.kind == "A":
            epoch, number, digest, what = int(note.words[1]), int(note.words[2]), note.words[3], note.words[4]
        else:
            continue
        file = places.get((epoch, number))
        if file is None or file.digest.hex() != digest:
            yield f"acknowledged and lost: {what} at file {number} of epoch {epoch}, by process {note.family}"
        if note.kind == "O":
            other = first.setdefault((epoch, number), note.family)
            if other != note.family:
                yield f"epoch {epoch} was opened by processes {other} and {note.family}"


def _committed(job_id: str, files: Sequence[Placed]) -> Committed:
    """Also checks that nothing is done twice and no cursor goes back."""
    done: dict[str, tuple[int, int]] = {}
    cursors: dict[str, int] = {}
    results: list[tuple[int, str]] = []
    topology = Topology("", "concurrent", (), ())
    status = ""
    for file in files:
        for index, data in file.records.items():
            place = (file.epoch, file.number)
            record = decode_record(data, (*place, index))
            match record:
                case Submitted():
                    topology = Topology.from_plain(record.topology)
                case Ended():
                    status = record.status
                case Completed() | Failed() | Skipped():
                    routine = topology.routines[record.routine].routine_id
                    for seq in _seqs(record):
                        key = f"{job_id}/{routine}/{seq}"
                        if key in done:
                            raise NotWhole(f"{key} is done at {place} and was at {done[key]}")
                        done[key] = place
                    if isinstance(record, Completed):
                        _check_cursor(f"{job_id}/{routine}/{record.partial}", record.cursor, cursors)
                        if routine == "tally":
                            results += _results(record)
    return Committed(done, results, status)


def _check_cursor(key: str, data: bytes | None, cursors: dict[str, int]) -> None:
    if data is not None:
        cursor = int(decode_value(data, None, b""))
        if cursor <= cursors.get(key, -1):
            raise NotWhole(f"the cursor of {key} goes from {cursors[key]} to {cursor}")
        cursors[key] = cursor


def _seqs(record: Completed | Failed | Skipped) -> list[int]:
    if isinstance(record, Completed):
        ranges = record.ranges
        return [s for i in range(0, len(ranges), 2) for s in range(ranges[i], ranges[i] + ranges[i + 1])]
    return [record.seq] if isinstance(record, Skipped) or record.action not in ("retry", "again") else []


def _results(record: Completed) -> list[tuple[int, str]]:
    items = [item for emit in record.emits for item in decode_batch(emit.batch.data or b"", None, b"")]
    return [(item["i"], item["token"]) for item in items]


def _end(files: Sequence[Placed], committed: Committed, wanted: set[int], optional: set[int]) -> Iterable[str]:
    """The job came to the end that it comes to undisturbed."""
    # Whoever seals it for an owner that was only slow may find itself behind that one's SEAL, with another epoch.
    behind = list(takewhile(lambda file: file.kind != COMMIT, reversed(files)))
    is_sealed = any(file.kind == SEAL and file.document["reason"] == "ended" for file in behind)
    if not is_sealed or committed.status != "completed":
        yield f"the job has not come to its end: {committed.status or 'it goes on'}"
    found = Counter(i for i, _ in committed.results)
    if twice := [i for i, count in found.items() if count > 1]:
        yield f"counted more than once: {twice}"
    if lost := wanted - set(found):
        yield f"never counted: {sorted(lost)}"
    if more := set(found) - wanted - optional:
        yield f"counted, and nobody had asked for it: {sorted(more)}"


def _handlers(lines: Sequence[Note], committed: Committed) -> Iterable[str]:
    """What ran is what was committed, and an activation has the same input whenever it runs."""
    inputs: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    ended = set()
    for line in lines:
        key = line.words[0]
        if "/source/" not in key:
            inputs[key].add(line.words[2:])
        if line.kind == "E":
            ended.add(key)
    for key, found in inputs.items():
        if len(found) > 1:
            yield f"{key} ran with different inputs, so a commit on which it followed was lost: {sorted(found)}"
    ran = {line.words[0] for line in lines}
    if ran != set(committed.done):
        yield f"ran: {len(ran)}, committed: {len(committed.done)}; differing: {sorted(ran ^ set(committed.done))[:5]}"
    if never := sorted(set(committed.done) - ended):
        yield f"committed, and never came to its end: {never[:5]}"
    seen = {words[1:] for key, found in inputs.items() if "/tally/" in key for words in [("", *one) for one in found]}
    for i, token in committed.results:
        if (str(i), token) not in seen:
            yield f"the result of {i} carries a token that the tally never saw"


def _ran_again(
    lines: Sequence[Note], committed: Committed, said: Sequence[Note], frozen: Sequence[Frozen], lease_ns: int
) -> Iterable[str]:
    """Nothing ran after its commit was acknowledged, but by those who had lost the job and could not know it yet."""
    acknowledged: dict[tuple[int, int], Note] = {}
    opened: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for note in said:
        if note.kind == "A":
            acknowledged[int(note.words[1]), int(note.words[2])] = note
        elif note.kind == "O":
            opened[note.family].append((note.time_ns, int(note.words[1])))
    for line in lines:
        place = committed.done.get(line.words[0])
        ack = None if place is None else acknowledged.get(place)
        if line.kind != "S" or place is None or ack is None or line.time_ns <= ack.time_ns:
            continue
        has_read = any(time_ns < line.time_ns and epoch > place[0] for time_ns, epoch in opened[line.family])
        if has_read or ack.family == line.family:
            yield f"{line.words[0]} was committed at {place} and began again, by process {line.family} that knew it"
        for still in frozen:
            was_deposed = still.from_ns < ack.time_ns < still.until_ns
            if still.family == line.family and was_deposed and line.time_ns > still.from_ns + lease_ns + _LATE_NS:
                yield f"{line.words[0]} was begun by a worker of process {line.family}, long after that was stopped"


def _replay(job: Path, committed: Committed) -> Iterable[str]:
    """What the package reads from the directory now."""
    try:
        with Store(str(job.parent), Settings()) as store:
            reading = recovery.read(store, job.name, Settings())
            flow, state = store.read_views(job.name)
    except RoutiluxError as error:
        yield f"it cannot be replayed: {error}"
        return
    found = reading.job
    count = len(committed.results)
    numbers = [found.results.get(place, 0) for place in found.results]
    if found.status != "completed" or sum(numbers) != count:
        yield f"replayed: {found.status}, {found.results}; the log has {count} results"
    if json.loads(state or b"{}").get("status") != "completed":
        yield "job_state.json does not tell of the end"
    if flow is None:
        yield "there is no flow.json"
