"""Requests from anyone to whoever owns a job, as files in its `control/`, and their answers.

Not here: what a request leads to (the core), nor who may ask (whoever can write to the directory
can). The rules it owns: a request and an answer are each put once and never changed, so that asking
again with the same id is the same request; and a request's file is deleted only below the job's
low-water mark, so that nobody takes an answered one for a new one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ..errors import CheckpointDamaged, UsageError
from .files import let_go
from .layout import CONTROL, SMALL_FILE_BYTES_MAX, TMP, is_request_id
from .place import Place
from .put import blocked

_log = logging.getLogger(__name__)

KINDS: Final = ("pause", "resume", "cancel", "retry", "skip", "post", "yield")
_ANSWER: Final = ".answer"
_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_REQUEST_BYTES_MAX: Final = 16 * SMALL_FILE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wishes. `arguments` are plain JSON values."""

    request_id: str
    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: Who asks, for people: "pid 4711 on host a1".
    requester: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request."""

    request_id: str
    is_accepted: bool
    #: Why not, or empty.
    reason: str = ""


def new_request_id(now_ns: int | None = None, chance: Callable[[int], bytes] = os.urandom) -> str:
    """A ULID: sorts by time, and no two are the same."""
    millis = (time.time_ns() if now_ns is None else now_ns) // 1_000_000
    number = (millis & ((1 << 48) - 1)) << 80 | int.from_bytes(chance(10), "big")
    return "".join(_DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


class Control:
    """The requests of one job."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def put(self, request: Request) -> None:
        """Ask; again with the same id is the same request.

        Raises:
            UnknownName: there is no such job.
            UsageError: it is too large, or its arguments are not plain.
            StorageError: it could not be written.
        """
        if request.kind not in KINDS:
            raise UsageError(f"no request of kind {request.kind!r}; there are: {', '.join(KINDS)}")
        try:
            raw = json.dumps(asdict(request)).encode("ascii")
        except (TypeError, ValueError) as error:
            raise UsageError(f"the arguments of a request must be plain JSON values: {error}") from None
        if len(raw) > _REQUEST_BYTES_MAX:
            raise UsageError(
                f"a request of {len(raw)} bytes is more than {_REQUEST_BYTES_MAX}; pass a file name instead"
            )
        self._put(request.request_id, raw)

    def put_answer(self, answer: Answer) -> None:
        """Mirror what the log says; the log is the truth."""
        self._put(answer.request_id + _ANSWER, json.dumps(asdict(answer)).encode("ascii"))

    def unanswered(self) -> list[str]:
        """Ids of requests without an answer's file, oldest first. A hint, as every listing is."""
        names = set(self._place.names(CONTROL))
        return sorted(name for name in names if is_request_id(name) and name + _ANSWER not in names)

    def read(self, request_id: str) -> Request:
        """One request.

        Raises:
            FileNotFoundError: it is not there (any more).
            CheckpointDamaged: it is not a request.
        """
        document = self._read(request_id)
        match document:
            case {"kind": str(kind), "arguments": dict(arguments)} if kind in KINDS:
                return Request(request_id, kind, arguments, str(document.get("requester", "")))
        raise CheckpointDamaged(f"{self._place.where(CONTROL, request_id)} is not a request that this version knows")

    def stands(self, request_id: str) -> bool:
        """Whether the request's file is there; a network client that does not see it yet looks again."""
        return request_id in self._place.names(CONTROL)

    def answer(self, request_id: str) -> Answer | None:
        """The answer, if it is there."""
        try:
            document = self._read(request_id + _ANSWER)
        except FileNotFoundError:
            return None
        return Answer(request_id, document.get("is_accepted") is True, str(document.get("reason", "")))

    def sweep(self, low: str) -> None:
        """Delete what is not above the low-water mark. Trouble is only logged."""
        try:
            with self._place.dir(CONTROL) as at:
                for name in self._place.fs.names(at):
                    request_id = name.removesuffix(_ANSWER)
                    if is_request_id(request_id) and request_id <= low:
                        self._place.fs.unlink(name, at)
        except OSError as error:
            _log.debug("requests not swept", extra={"job": self._place.job_id, "error": str(error)})

    def _put(self, name: str, raw: bytes) -> None:
        where = self._place.where(CONTROL, name)
        putter = self._place.root.putter
        with blocked(where):
            tmp = self._place.root.handle(TMP)
        try:
            job = self._place.open()
        except FileNotFoundError:
            raise self._place.unknown() from None
        try:
            at = putter.make_dirs(job, (CONTROL,), where=where)
        finally:
            let_go(self._place.fs, job)
        try:
            # One that stands already has the same id, so it is the same request, or says the same answer.
            putter.put(tmp, at, name, (raw,), where=where)
        finally:
            let_go(self._place.fs, at)

    def _read(self, name: str) -> dict[str, Any]:
        with self._place.dir(CONTROL) as at:
            raw = self._place.read(at, name, _REQUEST_BYTES_MAX, CONTROL)
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise CheckpointDamaged(f"{self._place.where(CONTROL, name)} is damaged: it is no JSON object")
        return document
