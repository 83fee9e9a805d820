"""What has happened to a job. Durable records are the job; volatile ones only say what is under way.

The order of the fields is the on-disk format (see ``_storage.codec``): append, never reorder.
"""

# Annotations are not postponed here: of a NamedTuple each one that is text is compiled, at every start.
from typing import NamedTuple

from .batch import Batch
from .stimuli import Emit, Failure, StateOp


class Submitted(NamedTuple):
    """The job exists. Its entry activation, if there is one, is queued."""

    time_ns: int
    flow_id: str
    topology: dict[str, object]
    entry: int
    slot: int
    batch: Batch | None
    metadata: bytes = b""
    code: tuple[bytes, ...] = ()
    ops: tuple[StateOp, ...] = ()
    limit_ns: int = 0  # it fails when it runs longer; 0: it may run for ever


class Completed(NamedTuple):
    """Activations returned: their emissions and state changes hold from here on, together.

    ``ranges``: (first, count, first, count, …) of activation numbers of the routine. With a
    ``cursor`` the activation numbered ``partial`` committed so far and goes on.
    """

    time_ns: int
    routine: int
    ranges: tuple[int, ...]
    emits: tuple[Emit, ...] = ()
    ops: tuple[StateOp, ...] = ()
    partial: int = -1
    cursor: bytes | None = None
    order: bytes = b""  # as in ``Completion``


class Failed(NamedTuple):
    """An attempt failed, and what follows from it.

    ``action``: ``retry`` (again at ``due_ns``), ``again`` (a crash below the limit), ``continue``,
    ``skip``, ``tolerate``, ``stop``, ``dead`` (dead letter; the job goes on), ``dead_stop``.
    A negative ``seq`` is no activation: the routine's policy failed when it was asked about the emissions
    with arrival numbers below ``-seq``. They stay in their slots, whatever follows.
    """

    time_ns: int
    routine: int
    seq: int
    attempt: int
    action: str
    failure: Failure
    due_ns: int = 0


class Taken(NamedTuple):
    """A policy took this many emissions of each slot as the input of one activation."""

    time_ns: int
    routine: int
    takes: tuple[int, ...]  # per slot
    message: bytes = b""


class Posted(NamedTuple):
    time_ns: int
    routine: int
    slot: int
    batch: Batch


class Annotated(NamedTuple):
    time_ns: int
    ops: tuple[StateOp, ...]


class PauseAsked(NamedTuple):
    time_ns: int
    reason: str = ""
    checkpoint: bytes = b""
    is_offer: bool = False


class Paused(NamedTuple):
    time_ns: int


class Resumed(NamedTuple):
    """The job goes on. What had been kept back until now is emitted: (routine, emission)."""

    time_ns: int
    deferred: tuple[tuple[int, Emit], ...] = ()


class StopAsked(NamedTuple):
    """The job is to end as ``status`` once what runs has ended."""

    time_ns: int
    status: str  # "cancelled" | "failed"
    reason: str = ""


class Closed(NamedTuple):
    """Nothing more will be posted."""

    time_ns: int


class Ended(NamedTuple):
    time_ns: int
    status: str
    reason: str = ""


class Answered(NamedTuple):
    """A request took effect with the records of this commit, or was refused; never again."""

    time_ns: int
    request_id: str
    refusal: str = ""


class Revived(NamedTuple):
    """A dead letter is queued again, or a waiting retry is due now."""

    time_ns: int
    routine: int
    seq: int


class Declined(NamedTuple):
    """A policy that had failed was asked again and said no: its counts begin anew."""

    time_ns: int
    routine: int


class Adopted(NamedTuple):
    """The job began elsewhere; this is all of it, as a document told. The first record of its log here."""

    time_ns: int
    flow_id: str
    snapshot: dict[str, object]
    past: bytes = b""  # encoded: history, shared log and outputs of before
    code: tuple[bytes, ...] = ()


class Skipped(NamedTuple):
    """A dead letter, or an activation that waited for its retry, was given up by a person."""

    time_ns: int
    routine: int
    seq: int


class Postponed(NamedTuple):
    """Whoever goes on with the job gives it the time that was left: it fails when it is not done by then."""

    time_ns: int
    fails_at_ns: int


class Recoded(NamedTuple):
    """The job goes on with other code than before. The batch is that code, as in the first record, packed."""

    time_ns: int
    batch: Batch


class Edited(NamedTuple):
    """An activation that has not run has another input than it had; it came the same way."""

    time_ns: int
    routine: int
    seq: int
    batch: Batch


class Reordered(NamedTuple):
    """Queued activations run in another order: the first of ``seqs`` takes the lowest of their places, and so on."""

    time_ns: int
    routine: int
    seqs: tuple[int, ...]


Durable = (
    Submitted | Completed | Failed | Taken | Posted | Annotated | PauseAsked | Paused | Resumed | StopAsked | Closed
    | Ended | Answered | Revived | Skipped | Declined | Adopted | Postponed | Recoded | Edited
    | Reordered
)  # fmt: skip


# -- volatile: gone when the supervisor is, and rightly so --------------------------------------


class Dispatched(NamedTuple):
    """Activations were given to a worker."""

    dispatch: int
    worker: int
    routine: int
    count: int  # type: ignore[assignment]  # activations from the head of the queue; 0: the special one named by ``seq``
    seq: int = -1
    shipped: tuple[tuple[str, str], ...] = ()  # keys of state that went along
    question: tuple[int, bool] | None = None  # not work: the policy is asked (about arrivals below, is it final)


class Returned(NamedTuple):
    """A dispatch is over; what it had not done is queued again."""

    dispatch: int


class Held(NamedTuple):
    """A generator waits until its consumers have room: one more report of it is to be answered then; or it goes on."""

    dispatch: int
    is_held: bool


class Rested(NamedTuple):
    """The input of a routine could not be read: nothing of it is given out before ``until_ns``."""

    routine: int
    until_ns: int


class Asked(NamedTuple):
    """A custom policy has answered, or is not asked again, about everything below this arrival number."""

    routine: int
    until: int
    is_final: bool


class Quiet(NamedTuple):
    """Nothing more will come by itself: the routine's policy is to be asked for the last time."""

    routine: int


class Conflicted(NamedTuple):
    """An activation read what another commit has changed: it runs again, alone, holding its keys."""

    routine: int
    seq: int
    keys: tuple[tuple[str, str], ...]


class Stood(NamedTuple):
    commit: int


class Seen(NamedTuple):
    """A worker's copy of the job's state is up to date as of ``version``; -1: it is gone."""

    worker: int
    version: int


Volatile = Dispatched | Returned | Held | Conflicted | Stood | Seen | Rested | Asked | Quiet
Record = Durable | Volatile

#: Tag on disk of every durable record. Never reused.
TAGS: dict[type, int] = {
    Submitted: 1, Completed: 2, Failed: 3, Taken: 4, Posted: 5, Annotated: 6,
    PauseAsked: 7, Paused: 8, Resumed: 9, StopAsked: 10, Closed: 11, Ended: 12,
    Answered: 13, Revived: 14, Skipped: 15, Declined: 16, Adopted: 17, Postponed: 18, Recoded: 19,
    Edited: 20, Reordered: 21,
}  # fmt: skip
DURABLE = frozenset(TAGS)
