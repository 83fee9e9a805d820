"""What may happen to a job: the only input of :func:`step`. Wire messages of workers are stimuli."""

# Annotations are not postponed here: of a NamedTuple each one that is text is compiled, at every start.
from typing import NamedTuple

from .batch import Batch


class Emit(NamedTuple):
    """Emissions of one event, in order, encoded together."""

    event: int
    batch: Batch


class StateOp(NamedTuple):
    """One change of shared state. ``scope``: a routine id, or "" for ``shared_data``.

    ``set`` (value: encoded bytes), ``delete``, ``increment`` (value: int | float), ``append``
    (value: encoded bytes of one item); ``log``: an entry of the shared log (encoded bytes);
    ``output``: (temporary path, final path) to be moved when the commit stands; ``defer``: an emission
    (scope: routine id, key: event, value: a batch of one) kept back until the job is resumed; ``send``: an
    output for the caller (scope: routine id, key: its type, value: encoded bytes); ``record``: an entry of the
    execution history (scope: routine id, key: its name, value: encoded bytes); ``pause``, ``cancel``: a
    wish of a handler (key: the reason, value: encoded checkpoint), obeyed with the commit that carries it.
    """

    op: str
    scope: str
    key: str
    value: bytes | int | float | tuple[str, str] | None = None


#: The operations that change a value under (scope, key); no other can conflict.
STATE_OPS = frozenset(("set", "delete", "increment", "append"))


class Answer(NamedTuple):
    """A policy said yes: the next activation's input is this many emissions of each slot."""

    takes: tuple[int, ...]
    message: bytes = b""


class Failure(NamedTuple):
    """Why an attempt failed, as text: the exception itself never leaves its worker."""

    #: "error" | "timeout" | "crash"; "storage": its input cannot be read, so it did not even begin
    #: (``is_retryable``: not now; else it is damaged, or signed with another key).
    kind: str
    type_name: str
    message: str
    traceback: str = ""
    is_retryable: bool = True


class Submit(NamedTuple):
    """A new job; becomes its first record."""

    flow_id: str
    topology: dict[str, object]
    entry: int
    slot: int
    batch: Batch | None  # the entry parameters as one emission; None: open for ``post``
    metadata: bytes = b""
    code: tuple[bytes, ...] = ()  # the signed code bundle
    ops: tuple[StateOp, ...] = ()  # the state it begins with
    limit_ns: int = 0  # it fails when it runs longer (execution_timeout)


class Adopt(NamedTuple):
    """A job that began elsewhere and that only a document tells of; becomes its first record here."""

    flow_id: str
    snapshot: dict[str, object]  # as ``plain.to_plain`` makes it, payloads included
    past: bytes  # signed: what was recorded before, see ``records.Adopted``
    code: tuple[bytes, ...] = ()
    ops: tuple[StateOp, ...] = ()  # what was changed in the document


class Recode(NamedTuple):
    """Whoever goes on with the job does so with other code; see ``records.Recoded``."""

    batch: Batch


class Completion(NamedTuple):
    """A worker's report on one dispatch; several may come for one dispatch."""

    dispatch: int
    done: int  # activations that returned since the last report
    emits: tuple[Emit, ...] = ()
    ops: tuple[StateOp, ...] = ()
    reads: tuple[tuple[str, str], ...] = ()  # (scope, key) read by an activation that also wrote
    cursor: bytes | None = None  # committed by the activation after ``done``, which goes on
    failure: Failure | None = None  # of the activation after ``done``
    #: Nothing more comes; what is not done is handed back. With a failure: all else that the worker has, too.
    is_last: bool = True
    busy_ns: int = 0  # time spent on the reported activations
    answers: tuple[Answer, ...] = ()  # to a question (``Work.question``), which is then ``done``
    order: bytes = b""  # the events of all emissions as they came, one byte each; empty: grouped as in ``emits``

    @property
    def ended(self) -> int:
        """Activations that the worker is through with since the last report, but for those that come back."""
        return self.done + (self.failure is not None and not self.is_last)


class Capacity(NamedTuple):
    """A worker can take this many activations of this routine."""

    routine: int
    worker: int
    dispatch: int  # the number the dispatch will have; the shell's, since workers serve several jobs
    count: int  # type: ignore[assignment]
    may_ask: bool = True  # its policy too, which is the user's code and keeps to one worker


class HandedBack(NamedTuple):
    """Whatever this worker had of the job and has not done comes back, uncharged."""

    worker: int


class WorkerLost(NamedTuple):
    """A worker is gone; ``dispatch`` and ``index`` are what its page said it was running."""

    worker: int
    dispatch: int = 0
    index: int = -1  # type: ignore[assignment]  # activation within the dispatch, counted from its start; -1: none
    failure: Failure | None = None  # None: nobody is to blame (killed by us, nursery lost)


class Stands(NamedTuple):
    """Every record up to this commit is durable."""

    commit: int


class Tick(NamedTuple):
    """Time has passed: retries that are due, interval policies."""


class Pause(NamedTuple):
    reason: str = ""
    checkpoint: bytes = b""
    is_offer: bool = False  # whoever takes the job over may go on with it


class Resume(NamedTuple):
    pass


class Cancel(NamedTuple):
    reason: str = ""


class Drain(NamedTuple):
    """Dispatch nothing more, without changing the job: the supervisor is leaving."""


class Fail(NamedTuple):
    """End the job as failed (execution_timeout, an entry that cannot run)."""

    reason: str


class Post(NamedTuple):
    """Data for a slot from outside the flow."""

    routine: int
    slot: int
    batch: Batch


class Annotate(NamedTuple):
    """State written by the caller."""

    ops: tuple[StateOp, ...]


class Close(NamedTuple):
    """A job that is open for ``post`` gets no more: it completes when it is quiet."""


class Retry(NamedTuple):
    """Run a dead letter, or an activation that waits for its retry, now; -1: all of them (of the routine)."""

    routine: int = -1
    seq: int = -1


class Skip(NamedTuple):
    """Give up a dead letter, or an activation that waits for its retry; -1: all of them (of the routine)."""

    routine: int = -1
    seq: int = -1


class Yield(NamedTuple):
    """Let another supervisor have the job: it changes nothing in the job itself."""


class Ask(NamedTuple):
    """A request from outside, to be obeyed and answered exactly once."""

    request_id: str
    wish: Pause | Resume | Cancel | Retry | Skip | Post | Yield | None
    refusal: str = ""  # why it cannot be a wish


class Edit(NamedTuple):
    """What a person changed in the list of what is still to be done, before it goes on."""

    inputs: tuple[tuple[int, int, Batch], ...] = ()  # (routine, activation, its input in place of the old one)
    posts: tuple[tuple[int, int, Batch, int], ...] = ()  # (routine, slot, input, priority): one activation more
    priorities: tuple[tuple[int, int, int], ...] = ()  # (routine, activation, priority), where it is not 0
    due_now: tuple[tuple[int, int], ...] = ()  # (routine, activation): its retry waits no longer


Stimulus = (
    Submit | Adopt | Completion | Capacity | HandedBack | WorkerLost | Stands | Tick | Pause | Resume | Cancel | Drain
    | Fail | Post | Annotate | Close | Retry | Skip | Yield | Ask | Recode | Edit
)  # fmt: skip
