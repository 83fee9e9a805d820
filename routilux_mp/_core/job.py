"""The folded state of one job. Only :func:`apply` changes it, and only by a record."""

# Annotations are not postponed here: of a NamedTuple each one that is text is compiled, at every start.
from collections import deque
from typing import Any, NamedTuple

from .batch import Batch
from .specials import Specials
from .stimuli import Emit, Failure
from .topology import Topology

Key = tuple[str, str]  # (scope, key) of shared state
#: Changes of state that are remembered before the old ones are looked for.
CHANGED_MAX = 4096


class ListValue:
    """A value made by ``append``: an encoded base value, if there was one, and encoded items."""

    __slots__ = ("base", "items")

    def __init__(self, base: bytes | int | float | None = None, items: list[bytes] | None = None) -> None:
        self.base = base
        self.items = [] if items is None else items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ListValue) and (self.base, self.items) == (other.base, other.items)

    __hash__ = None  # type: ignore[assignment]


Value = bytes | int | float | ListValue


class Run(NamedTuple):
    """Consecutive activations, one per emission: ``count`` items of ``batch`` from ``start`` on."""

    seq: int
    slot: int
    connection: int
    batch: Batch
    start: int
    count: int  # type: ignore[assignment]
    commit: int = 0  # volatile: the commit that must stand before this may be dispatched


class Group(NamedTuple):
    """One activation whose input a policy took from the slots."""

    seq: int
    runs: tuple[Run, ...]
    message: bytes
    commit: int = 0
    count: int = 1  # type: ignore[assignment]  # always


Item = Run | Group


class Special(NamedTuple):
    """One activation that is looked at singly: it failed, crashed, conflicted or committed a cursor."""

    item: Item
    attempt: int = 1
    crashes: int = 0
    due_ns: int = 0
    cursor: bytes | None = None
    keys: tuple[Key, ...] = ()  # volatile: held while it runs
    since_ns: int = 0  # when ``due_ns`` was set, by the same clock


class Deferred(NamedTuple):
    """An emission that is kept back until the job is resumed."""

    routine: int
    event: int
    batch: Batch


class DeadLetter(NamedTuple):
    routine: int
    seq: int
    item: Item
    failure: Failure
    time_ns: int
    cursor: bytes | None = None


class Dispatch:
    """Volatile: activations that a worker has and has not reported."""

    __slots__ = ("dispatch", "items", "owed", "question", "reported", "routine", "special", "version", "worker")

    def __init__(
        self, dispatch: int, worker: int, routine: int, items: deque[Item], special: int, version: int
    ) -> None:
        self.dispatch = dispatch
        self.worker = worker
        self.routine = routine
        self.items = items  # not yet reported, in order, without the special one
        self.reported = 0  # activations reported so far: index of the first of ``items``
        self.special = special  # number of the special activation at its head, or -1
        self.version = version  # of the state it was given
        self.owed = 0  # reports of a generator that are not answered: it waits for room
        self.question: tuple[int, bool] | None = None  # nothing to run: the policy is asked

    @property
    def is_held(self) -> bool:
        """It waits until its consumers have room."""
        return self.owed > 0


class RoutineState:
    """Queues of one routine in one job."""

    __slots__ = (
        "arrived",
        "ask_attempt",
        "ask_crashes",
        "ask_due_ns",
        "ask_since_ns",
        "asked",
        "asking",
        "dispatches",
        "done",
        "failures",
        "given_up",
        "has_fired",
        "has_run",
        "held_emits",
        "is_asked_finally",
        "is_quiet",
        "last_failed",
        "last_taken_ns",
        "next_release",
        "next_seq",
        "queued",
        "ready",
        "ready_count",
        "rest_until_ns",
        "rests",
        "slots",
        "special",
    )  # fmt: skip

    def __init__(self, slot_count: int) -> None:
        self.ready: deque[Item] = deque()  # in order of arrival
        self.ready_count = 0  # activations in ``ready``
        self.special = Specials()
        self.slots: list[deque[Run]] = [deque() for _ in range(slot_count)]  # what a policy has not taken yet
        self.queued = [0] * slot_count  # emissions not yet consumed, per slot: bounded
        self.next_seq = 0
        self.next_release = 0  # ordered: emissions of every activation below are released
        self.held_emits: dict[int, tuple[int, tuple[Emit, ...]]] = {}  # ordered: first -> (count, emissions)
        self.done = 0  # activations that returned
        self.has_fired = False  # upstream_done has been activated
        self.has_run = False
        self.last_taken_ns = 0
        self.failures = 0  # failed attempts of ``last_failed``
        self.last_failed = -1
        # A custom policy: emissions are numbered as they arrive, and it is asked about each in that order.
        self.arrived = 0  # the next arrival's number
        self.ask_attempt = 1
        self.ask_crashes = 0
        self.ask_due_ns = 0  # when it is asked again after it failed
        self.ask_since_ns = 0  # when that was set, by the same clock
        self.given_up = 0  # it failed for good when asked about arrivals below: only newer ones make it be asked
        # -- volatile ----------------------------------------------------------------------
        self.asked = 0  # it has declined, or taken, what arrived below
        self.asking = 0  # the dispatch that asks it
        self.is_quiet = False  # it is to be asked finally
        self.is_asked_finally = False
        self.dispatches: dict[int, Dispatch] = {}
        self.rest_until_ns = 0  # its input could not be read: nothing is given out before
        self.rests = 0  # times that this happened in a row

    @property
    def is_idle(self) -> bool:
        """Nothing queued, running or waiting."""
        return not (self.ready or self.special or self.dispatches)


class Job:
    """One execution of a flow."""

    def __init__(
        self, job_id: str, *, max_crashes: int = 3, grace_s: float = 5.0, ordered_window_max: int = 1_000
    ) -> None:
        self.job_id = job_id
        self.max_crashes = max_crashes
        self.grace_ns = int(grace_s * 1e9)
        self.ordered_window_max = ordered_window_max
        self.topology = Topology("", "concurrent", (), ())
        self.status = "pending"
        self.created_ns = 0
        self.updated_ns = 0
        self.entry = -1
        self.entry_slot = 0
        self.entry_batch: Batch | None = None
        self.metadata = b""
        #: The code that it goes on with, where that is not what its first record keeps.
        self.code: Batch | None = None
        self.is_open = False
        self.reason = ""
        self.routines: list[RoutineState] = []
        #: routine id -> what the framework says of it (status, error, …): plain values
        self.framework: dict[str, dict[str, Any]] = {}
        #: scope -> key -> value; scope "" is shared_data, any other a routine id
        self.state: dict[str, dict[str, Value]] = {"": {}}
        self.log_count = 0
        self.sent_count = 0  # outputs
        self.deferred: list[Deferred] = []
        self.record_count = 0  # entries of the execution history
        self.results: dict[tuple[int, int], int] = {}
        self.pause_points: list[dict[str, Any]] = []
        self.checkpoint = b""
        self.dead_letters: list[DeadLetter] = []
        #: what the job is to become once nothing runs any more: ("paused" | "failed" | "cancelled", reason, since)
        self.closing: tuple[str, str, int] | None = None
        self.activations = 0  # returned so far
        #: A job that was resumed with nothing left shows as running for a moment: callers look for that.
        self.ends_after_ns = 0
        #: It fails when it is not done by then; 0: it has all the time. And how long that was at first.
        self.fails_at_ns = 0
        self.limit_ns = 0
        #: The newest pause was asked for so that somebody else goes on.
        self.is_offered = False
        #: request id -> why it was refused, or "": requests are obeyed once. Ids up to ``answered_low`` are expired.
        self.answered: dict[str, str] = {}
        self.answered_low = ""
        # -- volatile ----------------------------------------------------------------------
        self.dispatches: dict[int, Dispatch] = {}
        self.stands = 0
        self.resume_commit = 0  # the commit that must stand before anything runs again
        self.is_draining = False
        self.is_postponed = False  # ``fails_at_ns`` is a new one and not on record yet
        self.version = 0  # counts changes of state
        #: key -> (version, worker that wrote it; -1: from outside, version before of another writer that it built on)
        self.changed: dict[Key, tuple[int, int, int]] = {}
        self.changed_max = CHANGED_MAX  # old ones are forgotten when there are more
        self.recent: deque[tuple[int, int, Key]] = deque(maxlen=1024)
        self.state_commit = 0  # the commit of the newest change of state
        self.seen: dict[int, int] = {}  # worker -> version of the state it has
        #: worker -> key -> dispatch that brought it a value while earlier dispatches were still out
        self.shipped: dict[int, dict[Key, int]] = {}
        self.holds: dict[Key, int] = {}  # key -> number of the dispatch that holds it
        self.current: int | None = None  # the routine dispatched last that still runs

    @property
    def is_terminal(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    def has_answered(self, request_id: str) -> bool:
        """The request took effect, was refused, or has expired."""
        return request_id <= self.answered_low or request_id in self.answered

    def changed_for(self, worker: int, key: Key) -> int:
        """Version of the newest change of ``key`` that this worker did not make itself."""
        version, writer, foreign = self.changed.get(key, (0, -1, 0))
        return foreign if writer == worker else version

    def routine_id(self, routine: int) -> str:
        return self.topology.routines[routine].routine_id

    def activation_count(self) -> int:
        """Activations queued, running or waiting."""
        return sum(
            r.ready_count + len(r.special) + sum(_count(d) for d in r.dispatches.values()) for r in self.routines
        )

    def pending_count(self) -> int:
        """Activations queued, running or waiting; and runs of emissions that a policy may still take."""
        return self.activation_count() + sum(sum(map(len, r.slots)) for r in self.routines)


def _count(dispatch: Dispatch) -> int:
    return sum(item.count for item in dispatch.items)
