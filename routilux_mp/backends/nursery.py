"""The process that workers are forked from; runs in a fresh, single-threaded interpreter.

It loads the user's code once per flow, forks a worker whenever it is asked to, and reports how
each one ended. It knows nothing of jobs and never sees their messages: a worker's socket goes from
the supervisor straight through to the worker. The rule it owns: no worker outlives the supervisor.
It watches the supervisor by pidfd and kills every worker, with whatever that has started, when it is
gone; a worker is killed by the kernel when the nursery is gone.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from .._serialization.packing import pack, unpack
from .._worker import shared, told
from .._worker.liveness import die_with_parent
from .._worker.randomness import diverge
from .._worker.wire import Frames, frame
from ._spawn import open_standard_descriptors

_FDS_MAX = 32
#: Without pidfds the ends of workers are looked for this often.
_REAP_S = 0.02
#: Threads that numeric libraries start on their own would fight over the cores with the other workers.
_THREAD_LIMITS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)  # fmt: skip


class _Loaded(NamedTuple):
    """Code as it was when it had just been loaded."""

    code: Any  # LoadedCode
    environment: dict[str, Any]
    main: dict[str, Any]  # what ``__main__`` held then: a later cell or script may use the same names


class _Child(NamedTuple):
    worker: int
    pid: int
    pidfd: int  # -1: this system has none


#: Where the supervisor was when this process was started, and where it looks for modules.
_begun_in, _begun_with = "/", list[str]()


def main(control: int, alive: int, supervisor: int, shared_dir: str) -> None:
    """Serve the supervisor at the other end of the socket ``control`` until it is gone.

    ``alive``: the read end of a pipe that the supervisor never writes to. ``shared_dir``: to be removed with it.
    """
    global _begun_in, _begun_with
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor to decide
    told.stay()
    os.setpgid(0, 0)
    _begun_with = list(sys.path)
    with suppress(OSError):  # it may have been removed
        _begun_in = os.getcwd()
    for name in _THREAD_LIMITS:
        os.environ.setdefault(name, "1")
    _have_standard_streams()
    _preload()
    _Nursery(socket.socket(fileno=control), alive, supervisor, shared_dir).run()


def _have_standard_streams() -> None:
    """Nothing to read; and somewhere to write to, also where the supervisor has no such streams."""
    open_standard_descriptors()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - as long as this process is
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _preload() -> None:
    """Import now what every worker needs, so that a forked one starts with it."""
    from .._worker import main as _  # noqa: F401


class _Nursery:
    def __init__(self, control: socket.socket, alive: int, supervisor: int, shared_dir: str) -> None:
        self._shared_dir = shared_dir
        self._control = control
        self._alive = alive
        self._pid = os.getpid()
        self._frames = Frames()
        self._fds: deque[int] = deque()  # received, in the order of the messages they belong to
        self._codes: dict[str, _Loaded] = {}
        self._by_pid: dict[int, _Child] = {}
        self._by_pidfd: dict[int, _Child] = {}
        self._memory = _Memory()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._supervisor_fd = _pidfd(supervisor)
        if self._supervisor_fd >= 0:
            self._poll.register(self._supervisor_fd, select.POLLIN)
        if os.getppid() != supervisor:
            os._exit(1)  # it died before it could be watched

    def run(self) -> None:
        while True:
            timeout_ms = None if all(c.pidfd >= 0 for c in self._by_pid.values()) else _REAP_S * 1000
            ready = {fd for fd, _ in self._poll.poll(timeout_ms)}
            if self._supervisor_fd in ready:
                self._end()
            # Ends before orders: the supervisor should not be told of a start after a death.
            for child in [self._by_pidfd[fd] for fd in ready if fd in self._by_pidfd]:
                self._reap(child)
            for child in [c for c in self._by_pid.values() if c.pidfd < 0]:
                self._reap(child)
            if self._control.fileno() in ready:
                self._receive()

    def _receive(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 1 << 18, _FDS_MAX)
        except ConnectionError:  # killed with messages of ours unread: reset instead of an end
            data, fds = b"", []
        self._fds.extend(fds)
        if not data:
            self._end()
        for content in self._frames.feed(data):
            order, *arguments = unpack(content)
            match order:
                case "load":
                    self._load(*arguments)
                case "unload":
                    self._unload(*arguments)
                case "start":
                    worker, code_id = arguments
                    self._start(worker, code_id, self._fds.popleft(), self._fds.popleft())
                case "kill":
                    for child in [c for c in self._by_pid.values() if c.worker == arguments[0]]:
                        _kill(child.pid)

    def _tell(self, *message: Any) -> None:
        try:
            self._control.sendall(frame(pack(message)))
        except OSError:
            self._end()

    def _load(self, code_id: str, bundle: bytes, environment: dict[str, Any], wants_sources: bool) -> None:
        """Load the code and make each routine once: what would fail in a worker fails here, at submit."""
        from .._serialization.code import load_code

        routine_id: str | None = None
        self._die_on_hangup(True)
        try:
            _take_environment(environment)
            code = load_code(bundle)
            routines = {}
            for routine_id in code.routine_ids:
                routines[routine_id] = code.routine(routine_id)
            sources = _sources_of(routines) if wants_sources else b""
            del routines
        except BaseException as error:  # the user's modules and classes may raise anything
            lines = "".join(traceback.format_exception(error))
            self._tell("refused", code_id, f"{type(error).__name__}: {error}\n{lines}", routine_id)
            return
        finally:
            self._die_on_hangup(False)
        self._codes[code_id] = _Loaded(code, environment, dict(vars(sys.modules["__main__"])))
        gc.collect(1)  # a whole collection takes 10 ms and more, for which the first result would wait
        gc.freeze()  # a collection in a worker would touch, and so copy, every page of it
        self._tell("ready", code_id, sources)

    def _unload(self, code_id: str) -> None:
        """Forget the code; what was frozen with it can be collected for once."""
        from .._serialization import shipped

        loaded = self._codes.pop(code_id, None)
        if loaded is not None and all(c.code.shared_digest != loaded.code.shared_digest for c in self._codes.values()):
            shipped.leave(loaded.code.shared_digest)
        del loaded
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def _die_on_hangup(self, is_on: bool) -> None:
        """Be killed by the kernel if the supervisor dies while the user's imports keep us from looking."""
        if sys.platform != "linux":
            return
        flags = fcntl.fcntl(self._alive, fcntl.F_GETFL)
        if is_on:
            fcntl.fcntl(self._alive, fcntl.F_SETOWN, self._pid)
            fcntl.fcntl(self._alive, 10, signal.SIGKILL)  # F_SETSIG
        fcntl.fcntl(self._alive, fcntl.F_SETFL, flags | os.O_ASYNC if is_on else flags & ~os.O_ASYNC)

    def _start(self, worker: int, code_id: str, socket_fd: int, page_fd: int) -> None:
        loaded = self._codes.get(code_id)
        if loaded is None:
            os.close(socket_fd)
            os.close(page_fd)
            self._tell("died", worker, 0, None, None, 0, False, f"its code {code_id} is not loaded")
            return
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or the worker would print it again
        try:
            pid = os.fork()
        except OSError as error:
            self._tell("died", worker, 0, None, None, 0, False, f"cannot fork: {error}")
            return
        finally:
            if os.getpid() == self._pid:
                os.close(socket_fd)
                os.close(page_fd)
        if pid == 0:
            self._become_worker(worker, loaded, socket_fd, page_fd)
        try:
            os.setpgid(pid, pid)  # the worker does the same: whoever comes first
        except OSError:
            pass  # it has ended already, which is reported like any end
        child = _Child(worker, pid, _pidfd(pid))
        self._by_pid[pid] = child
        if child.pidfd >= 0:
            self._by_pidfd[child.pidfd] = child
            self._poll.register(child.pidfd, select.POLLIN)
        self._tell("started", worker, pid)

    def _become_worker(self, worker: int, loaded: _Loaded, socket_fd: int, page_fd: int) -> None:
        """In the forked process: keep nothing of the nursery's, and never return."""
        status = 70  # EX_SOFTWARE: the worker itself is broken, not a handler
        try:
            os.setpgid(0, 0)
            die_with_parent(self._pid)
            self._control.close()
            for fd in (self._alive, self._supervisor_fd, *self._by_pidfd, *self._fds):
                if fd >= 0:
                    os.close(fd)
            from .._worker.main import run

            _take_environment(loaded.environment)
            main = vars(sys.modules["__main__"])
            main.clear()
            main.update(loaded.main)
            diverge(worker)
            run(socket.socket(fileno=socket_fd), page_fd, loaded.code)
            status = 0
        except BaseException:  # nothing may return into the nursery's code
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)

    def _reap(self, child: _Child) -> None:
        try:
            # Looked at before it is reaped: until then its number, which names its group, cannot be reused.
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return
            _kill(child.pid)  # what it has started
            _, status, usage = os.wait4(child.pid, 0)
        except ChildProcessError:
            self._gone(child)
            self._tell("died", child.worker, child.pid, None, None, 0, False, "ended; how is not known")
            return
        self._gone(child)
        exit_code = os.waitstatus_to_exitcode(status)
        number = -exit_code if exit_code < 0 else None
        rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        is_oom = number == signal.SIGKILL and self._memory.looks_exhausted(rss)
        self._tell("died", child.worker, child.pid, None if number else exit_code, number, rss, is_oom, "")

    def _gone(self, child: _Child) -> None:
        del self._by_pid[child.pid]
        if child.pidfd >= 0:
            del self._by_pidfd[child.pidfd]
            self._poll.unregister(child.pidfd)
            os.close(child.pidfd)

    def _end(self) -> None:
        """The supervisor is gone or has closed: so are we all."""
        for child in self._by_pid.values():
            _kill(child.pid)
        for child in self._by_pid.values():
            os.waitpid(child.pid, 0)
        if self._shared_dir and os.path.isdir(self._shared_dir):
            shared.remove(self._shared_dir)
        os._exit(0)


class _Memory:
    """Tells whether a killed worker was probably the out-of-memory killer's victim."""

    def __init__(self) -> None:
        folder = ""
        try:
            with open("/proc/self/cgroup") as file:
                folder = next((line[3:].strip() for line in file if line.startswith("0::")), "")
        except OSError:
            pass  # not Linux
        self._events = f"/sys/fs/cgroup{folder}/memory.events"
        self._limit = f"/sys/fs/cgroup{folder}/memory.max"
        self._count = self._kills()

    def looks_exhausted(self, rss_bytes: int) -> bool:
        """Whether the kernel counted a victim since the last question, or the worker held half of all there is."""
        count, before = self._kills(), self._count
        self._count = count
        return count > before or rss_bytes > self._available_bytes() // 2

    def _kills(self) -> int:
        try:
            with open(self._events) as file:
                return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
        except OSError:
            return 0

    def _available_bytes(self) -> int:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        try:
            with open(self._limit) as file:
                text = file.read().strip()
        except OSError:
            return total
        return min(total, int(text)) if text.isdigit() else total


def _sources_of(routines: dict[str, object]) -> bytes:
    from .._serialization.sources import pack_sources

    return pack_sources(routines, is_loaded=True)


def _take_environment(environment: dict[str, Any]) -> None:
    """Import and open files as the caller's process would."""
    if environment.get("sys_path"):
        sys.path[:] = _places(list(environment["sys_path"]), environment.get("prefixes", ()))
    if environment.get("argv"):
        sys.argv[:] = list(environment["argv"])
    if environment.get("cwd"):
        try:
            os.chdir(environment["cwd"])
        except OSError:  # it was begun on another machine, say: whoever goes on with it tells of that
            with suppress(OSError):
                os.chdir(_begun_in)
    if environment.get("logging"):
        from .._worker.logs import take_levels

        take_levels(environment["logging"])


def _places(theirs: list[str], prefixes: Sequence[str]) -> list[str]:
    """Where to look for modules of code that was packed where ``theirs`` was ``sys.path``, by a Python in ``prefixes``.

    On another machine that may be installed elsewhere: its own modules are then those of the Python that runs here.
    """
    if prefixes and set(prefixes) != {sys.prefix, sys.base_prefix}:
        installed = tuple(os.path.join(prefix, "lib") for prefix in prefixes)
        theirs = [place for place in theirs if not place.startswith(installed)]
    return [*theirs, *(place for place in _begun_with if place not in theirs)]


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _kill(pid: int) -> None:
    """End the process and everything in its group."""
    for end in (os.killpg, os.kill):
        try:
            end(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody left
