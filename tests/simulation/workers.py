"""Virtual workers: they obey the rules of real ones, one small step at a time, whenever chance lets them.

``SimBackend`` is a real :class:`Backend` to the loop. What a worker has said travels in order and
arrives whenever chance says so; when it dies, what it had not said is lost.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import GoOn, Revoke, Work
from routilux_mp._core.job import Key, ListValue
from routilux_mp._core.stimuli import Answer, Completion, Emit, Failure, StateOp
from routilux_mp.backends.base import Code, Died, Event, Exit, Forget, JobInfo, Message, Report, Started

from .flows import changes, decode, encode, outcome, tokens

if TYPE_CHECKING:
    from .world import World

UNANSWERED_MAX = 4
Performance = tuple[str, int, int, int, bytes | None]  # (job, routine, number, attempt, cursor)


class Given(tuple[str, Work, list[list[int]], list[int]]):
    """Work as it arrives at a worker: (job, work, values per activation, number per activation)."""

    __slots__ = ()


class Current:
    """The dispatch a worker is at."""

    def __init__(self, given: Given, cache: dict[Key, Any]) -> None:
        self.job_id, self.work, self.inputs, self.seqs = given
        self.cache = cache  # the job may be forgotten while this still runs
        self.index = 0
        self.is_running = False
        self.segments: deque[tuple[tuple[tuple[int, int], ...], int | None]] = deque()
        self.end = "ok"
        self.unanswered = 0
        self.attempt, self.resume = self.work.attempt, self.work.cursor
        self.performed: list[Performance] = []  # begun since the last report
        self.clear()

    def clear(self) -> None:
        self.done = 0
        self.emits: list[tuple[int, int]] = []
        self.ops: list[StateOp] = []
        self.reads: tuple[Key, ...] = ()
        self.cursor: bytes | None = None
        self.busy_ns = 0


class SimWorker:
    def __init__(self, world: World, number: int, code_id: str) -> None:
        self.world, self.rng = world, world.rng
        self.number, self.code_id = number, code_id
        self.is_alive, self.is_started, self.is_stopping = True, False, False
        self.inbox: deque[Any] = deque()
        self.outbox: deque[tuple[Event, list[Performance]]] = deque()
        self.queue: deque[Given] = deque()
        self.page = (0, -1, 0)
        self.is_hanging = False
        self.revoked = 0  # as the page says; the message itself may come later
        self.revoked_read = 0
        self.drop_until = 0  # after a failure everything is dropped until a Revoke of at least this
        self.jobs: dict[str, dict[Key, Any]] = {}
        self.folders: dict[str, str] = {}  # where blobs of each job go
        self.written: dict[str, str] = {}  # a blob of each job that no report names yet
        self.current: Current | None = None

    # -- one step -----------------------------------------------------------------------------

    def can_step(self) -> bool:
        if not self.is_alive or self.is_hanging:
            return False
        if not self.is_started or self.inbox:
            return True
        if self.current is not None:
            return not self.is_waiting
        return bool(self.queue) or self.is_stopping

    @property
    def is_waiting(self) -> bool:
        """A generator that is too far ahead of the supervisor."""
        c = self.current
        return c is not None and c.unanswered >= UNANSWERED_MAX and self.revoked < c.work.dispatch

    def step(self) -> None:
        if not self.is_started:
            self.is_started = True
            self.say(Started(self.number, 1000 + self.number))
        elif self.inbox and (self.rng.random() < 0.5 or (self.current is None and not self.queue) or self.is_waiting):
            self.read(self.inbox.popleft())
        elif self.current is not None:
            if not self.is_waiting:
                self.advance(self.current)
        elif self.queue:
            self.begin_dispatch()
        elif self.is_stopping:
            self.die(is_blameless=True, detail="told to stop")

    def read(self, message: Any) -> None:
        match message:
            case Given():
                if not self.drop_until:
                    self.queue.append(message)
            case GoOn(_, dispatch):
                if self.current is not None and self.current.work.dispatch == dispatch and self.current.unanswered:
                    self.current.unanswered -= 1
            case Revoke(_, dispatch):
                self.revoked_read = max(self.revoked_read, dispatch)
                if self.drop_until and dispatch >= self.drop_until:
                    self.drop_until = 0
            case JobInfo():
                self.jobs.setdefault(message.job_id, {})
                self.folders[message.job_id] = message.blob_dir
            case Forget(job_id):
                self.jobs.pop(job_id, None)
                self.written.pop(job_id, None)
            case "stop":
                self.is_stopping = True

    def begin_dispatch(self) -> None:
        given = self.queue.popleft()
        job_id, work, *_ = given
        if job_id not in self.jobs:
            return  # it was forgotten: nobody waits for it
        cache = self.jobs[job_id]
        if work.is_reset:
            cache.clear()
        for scope, key, value in work.state:
            if value is None:
                cache.pop((scope, key), None)
            else:
                cache[(scope, key)] = (
                    ListValue(value.base, list(value.items)) if isinstance(value, ListValue) else value
                )
        self.current = Current(given, cache)
        if work.question is None:
            self.advance(self.current)
        else:
            self.answer(self.current)

    def answer(self, c: Current) -> None:
        """The routine's policy: asked about one arrival after the other, it takes all there is when that is enough."""
        work, program = c.work, self.world.program(c.job_id, c.work.routine)
        assert work.question is not None
        if self.rng.random() < self.world.unreadable_chance:
            self.fail(c, Failure("storage", "CheckpointDamaged", "unreadable", "", True))
            return
        asked, is_final = work.question
        answers: list[Answer] = []
        if self.revoked < work.dispatch:
            takes = [0] * len(self.world.spec(c.job_id, work.routine).slots)
            arrivals = [(seq + i, part.slot) for seq, part in zip(work.seqs, work.parts) for i in range(part.count)]
            for number, slot in sorted(arrivals):
                takes[slot] += 1
                if number >= asked and sum(takes) >= 2 + program.salt % 4:
                    answers.append(Answer(tuple(takes)))
                    takes = [0] * len(takes)
            if is_final and any(takes):
                answers.append(Answer(tuple(takes)))
        done = int(self.revoked < work.dispatch)
        self.world.summary.seen["policy asked"] += done
        self.say(Report(self.number, Completion(work.dispatch, done, answers=tuple(answers)), c.job_id))
        self.current = None

    def advance(self, c: Current) -> None:
        if not c.is_running:
            if c.index == len(c.inputs) or self.revoked >= c.work.dispatch:
                self.end_dispatch(c)
            else:
                self.begin_activation(c)
            return
        if c.segments:
            self.segment(c, *c.segments.popleft())
        elif c.end == "hang":
            self.is_hanging = True
        elif c.end == "poison":
            self.die(is_blameless=False, detail="poison")
        else:
            self.fail(c, Failure("error", "Flaw", c.end, "", c.end != "fatal"))
        if self.current is c and c.done and self.rng.random() < 0.2:
            self.report(c)  # what is finished may be sent at any time

    def begin_activation(self, c: Current) -> None:
        if c.index:
            c.attempt, c.resume = 1, None
        if self.rng.random() < self.world.unreadable_chance:
            is_lasting = self.rng.random() < 0.2
            self.world.summary.seen["unreadable for good" if is_lasting else "unreadable"] += 1
            self.fail(c, Failure("storage", "CheckpointDamaged", "unreadable", "", not is_lasting))
            return
        self.page = (c.work.dispatch, c.index, self.world.clock.now)
        performance = (c.job_id, c.work.routine, c.seqs[c.index], c.attempt, c.resume)
        self.world.audit.begins(performance, c.work.dispatch)
        c.performed.append(performance)
        c.is_running = True
        program = self.world.program(c.job_id, c.work.routine)
        result = outcome(program, c.inputs[c.index], c.attempt, None if c.resume is None else int(c.resume))
        c.segments, c.end, c.unanswered = deque(result.segments), result.end, 0

    def segment(self, c: Current, out: tuple[tuple[int, int], ...], cursor: int | None) -> None:
        """The activation goes on to its next cursor, or to its end."""
        if self.rng.random() < 0.03:
            self.write_blob(c.job_id)  # large emissions go there at once, however long the handler still runs
        program = self.world.program(c.job_id, c.work.routine)
        mine = tokens(program, c.inputs[c.index]) if cursor is None else []
        ops, reads = self.state(c, program, len(out) + len(mine), mine)
        if reads and (c.done or c.cursor is not None):
            self.report(c)  # a conflict must concern one activation only
        c.emits += [(event, value) for event, value in out if event not in program.defers]
        rid = self.world.spec(c.job_id, c.work.routine).routine_id
        ops += [StateOp("defer", rid, f"e{e}", encode([value])) for e, value in out if e in program.defers]
        c.ops += ops
        c.reads = reads
        c.busy_ns += program.pace_ns
        if cursor is not None:
            c.cursor = b"%d" % cursor
            if reads or self.rng.random() < 0.5:
                self.report(c)
            if self.revoked >= c.work.dispatch:
                c.is_running = False  # a generator stops at its next yield
                self.end_dispatch(c)
            return
        c.done += 1
        c.cursor = None
        c.index += 1
        c.is_running = False
        if reads and c.index < len(c.inputs):
            self.report(c)
        if c.index == len(c.inputs):
            self.end_dispatch(c)

    def state(self, c: Current, program: Any, amount: int, mine: list[int]) -> tuple[list[StateOp], tuple[Key, ...]]:
        """What this part of an activation does to shared state, seen through this worker's copy of it."""
        cache, spec = c.cache, self.world.spec(c.job_id, c.work.routine)
        ops: list[StateOp] = []
        reads: list[Key] = []
        for kind in changes(program, c.inputs[c.index]):
            if kind in ("own", "shared"):
                key = (spec.routine_id, "count") if kind == "own" else ("", program.key)
                if not key[0] or spec.workers != 1:
                    reads.append(key)
                value = cache.get(key, 0) + amount
                ops.append(StateOp("set", *key, value))
                cache[key] = value
            elif kind == "add":
                ops.append(StateOp("increment", "", program.key, amount))
                cache[("", program.key)] = cache.get(("", program.key), 0) + amount
            elif kind == "append":
                ops += [StateOp("append", "", "list", encode([token])) for token in mine]
            else:
                ops += [StateOp("log", "", "", b"entry") for _ in mine]
        return ops, tuple(reads)

    def end_dispatch(self, c: Current) -> None:
        self.page = (0, -1, 0)
        self.report(c, is_last=True)
        self.current = None

    def fail(self, c: Current, failure: Failure) -> None:
        c.is_running = False
        self.page = (0, -1, 0)
        if c.work.is_tolerant and failure.kind == "error":
            self.report(c, failure=failure)
            c.index += 1
            if c.index == len(c.inputs):
                self.end_dispatch(c)
            else:
                self.world.summary.seen["the next one runs after a failure"] += 1
            return
        self.report(c, is_last=True, failure=failure)
        self.current = None
        dispatch = c.work.dispatch
        if self.revoked_read < dispatch:
            self.queue.clear()
            self.drop_until = dispatch
        while self.queue and self.queue[0][1].dispatch <= self.revoked_read:
            self.queue.popleft()

    def report(self, c: Current, *, is_last: bool = False, failure: Failure | None = None) -> None:
        completion = Completion(
            c.work.dispatch,
            c.done,
            tuple(self.batches(c.emits, c.job_id)),
            tuple(c.ops),
            c.reads,
            c.cursor,
            failure,
            is_last,
            c.busy_ns,
        )
        if c.cursor is not None:
            c.unanswered += 1
        # What still runs is not reported, unless it has committed a cursor.
        going_on = c.performed[-1:] if c.is_running and c.cursor is None else []
        self.say(Report(self.number, completion, c.job_id), c.performed[: len(c.performed) - len(going_on)])
        c.clear()
        c.performed = going_on

    def write_blob(self, job_id: str) -> None:
        if job_id not in self.written:
            self.written[job_id] = self.world.disk.write_blob(job_id, self.folders[job_id], 1000 + self.number)

    def batches(self, out: list[tuple[int, int]], job_id: str) -> list[Emit]:
        """Per event in order, cut into batches as chance has it; some of them go into a blob together."""
        if self.rng.random() < 0.1:
            self.write_blob(job_id)
        blob = self.written.pop(job_id, "") if out and self.rng.random() < 0.5 else ""
        emits: list[Emit] = []
        for event in dict.fromkeys(e for e, _ in out):
            values = [v for e, v in out if e == event]
            while values:
                size = self.rng.randint(1, 6)
                data = encode(values[:size], blob if self.rng.random() < 0.7 else "")
                emits.append(Emit(event, Batch(len(values[:size]), data)))
                del values[:size]
        return emits

    def say(self, event: Event, performed: list[Performance] | None = None) -> None:
        self.outbox.append((event, performed or []))

    def die(self, *, is_blameless: bool, detail: str) -> None:
        """The process is gone: what it had not said is lost."""
        if not self.is_alive:
            return
        self.is_alive, self.is_hanging = False, False
        if self.current is not None:
            self.world.audit.lost(self.current.performed, self.current.work.dispatch)
        self.say(Died(self.number, Exit(1000 + self.number, is_blameless=is_blameless, detail=detail)))
        self.inbox.clear()
        self.queue.clear()


class SimBackend:
    def __init__(self, world: World) -> None:
        self.world = world
        self.workers: dict[int, SimWorker] = {}

    def prepare(self) -> None:
        pass

    def load(self, code: Code) -> None:
        pass

    def unload(self, code_id: str) -> None:
        pass

    def start(self, worker: int, code_id: str) -> None:
        assert worker not in self.workers, "a worker's number was used before"
        self.workers[worker] = SimWorker(self.world, worker, code_id)

    def send(self, worker: int, message: Message, job_id: str = "") -> None:
        w = self.workers[worker]
        if isinstance(message, Revoke):
            w.revoked = max(w.revoked, message.dispatch)
        if not w.is_alive:
            return
        if isinstance(message, Work):
            given = _given(job_id, message)
            self.world.audit.given(given)
            w.inbox.append(given)
        else:
            w.inbox.append(message)

    def poll(self, timeout_s: float | None, pause_s: float = 0.0) -> list[Event]:
        return self.world.act(timeout_s)

    def wake(self) -> None:
        pass

    def running(self, worker: int) -> tuple[int, int, int]:
        w = self.workers[worker]
        dispatch, index, start = w.page
        # Only what hangs takes long: everything else runs while the clock of the simulation stands.
        return (dispatch, index, start if w.is_hanging else self.world.clock.now)

    def set_lease(self, deadline_ns: int) -> None:
        pass

    def kill(self, worker: int) -> None:
        self.workers[worker].die(is_blameless=True, detail="killed by the supervisor")

    def stop(self, worker: int) -> None:
        self.workers[worker].inbox.append("stop")

    def close(self) -> None:
        pass


def _given(job_id: str, work: Work) -> Given:
    """Values are copied out now, as the message to a real worker is."""
    if work.is_group:
        values: list[int] = []
        for part in work.parts:
            values += _values(part.batch, part.start, part.count)
        return Given((job_id, work, [values], list(work.seqs)))
    inputs: list[list[int]] = []
    seqs: list[int] = []
    for part, seq in zip(work.parts, work.seqs, strict=True):
        inputs += [[value] for value in _values(part.batch, part.start, part.count)]
        seqs += range(seq, seq + part.count)
    return Given((job_id, work, inputs, seqs))


def _values(batch: Batch, start: int, count: int) -> list[int]:
    assert batch.data is not None, "a batch was sent whose bytes are not in memory"
    return decode(batch.data)[start : start + count]
