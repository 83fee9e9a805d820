"""The independent checker: what handlers say that they did, against what the commit log says was done.

It uses nothing of the running engine. The handlers' statements lie in private files outside the
checkpoint directory; the log is read as it stands, by a reader of its own.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from routilux_mp._core.records import Completed, Failed, Skipped, Submitted
from routilux_mp._core.topology import Topology
from routilux_mp._serialization.batch import decode_value
from routilux_mp._serialization.places import cursor_place
from routilux_mp._storage.codec import decode_record
from routilux_mp._storage.store import Store
from routilux_mp.errors import UnknownName
from routilux_mp.settings import Settings


class Statement(NamedTuple):
    """One line of a handler."""

    kind: str  # S or E
    time_ns: int
    key: str
    attempt: int
    note: str


class Picture(NamedTuple):
    """What was committed when the log was read."""

    time_ns: int  # when reading it was over
    done: frozenset[str]  # keys of activations that will never run again
    cursors: dict[str, int]  # key -> the newest cursor of one that goes on
    epoch: int


class Stroke(NamedTuple):
    """One kill."""

    target: str
    moment: str
    time_ns: int  # when it had been struck
    before: Picture  # of the log, as it stood then or shortly before


NOTHING = Picture(0, frozenset(), {}, 0)


def statements(folder: Path, job_id: str) -> list[Statement]:
    found = []
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            kind, time_ns, key, attempt, note = line.split(" ", 4)
            if key.startswith(f"{job_id}/"):
                found.append(Statement(kind, int(time_ns), key, int(attempt), note))
    return sorted(found, key=lambda t: t.time_ns)


def look(root: Path, job_id: str) -> Picture:
    """Read the log. Also checks that nothing is completed twice."""
    store = Store(str(root), Settings())
    try:
        log = store.read(job_id)
    except UnknownName:
        store.close()
        return NOTHING
    done: set[str] = set()
    cursors: dict[str, int] = {}
    topology = Topology("", "concurrent", (), ())
    try:
        for ref, data in log.history():
            record = decode_record(data, ref)
            if isinstance(record, Submitted):
                topology = Topology.from_plain(record.topology)
                continue
            if not isinstance(record, (Completed, Failed, Skipped)):
                continue
            routine = topology.routines[record.routine].routine_id
            if isinstance(record, Completed):
                ranges = record.ranges
                seqs = [s for i in range(0, len(ranges), 2) for s in range(ranges[i], ranges[i] + ranges[i + 1])]
                if record.cursor is not None:
                    cursor = decode_value(record.cursor, None, cursor_place(job_id, routine))
                    key = f"{job_id}/{routine}/{record.partial}"
                    assert cursor > cursors.get(key, -1), f"{key}: the cursor went back to {cursor} at {ref}"
                    cursors[key] = cursor
            else:
                seqs = [record.seq] if isinstance(record, Skipped) or record.action not in ("retry", "again") else []
            for seq in seqs:
                key = f"{job_id}/{routine}/{seq}"
                assert key not in done, f"{key} is completed a second time at {ref}"
                done.add(key)
    finally:
        store.close()
    return Picture(time.monotonic_ns(), frozenset(done), cursors, log.epoch)


class Verdict(NamedTuple):
    """What one job had to bear, in numbers."""

    activations: int
    reruns: int
    in_flight: int  # begun and not committed, summed over the kills


def judge(lines: list[Statement], strokes: list[Stroke], end: Picture, *, conflicting: str = "") -> Verdict:
    """Nothing committed ran again, and what ran twice was in flight at a kill.

    ``conflicting``: a routine whose activations may also run again because of each other.
    """
    begun: dict[tuple[str, int], list[Statement]] = defaultdict(list)
    ended = Counter(t.key for t in lines if t.kind == "E")
    for line in lines:
        if line.kind == "S":
            begun[line.key, line.attempt].append(line)
    for stroke in strokes:
        _check_nothing_committed_runs_again(begun, stroke)
    reruns = 0
    for (key, attempt), starts in begun.items():
        chances = sum(starts[0].time_ns <= s.time_ns and key not in s.before.done for s in strokes)
        reruns += len(starts) - 1
        if key.split("/")[1] != conflicting:
            assert len(starts) <= 1 + chances, (
                f"{key}, attempt {attempt}, began {len(starts)} times; it was in flight at {chances} kills"
            )
    keys = {key for key, _ in begun}
    assert keys == end.done, f"ran: {len(keys)}, committed: {len(end.done)}, differing in {sorted(keys ^ end.done)[:5]}"
    never = [key for key in end.done if not ended[key]]
    assert not never, f"committed, but never came to their end: {never[:5]}"
    in_flight = sum(
        len({key for (key, _), starts in begun.items() if starts[0].time_ns <= s.time_ns} - s.before.done)
        for s in strokes
    )
    return Verdict(len(end.done), reruns, in_flight)


def _check_nothing_committed_runs_again(begun: dict[tuple[str, int], list[Statement]], stroke: Stroke) -> None:
    for (key, _), starts in begun.items():
        late = [t for t in starts if t.time_ns > stroke.before.time_ns]
        if late and key in stroke.before.done:
            raise AssertionError(f"{key} was committed before a {stroke.target} was killed, and ran again: {late[0]}")
        cursor = stroke.before.cursors.get(key)
        for line in late:
            if cursor is not None and line.note != "-":
                assert int(line.note) >= cursor, f"{key} began at {line.note} although {cursor} was committed"
