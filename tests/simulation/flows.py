"""Random flows for the simulation, what their handlers do, and what must come of it.

Handlers are pure functions of (routine, value, attempt, cursor), so what a job must end with can be
computed by :func:`expect`, a plain interpreter that knows nothing of batches, workers or commits.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from routilux_mp._core.topology import ConnectionSpec, ErrorSpec, PolicySpec, RoutineSpec, Topology
from routilux_mp._serialization.packing import pack, unpack
from routilux_mp._worker.spill import REFERENCE, is_reference

#: A value is ``hops * HOP + ident``: how often it may go round a cycle, and who it is.
HOP = 100_000
ACTIVATIONS_MAX = 150
Emission = tuple[int, int]  # (event, value)


class Program(NamedTuple):
    """What the handler of one routine does."""

    salt: int
    fans: tuple[int, ...]  # emissions per value, per event
    kind: str = "plain"  # plain | source | group | join | total
    chunk: int = 0  # emissions between two cursors; 0: not a generator
    loops: frozenset[int] = frozenset()  # events that cost a hop
    defers: frozenset[int] = frozenset()  # events whose emissions are kept back until the job is resumed
    flaw: str = ""  # "" | error | fatal | hang | poison
    flaw_every: int = 3
    flaw_attempts: int = 1
    state: tuple[str, ...] = ()  # own | shared | add | append | log
    key: str = "a"
    pace_ns: int = 100_000


class Outcome(NamedTuple):
    """One attempt: emissions between commits (with the cursor that ends each), and how it ends."""

    segments: tuple[tuple[tuple[Emission, ...], int | None], ...]
    end: str  # ok | error | fatal | hang | poison


class Flow(NamedTuple):
    topology: Topology
    programs: tuple[Program, ...]
    values: tuple[int, ...]  # what the entry gets
    expected: Expected


@dataclass
class Expected:
    """What an undisturbed job leaves behind."""

    results: Counter[tuple[int, int, int]] = field(default_factory=Counter)  # (routine, event, value)
    activations: int = 0
    dead: int = 0
    stops: bool = False  # some activation fails the job
    state: Counter[tuple[str, str]] = field(default_factory=Counter)
    appended: Counter[tuple[str, int]] = field(default_factory=Counter)
    logged: int = 0
    unconsumed: Counter[int] = field(default_factory=Counter)


def encode(values: list[int], blob: str = "") -> bytes:
    """A payload; with ``blob`` a reference to a blob of that name, which carries the values in its digest."""
    data = array("q", values).tobytes()
    return REFERENCE + pack((blob, len(data), data, 0, len(data))) if blob else b"\0" + data


def decode(data: bytes) -> list[int]:
    return array("q", unpack(data[1:])[2] if is_reference(data) else data[1:]).tolist()


def mix(a: int, b: int) -> int:
    return ((a * 2654435761 + b * 40503) ^ (a << 7)) % 2147483647 >> 3


# -- what handlers do ---------------------------------------------------------------------------


def tokens(program: Program, values: list[int]) -> list[int]:
    """What one activation stands for, whatever the grouping: its values, or one value made of them."""
    if program.kind == "join":
        return [program.salt]
    if program.kind == "total":
        return [sum(values) % HOP]
    return values


def emissions(program: Program, value: int) -> list[Emission]:
    hops, ident = divmod(value, HOP)
    if program.kind == "source":
        events = len(program.fans)
        return [(i % events, hops * HOP + (program.salt + 37 * i) % HOP) for i in range(ident)]
    out: list[Emission] = []
    for event, fan in enumerate(program.fans):
        left = hops - (event in program.loops)
        if left < 0 or mix(program.salt + event, ident) % 4 == 0:
            continue
        out += [(event, left * HOP + (ident * 7 + program.salt + 13 * j) % HOP) for j in range(fan)]
    return out


def changes(program: Program, values: list[int]) -> list[str]:
    """Which kinds of state this activation changes: not all of them every time."""
    if program.kind != "plain":
        return list(program.state)
    return [kind for n, kind in enumerate(program.state) if mix(program.salt + 31 * n, values[0] % HOP) % 3]


def is_flawed(program: Program, value: int) -> bool:
    return mix(program.salt ^ 0x55, value % HOP) % program.flaw_every == 0


def outcome(program: Program, values: list[int], attempt: int, cursor: int | None) -> Outcome:
    """What this attempt does."""
    out = [e for token in tokens(program, values) for e in emissions(program, token)]
    flawed = bool(program.flaw) and attempt <= program.flaw_attempts
    if program.kind in ("plain", "source"):
        flawed = flawed and is_flawed(program, values[0])
    if not program.chunk:
        return Outcome((), program.flaw) if flawed else Outcome(((tuple(out), None),), "ok")
    start = cursor or 0
    breaks = len(out) // 2 if flawed else len(out)
    segments: list[tuple[tuple[Emission, ...], int | None]] = []
    while start + program.chunk <= breaks:
        segments.append((tuple(out[start : start + program.chunk]), start + program.chunk))
        start += program.chunk
    if flawed and start <= breaks:
        return Outcome(tuple(segments), program.flaw)
    while start + program.chunk <= len(out):
        segments.append((tuple(out[start : start + program.chunk]), start + program.chunk))
        start += program.chunk
    return Outcome((*segments, (tuple(out[start:]), None)), "ok")


# -- what must come of it -----------------------------------------------------------------------


def expect(topology: Topology, programs: tuple[Program, ...], values: tuple[int, ...]) -> Expected:
    """Run the flow without workers, batches, commits or trouble. Raises OverflowError when it grows too large."""
    return _Interpreter(topology, programs).run(values)


class _Interpreter:
    def __init__(self, topology: Topology, programs: tuple[Program, ...]) -> None:
        self.topology = topology
        self.programs = programs
        self.expected = Expected()
        self.queue: deque[tuple[int, list[int]]] = deque()
        self.slots = [[deque[int]() for _ in r.slots] for r in topology.routines]
        self.has_fired: set[int] = set()
        self.deferred: list[tuple[int, int, int]] = []

    def run(self, values: tuple[int, ...]) -> Expected:
        for value in values:
            self.arrive(0, 0, value)
        while True:
            while self.queue:
                self.activate(*self.queue.popleft())
            deferred, self.deferred = self.deferred, []
            for number, event, value in deferred:
                self.route(number, event, value)
            if not deferred and not self.fire_total():
                break
        for number, slots in enumerate(self.slots):
            left = sum(len(slot) for slot in slots)
            if left:
                self.expected.unconsumed[number] = left
        return self.expected

    def arrive(self, number: int, slot: int, value: int) -> None:
        kind = self.topology.routines[number].policy.kind
        slots = self.slots[number]
        if kind in ("each", "batch_size", "time_interval", "custom"):
            self.queue.append((number, [value]))
            return
        slots[slot].append(value)
        if kind == "all_slots_ready" and all(slots):
            self.queue.append((number, [s.popleft() for s in slots]))

    def fire_total(self) -> bool:
        """The first aggregate that nothing is upstream of any more."""
        totals = {n for n, r in enumerate(self.topology.routines) if r.policy.kind == "upstream_done"} - self.has_fired
        for number in sorted(totals):
            if not self.topology.upstream[number] & totals:
                self.has_fired.add(number)
                held = [value for slot in self.slots[number] for value in slot]
                for slot in self.slots[number]:
                    slot.clear()
                self.queue.append((number, held))
                return True
        return False

    def activate(self, number: int, values: list[int]) -> None:
        spec, program, expected = self.topology.routines[number], self.programs[number], self.expected
        error = spec.error or ErrorSpec("stop" if number == 0 else "tolerate")
        expected.activations += 1
        if expected.activations > ACTIVATIONS_MAX:
            raise OverflowError
        attempt, cursor = 1, None
        while True:
            segments, end = outcome(program, values, attempt, cursor)
            for out, after in segments:
                self.commit(number, program, values, out, is_final=after is None)
                if after is not None:
                    cursor, attempt = after, 1
            if end == "ok":
                return
            if end == "poison":
                expected.dead += 1
                expected.stops |= error.strategy in ("stop", "retry")
                return
            if error.strategy == "retry" and end != "fatal" and attempt <= error.max_retries:
                attempt += 1
                continue
            expected.stops |= error.strategy in ("stop", "retry")
            return

    def commit(
        self, number: int, program: Program, values: list[int], out: tuple[Emission, ...], is_final: bool
    ) -> None:
        expected, rid = self.expected, self.topology.routines[number].routine_id
        mine = tokens(program, values) if is_final else []
        amount = len(out) + len(mine)
        for kind in changes(program, values):
            if kind == "own":
                expected.state[(rid, "count")] += amount
            elif kind in ("shared", "add"):
                expected.state[("", program.key)] += amount
            elif kind == "append":
                expected.appended.update(("list", token) for token in mine)
            else:
                expected.logged += len(mine)
        for event, value in out:
            if event in program.defers:
                self.deferred.append((number, event, value))
            else:
                self.route(number, event, value)

    def route(self, number: int, event: int, value: int) -> None:
        routes = self.topology.routes.get((number, event))
        if routes is None:
            self.expected.results[(number, event, value)] += 1
            return
        for connection in routes:
            _, _, target, slot = self.topology.connections[connection]
            self.arrive(target, slot, value)


# -- random flows -------------------------------------------------------------------------------

_SHAPES = ("chain", "fan_out", "fan_in", "diamond", "dag", "dag", "cycle", "cycle")
_PACES_NS = (1_000, 100_000, 3_000_000, 30_000_000)


def random_flow(rng: Random, flow_id: str) -> Flow:
    """A flow with handlers and input that ends, small enough to run in a blink."""
    size = rng.choice((2, 4, 8, 16, 32, 64))
    while True:
        topology, programs = _shape(rng, flow_id)
        for _ in range(3):
            hops = rng.randint(1, 3)
            values = (
                tuple(hops * HOP + max(1, size // 2) for _ in range(2)) if rng.random() < 0.25 else (hops * HOP + size,)
            )
            try:
                return Flow(topology, programs, values, expect(topology, programs, values))
            except OverflowError:
                size = max(1, size // 2)


def _shape(rng: Random, flow_id: str) -> tuple[Topology, tuple[Program, ...]]:
    shape = rng.choice(_SHAPES)
    count = 4 if shape == "diamond" else rng.randint(2, 6)
    edges = _edges(rng, shape, count)
    loops = {(s, t) for s, t in edges if t <= s}
    slots: list[int] = [1] + [0] * (count - 1)
    events: list[int] = [0] * count
    loop_events: list[set[int]] = [set() for _ in range(count)]
    connections: list[ConnectionSpec] = []
    for source, target in edges:
        is_loop = (source, target) in loops
        if events[source] and rng.random() < 0.4 and not is_loop:
            event = rng.randrange(events[source])
        else:
            event, events[source] = events[source], events[source] + 1
        if is_loop:
            loop_events[source].add(event)
        if slots[target] and rng.random() < 0.5:
            slot = rng.randrange(slots[target])
        else:
            slot, slots[target] = slots[target], slots[target] + 1
        connections.append(ConnectionSpec(source, event, target, slot))
    for number in range(count):
        if not events[number] or rng.random() < 0.4:
            events[number] += 1  # connected to nothing: results
    on_cycle = {n for source, target in loops for n in range(target, source + 1)}  # a chain with one way back
    stateful = rng.choice((0.0, 0.15, 0.15, 0.5, 0.9))
    routines, programs = [], []
    for number in range(count):
        spec, program = _routine(rng, number, slots[number], events[number], number in on_cycle, stateful)
        routines.append(spec)
        program = program._replace(loops=frozenset(loop_events[number]))
        if rng.random() < 0.1 and not (spec.is_ordered and spec.workers != 1):
            # What leaves with a resumption has no place among what leaves in the order of the inputs.
            program = program._replace(defers=frozenset((rng.randrange(events[number]),)))
        programs.append(program)
    strategy = "sequential" if rng.random() < 0.15 else "concurrent"
    return Topology(flow_id, strategy, tuple(routines), tuple(connections)), tuple(programs)


def _edges(rng: Random, shape: str, count: int) -> list[tuple[int, int]]:
    if shape == "fan_out":
        return [(0, target) for target in range(1, count)]
    if shape == "fan_in":
        middle = list(range(1, count - 1)) or [0]
        return list(dict.fromkeys([(0, m) for m in middle if m] + [(m, count - 1) for m in middle]))
    if shape == "diamond":
        return [(0, 1), (0, 2), (1, 3), (2, 3)]
    if shape == "dag":
        return [(s, t) for t in range(1, count) for s in rng.sample(range(t), min(t, rng.randint(1, 2)))]
    edges = [(n, n + 1) for n in range(count - 1)]
    if shape == "cycle":
        back = rng.randint(1, count - 1)
        edges.append((rng.randint(back, count - 1), back))
    return edges


def _routine(
    rng: Random, number: int, slots: int, events: int, on_cycle: bool, stateful: float
) -> tuple[RoutineSpec, Program]:
    policy, kind = PolicySpec(), "plain" if number else "source"
    if number and rng.random() < 0.4:
        policy, kind = _policy(rng, slots, on_cycle)
    program = Program(
        salt=rng.randrange(1, 9_999),
        fans=tuple(rng.choice((1, 1, 1, 2)) for _ in range(events)),
        kind=kind,
        chunk=rng.choice((1, 2, 3)) if kind in ("plain", "source") and rng.random() < 0.35 else 0,
        state=tuple(s for s in ("own", "shared", "add", "append", "log") if rng.random() < stateful),
        key=rng.choice("ab"),
        pace_ns=rng.choice(_PACES_NS),
    )
    error = _error(rng)
    if rng.random() < 0.4:
        program = _flawed(rng, program, error)
    workers = rng.choice((1, 1, 1, 2, 3, 0))
    if stateful > 0.5:  # many workers that change the same things at once, quickly
        program, workers = program._replace(key="a", pace_ns=_PACES_NS[0]), rng.choice((1, 2, 3))
    spec = RoutineSpec(
        f"r{number}", f"R{number}", tuple(f"s{i}" for i in range(slots)), tuple(f"e{i}" for i in range(events)),
        "handler" if kind in ("plain", "source") else "logic", policy, workers,
        workers != 1 and rng.random() < 0.5, 0.05 if program.flaw == "hang" else None, error,
        rng.choice((1, 2, 3, 8, 10_000)),
    )  # fmt: skip
    return spec, program


def _policy(rng: Random, slots: int, on_cycle: bool) -> tuple[PolicySpec, str]:
    kinds = ["batch_size", "batch_size", "time_interval", "custom", "custom"]
    if slots > 1:
        kinds += ["all_slots_ready"] * 3
    if not on_cycle:
        kinds += ["upstream_done"] * 3
    kind = rng.choice(kinds)
    match kind:
        case "batch_size":
            return PolicySpec(kind, rng.randint(2, 4)), "group"
        case "time_interval":
            return PolicySpec(kind, 0, 0.01), "group"
        case "custom":
            return PolicySpec(kind), "group"  # see ``SimWorker.answer``
        case "all_slots_ready":
            return PolicySpec(kind), "join"
    return PolicySpec(kind), "total"


def _error(rng: Random) -> ErrorSpec | None:
    strategy = rng.choice(("none", "stop", "continue", "skip", "retry", "retry", "retry"))
    if strategy == "none":
        return None
    return ErrorSpec(strategy, rng.randint(1, 3), rng.choice((0.0, 0.005, 0.2)), 2.0)


def _flawed(rng: Random, program: Program, error: ErrorSpec | None) -> Program:
    """A flaw whose consequences do not depend on the order in which things happen."""
    retries = error.max_retries if error is not None and error.strategy == "retry" else 0
    curable = rng.randint(1, retries) if retries else 0
    if program.kind not in ("plain", "source"):
        return program._replace(flaw="error", flaw_attempts=curable) if curable else program
    flaw = rng.choice(("error", "error", "error", "fatal", "hang", "poison"))
    every = 1 if program.kind == "source" else rng.choice((2, 3, 5))
    if program.kind == "source" and rng.random() < 0.7 and not curable:
        return program  # most jobs get further than their first activation
    if flaw in ("hang", "poison") and program.chunk:
        # How much of a generator was committed when its worker died depends on when that was.
        return program._replace(flaw="hang", flaw_every=every, flaw_attempts=curable) if curable else program
    if curable and rng.random() < 0.8 and flaw in ("error", "hang"):
        return program._replace(flaw=flaw, flaw_every=every, flaw_attempts=curable)
    return program._replace(flaw=flaw, flaw_every=every, flaw_attempts=99)
