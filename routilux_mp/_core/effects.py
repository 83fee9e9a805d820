"""What must be done because of what happened: commands from the core to the shell."""

# Annotations are not postponed here: of a NamedTuple each one that is text is compiled, at every start.
from typing import NamedTuple

from .batch import Batch
from .stimuli import Failure


class Part(NamedTuple):
    """A run of emissions of one batch, for one slot: ``count`` items of ``batch`` from ``start``."""

    slot: int
    connection: int  # -1: posted from outside
    batch: Batch
    start: int
    count: int  # type: ignore[assignment]


class Work(NamedTuple):
    """Activations for one worker, to be run one after another.

    ``is_group``: all parts together are the input of one activation (a policy took them);
    otherwise every item is an activation of its own, numbered from ``seq`` on through the parts.
    """

    dispatch: int
    worker: int
    routine: int
    seqs: tuple[int, ...]  # number of the first activation of each part
    parts: tuple[Part, ...]
    is_group: bool = False
    message: bytes = b""  # what the policy said, encoded; "" for each-activations
    attempt: int = 1
    cursor: bytes | None = None
    #: Changes of state that this worker has not seen: (scope, key, value or None); see ``is_reset``.
    state: tuple[tuple[str, str, object], ...] = ()
    is_reset: bool = False  # forget all state of the job first
    #: The parts are not taken yet: ask the routine's policy (asked about everything below this arrival
    #: number before; whether nothing more will come by itself). ``seqs`` are then arrival numbers.
    question: tuple[int, bool] | None = None
    is_tolerant: bool = False  # one that raises is reported, and the next one runs


class GoOn(NamedTuple):
    """A generator that committed a cursor may produce more."""

    worker: int
    dispatch: int


class Revoke(NamedTuple):
    """Start nothing more of this dispatch; hand the rest back."""

    worker: int
    dispatch: int


class Kill(NamedTuple):
    """End the worker now: its activation must not go on (cancel after the grace period)."""

    worker: int


class Unreadable(NamedTuple):
    """What an activation was to be given cannot be read: again later, or never if it is not ``is_retryable``."""

    routine: int
    failure: Failure


class Dropped(NamedTuple):
    """A report counted nothing: what it carries will be in no record."""

    batches: tuple[Batch, ...]


class Changed(NamedTuple):
    """Something a caller can see has changed; publish when the commit stands."""


class Ended(NamedTuple):
    """The job has reached a terminal status."""


Effect = Work | GoOn | Revoke | Kill | Unreadable | Dropped | Changed | Ended
KINDS = frozenset({Work, GoOn, Revoke, Kill, Unreadable, Dropped, Changed, Ended})
