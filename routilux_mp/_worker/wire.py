"""Messages between a supervisor and its workers as bytes; the only place that knows their layout.

The messages *are* the core's stimuli and effects (:class:`Work`, :class:`Completion`, ...); only
what no job needs to know is added here: who the job is, and what a handler printed. A frame is a
four-byte length and a MessagePack array whose first element is the kind. Users' values inside are
opaque bytes.
"""

# Annotations are not postponed here: of a NamedTuple each one that is text is compiled, at every start.
from collections.abc import Mapping
from struct import Struct
from typing import Any, NamedTuple

from .._core.batch import Batch
from .._core.effects import GoOn, Part, Revoke, Work
from .._core.stimuli import Answer, Completion, Emit, Failure, StateOp
from .._serialization.packing import pack, unpack

_LENGTH = Struct("<I")
#: What is larger than this goes through blob files, so a larger frame is not one of ours.
FRAME_BYTES_MAX = 1 << 31


class JobInfo(NamedTuple):
    """Everything a worker must know of a job; sent once per worker and job, before its first work."""

    job_id: str
    code_id: str
    flow_id: str
    topology: Mapping[str, Any]  # Topology.to_plain()
    blob_dir: str | None = None  # where payloads too big for a message go; None: nowhere, they travel inline
    keys: tuple[bytes, ...] = ()  # Signer.keys; empty: objects can neither be signed nor read
    batch_count_max: int = 1024
    batch_bytes_max: int = 32 * 1024
    flush_ms: float = 5.0
    payload_inline_bytes_max: int = 256 * 1024
    value_bytes_max: int = 32 * 1024 * 1024
    is_durable: bool = True  # what goes to ``blob_dir`` is kept; else it may travel inline when there is no room
    metadata: bytes = b""  # the caller's own dictionary, encoded


class Forget(NamedTuple):
    """The job is over here: its routine objects and cached state may go."""

    job_id: str


class Task(NamedTuple):
    """Work, and whose it is."""

    job_id: str
    work: Work


class Reported(NamedTuple):
    """A completion, and whose it is."""

    job_id: str
    completion: Completion


class Text(NamedTuple):
    """What a handler printed, or logged (``logs``)."""

    stream: str  # "stdout" | "stderr" | "log"
    text: str


def frame(content: bytes) -> bytes:
    """``content`` with its length before it."""
    return _LENGTH.pack(len(content)) + content


def encode(message: JobInfo | Task | GoOn | Revoke | Forget | Reported | Text) -> bytes:
    """One frame."""
    match message:
        case Task(job_id, work):
            plain: tuple[Any, ...] = ("W", job_id, *_work_to_plain(work))
        case Reported(job_id, completion):
            plain = ("C", job_id, *_completion_to_plain(completion))
        case Text():
            plain = ("P", *message)
        case GoOn():
            plain = ("G", *message)
        case Revoke():
            plain = ("R", *message)
        case JobInfo():
            plain = ("J", *message)
        case Forget():
            plain = ("F", *message)
    return frame(pack(plain))


def decode(content: bytes | memoryview) -> JobInfo | Task | GoOn | Revoke | Forget | Reported | Text:
    """The message of one frame."""
    kind, *rest = unpack(content)
    match kind:
        case "W":
            return Task(rest[0], _work_from_plain(rest[1:]))
        case "C":
            return Reported(rest[0], _completion_from_plain(rest[1:]))
        case "P":
            return Text(*rest)
        case "G":
            return GoOn(*rest)
        case "R":
            return Revoke(*rest)
        case "J":
            return JobInfo(*rest)
        case "F":
            return Forget(*rest)
    raise ValueError(f"no message of kind {kind!r}")


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The contents of every frame that ``data`` completes."""
        buffer = self._buffer
        if not buffer and len(data) >= 4 and _LENGTH.unpack_from(data)[0] + 4 == len(data):
            return [data[4:]]  # the usual case: exactly one message
        buffer += data
        contents: list[bytes] = []
        start, end = 0, len(buffer)
        while end - start >= 4:
            (size,) = _LENGTH.unpack_from(buffer, start)
            if size > FRAME_BYTES_MAX:
                raise ValueError(f"a message of {size} bytes")
            if end - start - 4 < size:
                break
            contents.append(bytes(buffer[start + 4 : start + 4 + size]))
            start += 4 + size
        del buffer[:start]
        return contents


def _work_to_plain(w: Work) -> tuple[Any, ...]:
    parts = [(p.slot, p.connection, p.batch.count, p.batch.data, p.start, p.count) for p in w.parts]
    return (
        w.dispatch, w.worker, w.routine, w.seqs, parts, w.is_group, w.message, w.attempt, w.cursor, plain_state(w),
        w.is_reset, w.question, w.is_tolerant,
    )  # fmt: skip


def plain_state(w: Work) -> tuple[tuple[str, str, Any], ...]:
    """The state that goes with the work, as a worker keeps it.

    A value made by appending is an object of the core, which goes on appending to it; everything else is plain.
    """
    return tuple(
        (scope, key, value if value is None or isinstance(value, (bytes, int, float)) else _appended(value))
        for scope, key, value in w.state
    )


def _appended(value: Any) -> tuple[Any, tuple[bytes, ...]]:
    return value.base, tuple(value.items)


def _work_from_plain(rest: list[Any]) -> Work:
    dispatch, worker, routine, seqs, parts, *others = rest
    return Work(
        dispatch, worker, routine, seqs,
        tuple([Part(slot, conn, Batch(count, data), start, n) for slot, conn, count, data, start, n in parts]),
        *others,
    )  # fmt: skip


def _completion_to_plain(c: Completion) -> tuple[Any, ...]:
    emits = [(e.event, e.batch.count, e.batch.data) for e in c.emits]
    return (c.dispatch, c.done, emits, c.ops, c.reads, c.cursor, c.failure, c.is_last, c.busy_ns, c.answers, c.order)


def _completion_from_plain(rest: list[Any]) -> Completion:
    dispatch, done, emits, ops, reads, cursor, failure, is_last, busy_ns, answers, order = rest
    return Completion(
        dispatch, done,
        tuple([Emit(event, Batch(count, data)) for event, count, data in emits]),
        tuple([StateOp(*op) for op in ops]),
        reads, cursor, None if failure is None else Failure(*failure), is_last, busy_ns,
        tuple([Answer(*answer) for answer in answers]), order,
    )  # fmt: skip
