"""The shape of a flow as plain data: what the core needs to route, and nothing that runs.

Routines, slots and events are numbered; the numbers are stable for the life of a job because
the topology is part of its first record.
"""

# Annotations are not postponed here: of a NamedTuple each one that is text is compiled, at every start.
from functools import lru_cache
from typing import Any, NamedTuple


class ErrorSpec(NamedTuple):
    """What happens when an activation fails; already resolved: the routine's handler, else the flow's."""

    strategy: str  # "stop" | "continue" | "retry" | "skip"
    max_retries: int = 3
    retry_delay_s: float = 1.0
    retry_backoff: float = 2.0
    is_critical: bool = False


class PolicySpec(NamedTuple):
    """When a routine is activated. ``each``: once per emission, which handlers and ``immediate`` share."""

    kind: str = "each"  # each | batch_size | time_interval | all_slots_ready | upstream_done | custom
    count: int = 0  # type: ignore[assignment]
    interval_s: float = 0.0


class RoutineSpec(NamedTuple):
    routine_id: str
    class_name: str
    slots: tuple[str, ...]
    events: tuple[str, ...]
    style: str = "handler"  # handler | logic
    policy: PolicySpec = PolicySpec()
    workers: int = 1  # worker processes at most; 0: "auto"
    is_ordered: bool = False
    timeout_s: float | None = None
    error: ErrorSpec | None = None
    queue_max: int = 10_000


class ConnectionSpec(NamedTuple):
    source: int
    event: int
    target: int
    slot: int


class Topology:
    """A flow's shape, and what follows from it. It is never changed; two are equal when their shapes are."""

    # A dataclass of so many fields would take 3 ms to make, in every process that runs or serves a flow.
    __slots__ = (
        "connections", "custom", "depth", "downstream", "feeds", "flow_id", "grouped", "routes", "routines",
        "strategy", "upstream",
    )  # fmt: skip

    def __init__(
        self, flow_id: str, strategy: str, routines: tuple[RoutineSpec, ...], connections: tuple[ConnectionSpec, ...]
    ) -> None:
        """``strategy``: ``"concurrent"`` or ``"sequential"``."""
        self.flow_id = flow_id
        self.strategy = strategy
        self.routines = routines
        self.connections = connections
        derived = _derived(routines, connections)
        #: (routine, event) -> numbers of the connections it feeds
        self.routes: dict[tuple[int, int], tuple[int, ...]] = derived["routes"]
        #: routine -> every routine from which it can be reached
        self.upstream: tuple[frozenset[int], ...] = derived["upstream"]
        #: routine -> direct successors
        self.downstream: tuple[frozenset[int], ...] = derived["downstream"]
        #: routine -> (target, slot) of everything it feeds that is bounded
        self.feeds: tuple[tuple[tuple[int, int], ...], ...] = derived["feeds"]
        #: routines whose policy takes several emissions for one activation; sources first
        self.grouped: tuple[int, ...] = derived["grouped"]
        #: routines whose policy is the user's own code
        self.custom: tuple[int, ...] = derived["custom"]
        #: routine -> steps to the farthest sink reachable without going round a cycle
        self.depth: tuple[int, ...] = derived["depth"]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topology) and self._shape() == other._shape()

    def __hash__(self) -> int:
        return hash(self._shape())

    def __repr__(self) -> str:
        return f"Topology{self._shape()!r}"

    def _shape(self) -> tuple[Any, ...]:
        return self.flow_id, self.strategy, self.routines, self.connections

    def index_of(self, routine_id: str) -> int | None:
        """Number of the routine, or None."""
        for number, routine in enumerate(self.routines):
            if routine.routine_id == routine_id:
                return number
        return None

    def to_plain(self) -> dict[str, Any]:
        """As MessagePack- and JSON-able data."""
        return {
            "flow_id": self.flow_id,
            "strategy": self.strategy,
            "routines": [
                [*r[:5], list(r.policy), *r[6:9], None if r.error is None else list(r.error), r.queue_max]
                for r in self.routines
            ],
            "connections": [list(c) for c in self.connections],
        }

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> "Topology":
        routines = []
        for row in data["routines"]:
            rid, class_name, slots, events, style, policy, workers, is_ordered, timeout_s, error, queue_max = row
            routines.append(
                RoutineSpec(
                    rid, class_name, tuple(slots), tuple(events), style, PolicySpec(*policy), workers, is_ordered,
                    timeout_s, None if error is None else ErrorSpec(*error), queue_max,
                )
            )  # fmt: skip
        connections = tuple(ConnectionSpec(*row) for row in data["connections"])
        return cls(data["flow_id"], data["strategy"], tuple(routines), connections)


@lru_cache(maxsize=64)  # a flow is the same for all of its jobs
def _derived(routines: tuple[RoutineSpec, ...], connections: tuple[ConnectionSpec, ...]) -> dict[str, Any]:
    """What follows from the shape alone; shared by equal ones."""
    numbers = range(len(routines))
    routes: dict[tuple[int, int], tuple[int, ...]] = {}
    down: list[set[int]] = [set() for _ in numbers]
    for number, connection in enumerate(connections):
        key = (connection.source, connection.event)
        routes[key] = (*routes.get(key, ()), number)
        down[connection.source].add(connection.target)
    reach = [_reachable(start, down) for start in numbers]
    depth = tuple(_depth(r, down, reach) for r in numbers)
    grouped = [r for r in numbers if routines[r].policy.kind != "each"]
    return {
        "routes": routes,
        "downstream": tuple(frozenset(targets) for targets in down),
        "upstream": tuple(frozenset(s for s in numbers if r in reach[s]) for r in numbers),
        "feeds": tuple(_feeds(r, connections, routines) for r in numbers),
        "depth": depth,
        "custom": tuple(r for r in grouped if routines[r].policy.kind == "custom"),
        "grouped": tuple(sorted(grouped, key=lambda r: -depth[r])),
    }


def _feeds(
    routine: int, connections: tuple[ConnectionSpec, ...], routines: tuple[RoutineSpec, ...]
) -> tuple[tuple[int, int], ...]:
    """What waits for the end of everything upstream cannot drain before that: a bound would only be in its way."""
    fed = dict.fromkeys((c.target, c.slot) for c in connections if c.source == routine)
    return tuple((target, slot) for target, slot in fed if routines[target].policy.kind != "upstream_done")


def _reachable(start: int, down: list[set[int]]) -> set[int]:
    """Routines that can be reached from ``start`` in one step or more (itself only on a cycle)."""
    seen: set[int] = set()
    stack = list(down[start])
    while stack:
        routine = stack.pop()
        if routine not in seen:
            seen.add(routine)
            stack.extend(down[routine])
    return seen


def _depth(routine: int, down: list[set[int]], reach: list[set[int]]) -> int:
    """Longest way to a sink; edges inside a cycle count nothing."""
    best: dict[int, int] = {}

    def visit(node: int) -> int:
        if node not in best:
            best[node] = 0  # a node of a cycle that is met again adds nothing
            steps = [visit(t) + (0 if node in reach[t] else 1) for t in down[node] if t != node]
            best[node] = max(steps, default=0)
        return best[node]

    return visit(routine)
