"""Worker processes on this machine: the supervisor's end of the nursery and of every worker's socket.

Forking and reaping happen in the nursery; what workers run is in ``_worker``. The rules it owns: a send
never blocks (what the socket does not take waits in memory, and supervisor and worker can both be full
without a deadlock), and what a worker said before it died is reported before its death.
"""

from __future__ import annotations

import logging
import os
import select
import selectors
import signal
import socket
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from typing import Any

from .._core.effects import Revoke, Work
from .._serialization.packing import pack, unpack
from .._worker import shared
from .._worker.liveness import IDLE, Page, make_page_fd
from .._worker.wire import Forget, JobInfo, Reported, Task, Text, decode, encode, frame
from ..errors import BackendError
from ._pipe import Pipe
from .base import Code, CodeReady, CodeRefused, Died, Event, Exit, Message, Printed, Report, Started
from .launching import Launched, launch

log = logging.getLogger(__name__)

#: Loads in a row during which the nursery may die before the code is taken to be the reason; somebody who kills
#: processes at random must not make a job fail.
_LOADS_MAX = 4
#: Ends that ``running`` still answers for.
_ENDS_MAX = 1024
_CLOSE_S = 5.0
#: How long a worker may take to be dead after its nursery is: the kernel is killing it.
_ORPHAN_S = 0.2


class _Worker:
    def __init__(self, number: int, sock: socket.socket, page_fd: int, selector: selectors.BaseSelector) -> None:
        self.number = number
        self.pid = 0
        self.pipe = Pipe(sock, selector, self)
        self.page = Page(page_fd)
        self.is_killed = False
        self.is_stopped = False
        self.garbled = ""  # why what it sends is not looked at any more


class LocalBackend:
    """See :class:`~routilux_mp.backends.base.Backend`. Starts nothing before it is needed."""

    def __init__(self, launched: Launched | None = None) -> None:
        """``launched``: a nursery that has been started already; it is this backend's from here on."""
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        # Held, until somebody waits for what poll will see. Letting go of it is one step, so a signal handler may.
        self._no_hurry = threading.Lock()
        self._no_hurry.acquire()
        self._events: list[Event] = []  # to be returned by the next poll
        self._told: list[_Worker] = []  # of a job, and perhaps of nothing else
        self._workers: dict[int, _Worker] = {}
        self._ended: OrderedDict[int, tuple[int, int, int]] = OrderedDict()
        self._codes: dict[str, Code] = {}
        self._loading: deque[str] = deque()  # in the order in which the nursery will answer
        self._loads: dict[str, int] = {}  # code id -> how often it was tried
        self._announced: set[str] = set()
        self._lease_ns = 0
        self._nursery: Pipe | None = None
        self._nursery_pid = 0
        self._alive_fd = -1
        self._is_closed = False
        self._shared = shared.new_path() if launched is None else launched.shared_dir
        self._has_shared = False
        if launched is not None:
            self._adopt(launched)

    # -- orders ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Start the nursery."""
        self._check_open()
        if self._nursery is None:
            self._adopt(launch(self._shared))
            for code in self._codes.values():
                self._load(code)

    def load(self, code: Code) -> None:
        """Have the nursery load the code; answered by ``CodeReady`` or ``CodeRefused``."""
        self.prepare()
        if code.bundle is None:
            self._events.append(CodeRefused(code.code_id, "worker processes need the code as a bundle"))
            return
        self._codes[code.code_id] = code
        self._load(code)

    def unload(self, code_id: str) -> None:
        """Have the nursery forget the code."""
        if self._codes.pop(code_id, None) is not None and code_id not in self._loading:
            self._loads.pop(code_id, None)
            self._announced.discard(code_id)
            self._tell_nursery("unload", code_id)

    def start(self, worker: int, code_id: str) -> None:
        """Have the nursery fork a worker; messages may be sent at once."""
        self.prepare()
        if worker in self._workers or worker in self._ended:
            raise BackendError(f"worker number {worker} has been used before")
        ours, theirs = socket.socketpair()
        try:
            page_fd = make_page_fd()
        except OSError:
            ours.close()
            theirs.close()
            raise
        started = self._workers[worker] = _Worker(worker, ours, page_fd, self._selector)
        started.page.set_lease(self._lease_ns)
        # The descriptors are duplicated into the message, so that sending them is what closes them here.
        self._tell_nursery("start", worker, code_id, fds=(theirs.detach(), page_fd))

    def send(self, worker: int, message: Message, job_id: str = "") -> None:
        """Queue a message for the worker; what a dead one is sent is dropped. No message wakes it only to be kept."""
        receiver = self._workers.get(worker)
        if receiver is None:
            return
        if isinstance(message, Revoke):
            receiver.page.revoke(message.dispatch)
        if isinstance(message, JobInfo | Forget):
            receiver.pipe.hold(encode(message))
            if isinstance(message, JobInfo):
                self._told.append(receiver)
        else:
            receiver.pipe.write(encode(Task(job_id, message) if isinstance(message, Work) else message))

    def running(self, worker: int) -> tuple[int, int, int]:
        """What the worker's page says; for a dead one, what it said last."""
        found = self._workers.get(worker)
        return found.page.running() if found is not None else self._ended.get(worker, (0, IDLE, 0))

    def shared_dir(self) -> str | None:
        """See :meth:`~routilux_mp.backends.base.Backend.shared_dir`; made when it is first asked for."""
        if not self._shared:
            return None
        if not self._has_shared:
            shared.make(self._shared)
            self._has_shared = True
        return self._shared

    def set_lease(self, deadline_ns: int) -> None:
        """Write the deadline into every page, and into those of workers to come."""
        self._lease_ns = deadline_ns
        for worker in self._workers.values():
            worker.page.set_lease(deadline_ns)

    def kill(self, worker: int) -> None:
        """SIGKILL the worker and what it has started."""
        found = self._workers.get(worker)
        if found is not None:
            found.is_killed = True
            self._tell_nursery("kill", worker)

    def stop(self, worker: int) -> None:
        """Close our half of the worker's socket behind what was sent."""
        found = self._workers.get(worker)
        if found is not None:
            found.is_stopped = True
            found.pipe.end()

    def wake(self, *, is_awaited: bool = True) -> None:
        """Make ``poll`` return; from any thread, also after ``close``."""
        if is_awaited:
            with suppress(RuntimeError):  # somebody has been here before
                self._no_hurry.release()
        try:
            self._wake_write.send(b"w")
        except OSError:
            pass  # full: it will wake; closed: nobody sleeps

    # -- what happened --------------------------------------------------------------------------

    def poll(self, timeout_s: float | None, pause_s: float = 0.0) -> list[Event]:
        """See :meth:`~routilux_mp.backends.base.Backend.poll`."""
        self._check_open()
        while self._told:
            self._told.pop().pipe.let_go()  # unless it has gone with work
        if self._events:
            timeout_s = 0
        # Before the look: whoever comes later is seen by the next one.
        self._no_hurry.acquire(timeout=pause_s if pause_s > 0 and timeout_s != 0 else 0)
        ready = self._selector.select(timeout_s)
        if not ready:
            for worker in self._workers.values():
                worker.pipe.let_go()
        # The nursery first: it says that a worker has started, and a death has what it said before read first.
        ready.sort(key=lambda item: item[0].data is not self)
        for key, mask in ready:
            owner = key.data
            if owner is None:
                self._swallow_wakes()
                continue
            pipe = self._nursery if owner is self else owner.pipe
            if pipe is None or pipe.sock is not key.fileobj:
                continue  # it was closed a moment ago
            if mask & selectors.EVENT_WRITE:
                pipe.flush()
            if mask & selectors.EVENT_READ and pipe.is_open:
                if owner is self:
                    self._read_nursery(pipe)
                else:
                    self._read_worker(owner)
        events, self._events = self._events, []
        return events

    def _swallow_wakes(self) -> None:
        try:
            while len(self._wake_read.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def _read_worker(self, worker: _Worker) -> None:
        events = self._events
        try:
            for content in worker.pipe.read():
                match decode(content):
                    case Reported(job_id, completion):
                        events.append(Report(worker.number, completion, job_id))
                    case Text(stream, text):
                        events.append(Printed(worker.number, stream, text))
        except Exception as error:  # something in its process has written to its socket, and it ends with that
            worker.pipe.hang_up()
            worker.garbled = f"what it sent cannot be read ({type(error).__name__}: {str(error)[:100]})"
            if self._nursery is not None:
                self._tell_nursery("kill", worker.number)

    def _read_nursery(self, nursery: Pipe) -> None:
        for content in nursery.read():
            kind, *arguments = unpack(content)
            match kind:
                case "ready":
                    self._code_answered(arguments[0])
                    if arguments[0] not in self._announced:
                        self._announced.add(arguments[0])
                        self._events.append(CodeReady(*arguments))
                case "refused":
                    self._code_answered(arguments[0])
                    self._codes.pop(arguments[0], None)
                    self._announced.discard(arguments[0])
                    self._events.append(CodeRefused(*arguments))
                case "started":
                    number, pid = arguments
                    self._workers[number].pid = pid
                    self._events.append(Started(number, pid))
                case "died":
                    number, pid, exit_code, signal_number, rss, is_oom, detail = arguments
                    worker = self._workers[number]
                    is_blameless = worker.is_killed or pid == 0 or (worker.is_stopped and exit_code == 0)
                    is_oom = is_oom and not (worker.is_killed or worker.garbled)
                    detail = worker.garbled or detail
                    self._bury(worker, Exit(pid, exit_code, signal_number, rss, is_oom, is_blameless, detail))
        if not nursery.is_open:
            self._nursery_lost()

    def _bury(self, worker: _Worker, end: Exit) -> None:
        """Report what the worker had said, then its death."""
        while worker.pipe.is_open:
            before = len(self._events)
            waiting = select.select([worker.pipe.sock], (), (), 0)[0]
            if not waiting:
                break  # a child of the handler's holds the socket, or nothing more is there
            self._read_worker(worker)
            assert len(self._events) >= before
        del self._workers[worker.number]
        self._ended[worker.number] = worker.page.running()
        while len(self._ended) > _ENDS_MAX:
            self._ended.popitem(last=False)
        worker.pipe.close()
        worker.page.close()
        self._events.append(Died(worker.number, end))

    # -- the nursery ----------------------------------------------------------------------------

    def _adopt(self, launched: Launched) -> None:
        self._nursery_pid, self._alive_fd = launched.pid, launched.alive_fd
        self._nursery = Pipe(launched.sock, self._selector, self)

    def _tell_nursery(self, *message: Any, fds: tuple[int, ...] = ()) -> None:
        assert self._nursery is not None, "orders come after prepare()"
        self._nursery.write(frame(pack(message)), fds)

    def _load(self, code: Code) -> None:
        self._loading.append(code.code_id)
        self._loads[code.code_id] = self._loads.get(code.code_id, 0) + 1
        self._tell_nursery("load", code.code_id, code.bundle, dict(code.environment), code.wants_sources)

    def _code_answered(self, code_id: str) -> None:
        self._loads[code_id] = 0
        self._loading.remove(code_id)

    def _nursery_lost(self) -> None:
        """Nobody is to blame, unless it keeps dying of the same code: a new one takes over."""
        how = self._end_nursery()
        self._kill_orphans()
        self._wait_for_orphans()
        for worker in list(self._workers.values()):
            detail = f"the process that starts workers {how}, and its workers with it"
            self._bury(worker, Exit(worker.pid, None, signal.SIGKILL, is_blameless=True, detail=detail))
        loading, self._loading = self._loading, deque()
        if loading and self._loads[loading[0]] >= _LOADS_MAX:
            code_id = loading[0]
            del self._codes[code_id]
            self._announced.discard(code_id)
            self._events.append(CodeRefused(code_id, f"the process that loaded the code {how}"))
        if self._codes:
            try:
                self.prepare()
            except BackendError as error:
                log.error("%s; it is tried again when a worker is started", error)

    def _end_nursery(self) -> str:
        """Make sure that it is dead, and say how it ended."""
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            nursery.close()
            os.close(self._alive_fd)  # a nursery that is busy loading is killed by this
        deadline = time.monotonic() + (_CLOSE_S if self._is_closed else 0)
        try:
            while os.waitid(os.P_PID, self._nursery_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                if time.monotonic() >= deadline:
                    os.kill(self._nursery_pid, signal.SIGKILL)
                    break
                time.sleep(0.001)
            _, status = os.waitpid(self._nursery_pid, 0)
        except ChildProcessError:
            return "ended"  # somebody else has reaped it
        code = os.waitstatus_to_exitcode(status)
        return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _kill_orphans(self) -> None:
        """What workers have started is in their groups, which outlive them: nobody else would end it."""
        for worker in self._workers.values():
            if worker.pid > 0:
                try:
                    os.killpg(worker.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass  # nobody left

    def _wait_for_orphans(self) -> None:
        """The kernel kills the workers of a dead nursery; read on until they have all hung up."""
        deadline = time.monotonic() + _ORPHAN_S
        while time.monotonic() < deadline:
            open_pipes = [w.pipe.sock for w in self._workers.values() if w.pipe.is_open]
            if not open_pipes:
                return
            readable = select.select(open_pipes, (), (), 0.005)[0]
            for worker in [w for w in self._workers.values() if w.pipe.is_open and w.pipe.sock in readable]:
                self._read_worker(worker)

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Kill everything, wait for it, leave nothing behind. May be called again."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._nursery is not None:
            self._end_nursery()
            self._wait_for_orphans()
        for worker in self._workers.values():
            worker.pipe.close()
            worker.page.close()
        self._workers.clear()
        if self._has_shared:
            shared.remove(self._shared)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise BackendError("the backend is closed")
