"""What the processes of one run do: the owner that begins the job, standbys, and somebody who asks for things.

All of them are forked from one warm interpreter; their nurseries, too (a fresh one would take a tenth of a second
of CPU time each). Beside that, they are what users start: ``Runtime.exec``, ``Standby.run``, ``remote``.
"""

from __future__ import annotations

import array
import ast
import faulthandler
import logging
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from routilux_mp import JobState, Runtime, Standby
from routilux_mp._storage import log as storage_log
from routilux_mp._storage import takeover
from routilux_mp._storage.control import Request
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.store import Store
from routilux_mp._supervisor import commits, remote, standby, vigil
from routilux_mp.backends import launching, nursery
from routilux_mp.errors import RoutiluxError
from routilux_mp.settings import Settings
from routilux_mp.standby import hand_over_on_sigterm
from tests.torture import flow, notes
from tests.torture.notes import Notes, note

#: Exit codes: an error that the package names, and anything else.
GAVE_UP: Final = 3
BROKEN: Final = 77
#: How a process is told to end.
TOLD_BY: Final = (signal.SIGTERM, signal.SIGINT)
_NURSERIES: Final = 1
_ANSWER_S: Final = 1.0


class Process(NamedTuple):
    """How a process of a run is started."""

    role: str
    number: int
    seed: int
    folder: str
    root: str
    job_id: str
    settings: Mapping[str, Any]
    requests: Sequence[Request]
    items: int


def be(process: Process, said: Notes, prepare: Callable[[], None]) -> None:
    """Become this process, in a fork of the leader; never returns."""
    code = BROKEN
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the leader to decide
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD_BY)
        notes.begin(process.number, process.folder)
        random.seed(process.seed)
        errors = os.open(f"{process.folder}/errors-{process.number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        faulthandler.register(signal.SIGUSR1, sys.stderr)
        logging.getLogger("routilux_mp").setLevel(logging.WARNING)
        _hurry()
        prepare()
        _observe(said)
        if process.settings["backend"] == "local" and process.role != "requester":
            _keep_nurseries()
        code = _ROLES[process.role](process, said)
    except RoutiluxError as error:
        code = GAVE_UP
        traceback.print_exc()
        said.event("gave up", error=type(error).__name__, text=str(error)[:300])
    except BaseException as error:  # whatever it is: the checker has to hear of it
        traceback.print_exc()
        said.event("broken", error=type(error).__name__, text=str(error)[:300])
    finally:
        sys.stderr.flush()
        os._exit(code)


def _own(process: Process, said: Notes) -> int:
    """Begin the job, and see it to its end."""
    hand_over_on_sigterm()
    made = flow.make()
    with Runtime(3, checkpoint_dir=process.root, settle_s=0, **process.settings) as runtime:
        state = JobState(flow.FLOW_ID)
        state.job_id = process.job_id
        runtime.exec(made, {"n": process.items}, state)
        state._live_or_fail().handle.wait(lambda view: view.status != "pending")  # while its disk is full it may be
        said.event("accepted")
        note("B", process.job_id)
        if JobState.wait_for_completion(made, state, timeout=300):
            note("C", process.job_id, state.status)
    return 0


def _stand_by(process: Process, said: Notes) -> int:
    """Watch, and take over, until SIGTERM."""

    def say(text: str) -> None:
        print(f"{time.monotonic_ns()}  {text}", file=sys.stderr, flush=True)

    # Without a flow of its own it runs what the job keeps.
    has_flow = process.settings["backend"] == "inline" or random.random() < 0.7
    flows = [flow.make()] if has_flow else []
    waiting = Standby(process.root, flows=flows, workers=3, say=say, **process.settings)
    signal.signal(signal.SIGTERM, lambda *_: waiting.stop())
    with waiting:
        waiting.run()
    return 0


def _ask(process: Process, said: Notes) -> int:
    """Put the requests, each until it is answered; one that was put by a predecessor is the same request."""
    settings = Settings.load(checkpoint_dir=process.root, **process.settings)
    with Store(process.root, settings) as store:
        control = store.control(process.job_id)
        for request in process.requests:
            answer = None
            while answer is None:
                control.put(request)
                note("Q", request.request_id)
                answer = remote.wait_answer(store, process.job_id, request.request_id, _ANSWER_S)
            # An id that was asked again when its answer is no longer remembered says nothing of what came of it.
            is_known = answer.is_accepted or "expired" not in answer.reason
            note("Y" if answer.is_accepted else "N" if is_known else "X", request.request_id)
            said.event("answered", request=request.kind, accepted=answer.is_accepted)
    return 0


_ROLES: Final[Mapping[str, Callable[[Process, Notes], int]]] = {
    "owner": _own,
    "standby": _stand_by,
    "requester": _ask,
}


def _hurry() -> None:
    """Waits that are for people, shortened: none of them has to do with safety."""
    standby._SEALED_S = 0.1  # type: ignore[misc]
    standby._RETRY_S = standby._RETRY_STORAGE_S = 0.2  # type: ignore[misc]
    standby._PARKED_POLLS = 2  # type: ignore[misc]
    standby._GONE_S = 0.5  # type: ignore[misc]
    vigil._BEAT_INTERVAL_S = 0.05  # type: ignore[misc]
    commits._BLOCKED_AGAIN_NS = 10_000_000


def _observe(said: Notes) -> None:
    """Note what the store has acknowledged, in the private file, before anybody can act on it."""

    def acknowledged(name: str, what: str) -> None:
        plain = getattr(Tenure, name)

        def run(self: Tenure, *args: Any, **more: Any) -> None:
            plain(self, *args, **more)
            note("A", self.job_id, self.epoch, self.number, self._digest.hex(), what)
            if args[:1] == ("ended",):
                said.event("ended", job=self.job_id)

        setattr(Tenure, name, run)

    for name in ("commit", "roll", "seal"):
        acknowledged(name, name)
    plain = storage_log.put_open

    def opened(place: Any, writer: Any, epoch: int, *rest: Any, **more: Any) -> bytes | None:
        digest = plain(place, writer, epoch, *rest, **more)
        if digest is not None:
            note("O", place.job_id, epoch, digest.hex())
            said.event("opened", job=place.job_id, epoch=epoch)
        return digest

    storage_log.put_open = takeover.put_open = opened


# -- nurseries --------------------------------------------------------------------------------------


def _keep_nurseries() -> None:
    """Fork the nurseries before there is any thread; each waits for what a fresh one is told when it is started."""
    stock: list[tuple[int, socket.socket]] = []
    for _ in range(_NURSERIES):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            for _, other in stock:
                other.close()
            _become_nursery(theirs)
        theirs.close()
        stock.append((pid, ours))
    spawn = launching.spawn_python

    def start(statement: str, pass_fds: Sequence[int]) -> int:
        if not stock:
            return spawn(statement, pass_fds)
        pid, to = stock.pop()
        with to:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", pass_fds))]
            to.sendmsg([statement.encode()], rights)
        return pid

    launching.spawn_python = start


def _become_nursery(told: socket.socket) -> None:
    status = 1
    try:
        statement, fds, _, _ = socket.recv_fds(told, 4096, 2)
        told.close()
        if statement:
            _, _, supervisor, shared = ast.literal_eval(statement.decode().partition(".main(*")[2][:-1])
            nursery.main(*fds, supervisor, shared)
        status = 0
    except Exception:  # nothing may return into what the leader was doing
        traceback.print_exc()
    finally:
        os._exit(status)
