"""``pause``, ``cancel``, ``retry``, ``skip``: what one asks of a job that another process runs, here or elsewhere.

And ``resume``, where that process lives: then it is the one that goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from .._storage.control import Answer
from .._storage.store import Store
from .._supervisor import remote
from ..errors import JobOwned, StorageError
from ..settings import Settings
from . import FAILED, OK, STOPPED, job_directory

_LOOK_S = 0.05
#: request -> the status that it leads to
_LEADS_TO = {"pause": "paused", "cancel": "cancelled", "resume": "running"}


def resume_elsewhere(options: argparse.Namespace, owned: JobOwned) -> int:
    """Ask the owner, which lives, to go on with a paused job.

    Raises:
        JobOwned: the job is not paused.
    """
    return ask(options, "resume", owned=owned)


def ask(options: argparse.Namespace, kind: str, owned: JobOwned | None = None, **arguments: object) -> int:
    """Ask the owner, wait for its answer, say what came of it; ``owned``: raised when it refuses."""
    root, job_id = job_directory(options)
    settings = Settings.load(checkpoint_dir=root)
    with Store(settings.checkpoint_dir, settings) as store:
        given = {name: value for name, value in arguments.items() if value}
        request_id = remote.send(store, job_id, kind, given)
        answer = remote.wait_answer(store, job_id, request_id, options.wait)
        status = ""
        if answer is not None and answer.is_accepted and kind in _LEADS_TO:
            status = _reached(store, job_id, _LEADS_TO[kind], options.wait)
    if owned is not None and answer is not None and not answer.is_accepted:
        raise owned
    return _say(options, kind, job_id, request_id, answer, status)


def _reached(store: Store, job_id: str, wanted: str, wait_s: float) -> str:
    """The status that the job's view shows once it is what was asked for, has ended, or the time is over."""
    deadline_s = time.monotonic() + wait_s
    while True:
        status = _shown(store, job_id)
        if status in (wanted, "completed", "failed", "cancelled") or time.monotonic() > deadline_s:
            return status
        time.sleep(_LOOK_S)


def _shown(store: Store, job_id: str) -> str:
    try:
        view = store.read_views(job_id)[1]
        document = json.loads(view) if view is not None else {}
    except (StorageError, ValueError):
        return ""  # a view is no more than that
    return str(document.get("status", "")) if isinstance(document, dict) else ""


def _say(
    options: argparse.Namespace, kind: str, job_id: str, request_id: str, answer: Answer | None, status: str
) -> int:
    if options.json:
        document = {"job_id": job_id, "request": kind, "request_id": request_id, "status": status}
        document["answer"] = "none yet" if answer is None else "accepted" if answer.is_accepted else answer.reason
        print(json.dumps(document))
    elif answer is None:
        print(f"{kind} {job_id}: no answer in {options.wait:g} s. Whoever owns the job next obeys it")
    elif not answer.is_accepted:
        print(f"routilux-mp: {kind} {job_id} was refused: {answer.reason}", file=sys.stderr)
    else:
        print(f"{kind} {job_id}: accepted" + (f", the job is {status}" if status else ""))
    if answer is None:
        return STOPPED
    return OK if answer.is_accepted else FAILED
