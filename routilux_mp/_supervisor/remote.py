"""Asking the owner of a job for something, from another process or host, and waiting for its answer."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._storage.control import Answer, Request, new_request_id
from ..errors import UnknownName
from ..settings import Settings
from . import recovery

if TYPE_CHECKING:
    from .._storage.store import Store

_LOOK_S = 0.02
_LOOK_S_MAX = 0.25


def send(
    store: Store, job_id: str, kind: str, arguments: Mapping[str, Any] | None = None, request_id: str | None = None
) -> str:
    """Put a request; again with the same id is the same request. Returns its id.

    Raises:
        UnknownName: there is no such job.
        UsageError: no such kind, or arguments that are not plain.
        StorageError: it could not be written.
    """
    request_id = request_id or new_request_id()
    if store.glance(job_id) is None:
        raise UnknownName(f"there is no job '{job_id}' in {store.path}")
    requester = f"pid {os.getpid()} on {store.owner.host}"
    store.control(job_id).put(Request(request_id, kind, dict(arguments or {}), requester))
    return request_id


def wait_answer(store: Store, job_id: str, request_id: str, timeout_s: float) -> Answer | None:
    """The answer; None when there was none in time: nobody owns the job, or its owner is slow. The request stands."""
    control = store.control(job_id)
    deadline_s = time.monotonic() + timeout_s
    look_s = _LOOK_S
    while True:
        found = control.answer(request_id)
        if found is not None:
            return found
        glance = store.glance(job_id)
        if glance is not None and glance.seal_reason == "ended":
            # Its last owner may have answered and left between the two looks, or died before it could show its answer.
            return control.answer(request_id) or _answer_on_record(store, job_id, request_id)
        if not control.stands(request_id):
            return control.answer(request_id) or Answer(request_id, False, "the request has expired")
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return None
        time.sleep(min(look_s, left_s))
        look_s = min(look_s * 1.5, _LOOK_S_MAX)


def _answer_on_record(store: Store, job_id: str, request_id: str) -> Answer:
    """What the log of a job that has ended says of a request; the file beside it is only a copy."""
    reason = recovery.read(store, job_id, Settings()).job.answered.get(request_id)
    if reason is None:
        return Answer(request_id, False, "the job has ended")
    return Answer(request_id, not reason, reason)


def ask(
    store: Store, job_id: str, kind: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0
) -> Answer | None:
    """:func:`send`, then :func:`wait_answer`."""
    return wait_answer(store, job_id, send(store, job_id, kind, arguments), timeout_s)
