"""What must hold at every moment of a simulated job, seen from outside the core.

The audit folds what stands on the disk into a job of its own (the *shadow*), from the first record
on and never from a snapshot. Everything the supervisor does is held against it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from routilux_mp._core import records as rec
from routilux_mp._core.apply import apply
from routilux_mp._core.batch import Batch
from routilux_mp._core.history import HistoryFold
from routilux_mp._core.invariants import check
from routilux_mp._core.job import Group, Item, Job, ListValue, Run
from routilux_mp._core.lifecycle import JOB
from routilux_mp._core.plain import to_plain
from routilux_mp._core.view import JobView
from routilux_mp._storage.codec import decode_record, decode_snapshot
from routilux_mp._worker.spill import referred_blob
from routilux_mp.backends.base import Report

from .flows import decode

if TYPE_CHECKING:
    from .workers import Given, Performance
    from .world import World


class Broken(AssertionError):
    """A promise was not kept."""


def must(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


class Shadow:
    """One job as the disk has it."""

    def __init__(self, job_id: str) -> None:
        self.job = Job(job_id)
        self.done: set[tuple[int, int]] = set()  # (routine, number) that returned or was given up
        self.results: Counter[tuple[int, int, int]] = Counter()
        self.result_blobs: set[str | None] = set()
        self.sent: dict[
            tuple[int, int], list[tuple[tuple[int, int], list[int]]]
        ] = {}  # (routine, event) -> (number, order), values
        self.annotated: Counter[tuple[str, str]] = Counter()
        self.history = HistoryFold()
        self.history_count = 0
        self.posted = 0
        self.released: set[str] = set()
        self.swept: set[str] = set()
        self.displaced: set[tuple[int, int]] = set()  # it waited for a retry or was revived: others may overtake it
        self.kinds: Counter[str] = Counter()


class Audit:
    def __init__(self, world: World) -> None:
        self.world = world
        self.shadows: dict[str, Shadow] = {}
        self.performed: dict[Performance, int | str] = {}  # number of its dispatch until it is "reported" or "lost"
        self.performances = 0
        self.repeated = 0
        self.arrived: dict[tuple[str, int, int], tuple[int, int]] = {}  # (job, routine, number) -> (connection, value)

    # -- what stands --------------------------------------------------------------------------

    def stood(self, job_id: str, place: tuple[int, int], frames: Sequence[bytes]) -> None:
        shadow = self.shadows.setdefault(job_id, Shadow(job_id))
        job = shadow.job
        for index, data in enumerate(frames):
            record = decode_record(data, (*place, index))
            name = type(record).__name__
            shadow.kinds[name] += 1
            must(type(record) in JOB[job.status], f"{name} after {job.status}")
            if isinstance(record, rec.Completed):
                self._completed(shadow, record)
            elif isinstance(record, rec.Failed):
                shadow.kinds[record.action] += 1
                if record.action == "retry":
                    shadow.displaced.add((record.routine, record.seq))
                elif record.action not in ("again", "stop"):
                    self._is_done(shadow, record.routine, record.seq)
            elif isinstance(record, rec.Annotated):
                shadow.annotated.update({(op.scope, op.key): op.value for op in record.ops})
            elif isinstance(record, (rec.Revived, rec.Skipped)):
                self._asked(shadow, record)
            elif isinstance(record, rec.Resumed):
                self._resumed(shadow, record)
            elif isinstance(record, rec.Posted):
                shadow.posted += 1
            shadow.history_count += sum(1 if e.batch is None else e.batch.count for e in shadow.history.entries(record))
            apply(job, record)
            must(job.record_count == shadow.history_count, "the history has another length than the job says")
        check(job)

    def _asked(self, shadow: Shadow, record: rec.Revived | rec.Skipped) -> None:
        one = (record.routine, record.seq)
        is_letter = any((d.routine, d.seq) == one for d in shadow.job.dead_letters)
        must(is_letter or record.seq in shadow.job.routines[record.routine].special, f"{one} does not wait for anybody")
        if isinstance(record, rec.Revived):
            shadow.done.discard(one)
            shadow.displaced.add(one)
        elif not is_letter:
            self._is_done(shadow, *one)

    def rolled(self, job_id: str, snapshot: bytes) -> None:
        """A snapshot says what the log says."""
        job = Job(job_id)
        decode_snapshot(snapshot, job)
        check(job)
        self.world.compare("snapshot's", job, self.shadows[job_id].job, job_id)

    def released(self, job_id: str, blobs: Iterable[str]) -> None:
        """These blobs may be deleted any time: nobody may need them any more."""
        self.shadows[job_id].released.update(blobs)
        self.world.summary.seen["blob released"] += 1

    def swept(self, job_id: str, blobs: Iterable[str]) -> None:
        """These were deleted: no commit has named them, and none may."""
        for name in blobs:
            self.shadows[job_id].swept.add(name)
            self.world.summary.seen["blob swept"] += 1

    def _completed(self, shadow: Shadow, record: rec.Completed) -> None:
        job, number = shadow.job, record.routine
        spec, routine = job.topology.routines[number], job.routines[number]
        for first, count in zip(record.ranges[::2], record.ranges[1::2], strict=True):
            for seq in range(first, first + count):
                self._is_done(shadow, number, seq)
        shadow.kinds["cursor"] += record.partial >= 0
        lowest = record.ranges[0] if record.ranges else record.partial
        if spec.workers == 1:
            for seq in routine.special:
                waits = (number, seq) in shadow.displaced
                must(seq >= lowest or waits, f"{spec.routine_id}: {lowest} overtook {seq}, which does not wait")
            if routine.ready and (number, lowest) not in shadow.displaced:
                must(routine.ready[0].seq >= lowest, f"{spec.routine_id}: {lowest} overtook {routine.ready[0].seq}")
        for emit in record.emits:
            assert emit.batch.data is not None
            values = decode(emit.batch.data)
            must(len(values) == emit.batch.count, "a batch has another count than it says")
            must(referred_blob(emit.batch.data) not in shadow.swept, "a blob was swept that a commit names")
            if (number, emit.event) not in job.topology.routes:
                shadow.result_blobs.add(referred_blob(emit.batch.data))
                shadow.results.update((number, emit.event, value) for value in values)
            line = shadow.sent.setdefault((number, emit.event), [])
            line.append(((lowest if spec.is_ordered and spec.workers != 1 else 0, len(line)), values))

    def _resumed(self, shadow: Shadow, record: rec.Resumed) -> None:
        """What was kept back leaves now."""
        self.world.summary.seen["deferred"] += len(record.deferred)
        for number, emit in record.deferred:
            assert emit.batch.data is not None
            values = decode(emit.batch.data)
            if (number, emit.event) not in shadow.job.topology.routes:
                shadow.results.update((number, emit.event, value) for value in values)
            line = shadow.sent.setdefault((number, emit.event), [])
            line.append(((0, len(line)), values))

    def _is_done(self, shadow: Shadow, number: int, seq: int) -> None:
        must((number, seq) not in shadow.done, f"activation {seq} of routine {number} ended twice")
        shadow.done.add((number, seq))

    # -- what is given out --------------------------------------------------------------------

    def given(self, given: Given) -> None:
        job_id, work, inputs, seqs = given
        shadow = self.shadows.get(job_id)
        must(shadow is not None, "work of a job that does not stand")
        assert shadow is not None
        if work.question is not None:
            inputs, seqs = [], []  # no activation: only what it may look at is given
        for part in work.parts:
            assert part.batch.data is not None
            must(referred_blob(part.batch.data) not in shadow.released, "a blob was released that is needed")
        routine = shadow.job.routines[work.routine]
        items: list[Item] = [*routine.ready, *(s.item for s in routine.special.values())]
        for seq, values in zip(seqs, inputs, strict=True):
            must((work.routine, seq) not in shadow.done, f"activation {seq} of routine {work.routine} was done before")
            item = next((i for i in items if i.seq <= seq < i.seq + i.count), None)
            must(
                item is not None, f"activation {seq} of routine {work.routine} was given out, its cause does not stand"
            )
            assert item is not None
            must(
                _input(item, seq) == values, f"activation {seq} of routine {work.routine} got another input than it has"
            )
            if isinstance(item, Run):
                self.arrived[(job_id, work.routine, seq)] = (item.connection, values[0])
        special = routine.special.get(seqs[0]) if seqs else None
        if special is not None:
            must((work.attempt, work.cursor) == (special.attempt, special.cursor), "an attempt that is not on record")
        must(shadow.job.status == "running", f"work of a job that is {shadow.job.status}")
        self._may_run(job_id, work.routine, work.dispatch, emits=work.question is None)

    def _may_run(self, job_id: str, number: int, dispatch: int, *, emits: bool) -> None:
        """Sequential jobs run one thing at a time; a full slot holds its feeders unless nothing else could go on."""
        job, seen = self.world.loop.jobs[job_id].job, self.world.summary.seen
        seen["conflict"] += any(s.keys for s in job.routines[number].special.values())
        seen["held"] += any(d.is_held for d in job.dispatches.values())
        others = [d for d in job.dispatches.values() if d.dispatch != dispatch]
        must(job.topology.strategy != "sequential" or not others, "two at once in a sequential job")
        full = any(
            job.routines[t].queued[s] >= job.topology.routines[t].queue_max for t, s in job.topology.feeds[number]
        )
        stuck = {d.worker for d in others if d.is_held}  # what waits behind a generator that is held cannot go on
        others_wait = all(d.worker in stuck for d in others)
        must(not full or not emits or others_wait, "activated although a slot it feeds is full")
        seen["bound lifted"] += full

    def shown(self, job_id: str, view: JobView) -> None:
        """What a caller can see is on the disk."""
        shadow = self.shadows.get(job_id)
        if shadow is None:
            must(view.status == "pending", f"{view.status} is shown of a job that does not stand")
            return
        job = shadow.job
        must(view.activations <= job.activations, "activations are shown that do not stand")
        must(view.history_count <= job.record_count, "history is shown that does not stand")
        must(sum(view.results_count.values()) <= sum(job.results.values()), "results are shown that do not stand")
        must(not view.is_terminal or view.status == job.status, f"{view.status} is shown, {job.status} stands")

    def begins(self, performance: Performance, dispatch: int) -> None:
        before = self.performed.get(performance)
        if isinstance(before, int):  # its report is on its way, or it still runs: has it been handed back meanwhile?
            must(before not in self.world.loop.jobs[performance[0]].job.dispatches, f"{performance} runs twice at once")
        must(before != "reported", f"{performance} is performed again without a reason")
        self.repeated += before is not None
        self.performances += 1
        self.performed[performance] = dispatch

    def lost(self, performances: Sequence[Performance], dispatch: int) -> None:
        """Nobody will hear of these: they may be performed again."""
        for performance in performances:
            if self.performed[performance] == dispatch:
                self.performed[performance] = "lost"

    def delivered(self, report: Report, performances: Sequence[Performance]) -> None:
        live = self.world.loop.jobs.get(report.job_id)
        completion = report.completion
        is_refused = live is None or completion.dispatch not in live.job.dispatches
        may_conflict = live is not None and bool(completion.reads or (live.job.holds and completion.ops))
        for performance in performances:
            if self.performed[performance] == completion.dispatch:
                self.performed[performance] = "lost" if is_refused or may_conflict else "reported"

    def all_lost(self, job_id: str) -> None:
        """Its supervisor is gone. What stands is guarded by :meth:`given`."""
        for performance in self.performed:
            if performance[0] == job_id:
                self.performed[performance] = "lost"
        for key in [key for key in self.arrived if key[0] == job_id]:
            # Numbers after the last commit are given anew.
            if (key[1], key[2]) not in self.shadows[job_id].done if job_id in self.shadows else True:
                del self.arrived[key]

    # -- the end ------------------------------------------------------------------------------

    def ended(self, job_id: str) -> None:
        shadow = self.shadows[job_id]
        job, expected = shadow.job, self.world.flow_of(job_id).expected
        must(job.is_terminal, "not ended")
        must(shadow.result_blobs.isdisjoint(shadow.released), "a blob was released that holds results")
        # An aggregate sums up what it gets: without what a person took out it says something else.
        is_other = shadow.kinds["Skipped"] and any(p.kind == "total" for p in self.world.flow_of(job_id).programs)
        must(
            is_other or shadow.results <= expected.results,
            f"results that must not be: {shadow.results - expected.results}",
        )
        if job.status == "failed":
            must(is_other or expected.stops, f"failed without a reason: {job.reason}")
        elif job.status == "cancelled":
            must(job_id in self.world.cancelled, "cancelled by nobody")
        elif not shadow.kinds["Skipped"]:  # what a person took out makes another job of it
            self._completed_as_expected(shadow)

    def _completed_as_expected(self, shadow: Shadow) -> None:
        job, expected = shadow.job, self.world.flow_of(shadow.job.job_id).expected
        must(not expected.stops, "completed in spite of a failure that ends it")
        must(shadow.results == expected.results, f"results are missing: {expected.results - shadow.results}")
        counts = Counter({(r, e): n for (r, e), n in job.results.items()})
        seen: Counter[tuple[int, int]] = Counter()
        for (r, e, _), n in shadow.results.items():
            seen[(r, e)] += n
        must(counts == seen, "the counts of results are wrong")
        must(len(job.dead_letters) == expected.dead, f"{len(job.dead_letters)} dead letters, {expected.dead} expected")
        must(job.log_count == expected.logged, f"{job.log_count} log entries, {expected.logged} expected")
        state = Counter({(s, k): v for s, vs in job.state.items() for k, v in vs.items() if isinstance(v, int)})
        want = expected.state + shadow.annotated
        must(+state == +want, f"state {dict(state)}, expected {dict(want)}")
        appended: Counter[tuple[str, int]] = Counter()
        value = job.state[""].get("list")
        if isinstance(value, ListValue):
            appended.update(("list", decode(item)[0]) for item in value.items)
        must(appended == expected.appended, "appended items differ")
        left = Counter({n: sum(run.count for slot in r.slots for run in slot) for n, r in enumerate(job.routines)})
        must(+left == expected.unconsumed, f"unconsumed {dict(+left)}, expected {dict(expected.unconsumed)}")
        self._in_order(shadow)

    def _in_order(self, shadow: Shadow) -> None:
        """Per connection, emissions arrive in commit order; from ``ordered`` routines in the order of their inputs."""
        job = shadow.job
        lines: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for (job_id, routine, seq), (connection, value) in self.arrived.items():
            if job_id == job.job_id and connection >= 0:
                lines.setdefault((routine, connection), []).append((seq, value))
        for (_, connection), line in lines.items():
            source, event, _, _ = job.topology.connections[connection]
            sent = [v for _, values in sorted(shadow.sent.get((source, event), [])) for v in values]
            got = [value for _, value in sorted(line)]
            must(got == sent, f"connection {connection}: arrived {got}, sent {sent}")


def _input(item: Item, seq: int) -> list[int]:
    if isinstance(item, Group):
        return [v for run in item.runs for v in _values(run.batch, run.start, run.count)]
    return _values(item.batch, item.start + seq - item.seq, 1)


def _values(batch: Batch, start: int, count: int) -> list[int]:
    assert batch.data is not None
    return decode(batch.data)[start : start + count]


def durable_part(job: Job, read: Any) -> dict[str, Any]:
    """Everything about a job that a successor must know, however its queues are cut into runs."""
    return {**to_plain(job), "routines": [_routine(r, read) for r in job.routines]}


def _routine(r: Any, read: Any) -> dict[str, Any]:
    items: dict[int, Any] = {}
    for item in [*r.ready, *(i for d in r.dispatches.values() for i in d.items), *(s.item for s in r.special.values())]:
        items.update(_expand(item, read))
    special = {
        seq: (s.attempt, s.crashes, s.due_ns, s.cursor)
        for seq, s in r.special.items()
        if (s.attempt, s.crashes, s.due_ns, s.cursor) != (1, 0, 0, None)  # a conflict is forgotten with its supervisor
    }
    held = {
        first: (count, [(e.event, _read(e.batch, read)) for e in emits])
        for first, (count, emits) in r.held_emits.items()
    }
    return {
        "items": items,
        "special": special,
        "slots": [
            [v for run in slot for v in _read(run.batch, read)[run.start : run.start + run.count]] for slot in r.slots
        ],
        "held": held,
        "rest": (
            r.queued,
            r.next_seq,
            r.next_release,
            r.has_fired,
            r.has_run,
            r.last_taken_ns,
            r.failures,
            r.last_failed,
            r.done,
        ),
    }


def _expand(item: Item, read: Any) -> dict[int, Any]:
    if isinstance(item, Group):
        runs = [(run.slot, v) for run in item.runs for v in _read(run.batch, read)[run.start : run.start + run.count]]
        return {item.seq: (item.message, runs)}
    values = _read(item.batch, read)[item.start : item.start + item.count]
    return {item.seq + i: (item.slot, item.connection, value) for i, value in enumerate(values)}


def _read(batch: Batch, read: Any) -> list[int]:
    return decode(batch.data if batch.data is not None else read(batch))
