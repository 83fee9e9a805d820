"""What a place where workers live must do; nothing here runs anything.

The rule: a backend carries messages and reports what happened to processes. It never looks into a
message, never decides, never blocks its caller except in :meth:`Backend.poll` and
:meth:`Backend.close`, and never loses what a worker said before it died.
"""

# Annotations are not postponed here: of a NamedTuple each one that is text is compiled, at every start.
import signal as signals
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from .._core.effects import GoOn, Revoke, Work
from .._core.stimuli import Completion
from .._worker.wire import Forget, JobInfo

__all__ = [
    "Backend",
    "Code",
    "CodeReady",
    "CodeRefused",
    "Died",
    "Event",
    "Exit",
    "Forget",
    "JobInfo",
    "Message",
    "Printed",
    "Report",
    "Started",
]

Message = JobInfo | Work | GoOn | Revoke | Forget


class Code(NamedTuple):
    """The code of one flow, as a backend needs it."""

    code_id: str  # digest of the bundle; for inline any unique string
    bundle: bytes | None  # packed by _serialization.code; None for inline
    routines: Mapping[str, Any] | None = None  # the caller's own Routine objects, by id (inline uses them)
    environment: Mapping[str, Any] = {}  # see ``_supervisor.recovery.environment``
    wants_sources: bool = False  # whoever loads it is to say what its modules hold now


class Exit(NamedTuple):
    """How a worker process ended."""

    pid: int  # 0: it never came to life
    exit_code: int | None = None  # None: ended by a signal, or unknown
    signal: int | None = None
    peak_rss_bytes: int = 0
    is_oom_suspected: bool = False
    is_blameless: bool = False  # killed or stopped by us, or its nursery died: no activation is charged
    detail: str = ""

    @property
    def report(self) -> str:
        """How it ended, as a sentence for people."""
        if self.signal is not None:
            how = f"was ended by {_signal_name(self.signal)}"
        elif self.exit_code is not None:
            how = f"exited with status {self.exit_code}"
        else:
            how = "ended"
        parts = [f"worker process {self.pid} {how}"] if self.pid else []
        if self.peak_rss_bytes:
            parts.append(f"peak memory {self.peak_rss_bytes / 2**20:.0f} MiB")
        if self.is_oom_suspected:
            parts.append("likely out of memory")
        if self.detail:
            parts.append(self.detail)
        return "; ".join(parts) or "the worker process died"


class Report(NamedTuple):
    """A worker reported on one dispatch of one job."""

    worker: int
    completion: Completion
    job_id: str


class Started(NamedTuple):
    """The worker lives and reads its messages."""

    worker: int
    pid: int


class Died(NamedTuple):
    """The worker is gone; everything it said before has been reported. ``running`` still answers for it."""

    worker: int
    exit: Exit


class Printed(NamedTuple):
    """What a handler printed or logged; whole lines, before any report that follows from them."""

    worker: int
    stream: str  # "stdout" | "stderr" | "log"
    text: str


class CodeReady(NamedTuple):
    """The code is loaded; workers of it can start."""

    code_id: str
    sources: bytes = b""  # as they were found when it was loaded; empty: nobody wanted them


class CodeRefused(NamedTuple):
    """The code cannot be loaded in a fresh process."""

    code_id: str
    message: str
    routine_id: str | None = None


Event = Report | Started | Died | Printed | CodeReady | CodeRefused


class Backend(Protocol):
    """Where workers live. All calls from one thread, except :meth:`wake`."""

    def prepare(self) -> None:
        """Start what can be started before any code is known, so that a first job need not wait for it."""

    def load(self, code: Code) -> None:
        """Make the code known; answered by :class:`CodeReady` or :class:`CodeRefused`."""

    def unload(self, code_id: str) -> None:
        """Forget the code: no worker of it is there, and none is started before it is loaded again."""

    def start(self, worker: int, code_id: str) -> None:
        """Start a worker under a number never used before; answered by :class:`Started` or :class:`Died`."""

    def send(self, worker: int, message: Message, job_id: str = "") -> None:
        """Queue a message; in order, never blocks. To a dead worker: dropped (its death is reported).

        ``job_id``: whose :class:`Work` it is; no other message needs it. The dispatch numbers of one
        worker only grow, over all its jobs: a ``Revoke`` reaches everything up to its number.
        """

    def poll(self, timeout_s: float | None, pause_s: float = 0.0) -> list[Event]:
        """What happened; waits until something did, the time is over or :meth:`wake` was called.

        ``pause_s``: nobody needs an answer sooner, so that what happens until then is best told together.
        """

    def wake(self, *, is_awaited: bool = True) -> None:
        """Make :meth:`poll` return, from any thread; when nobody waits for it, not before its pause is over."""

    def shared_dir(self) -> str | None:
        """A directory in memory that all workers reach, gone when the backend is; None: there is none."""

    def running(self, worker: int) -> tuple[int, int, int]:
        """(dispatch, index within it, start in CLOCK_MONOTONIC ns) of the running activation; (0, -1, 0): none."""

    def set_lease(self, deadline_ns: int) -> None:
        """No worker starts an activation after this CLOCK_MONOTONIC time; 0: no lease."""

    def kill(self, worker: int) -> None:
        """End the worker now; its death is reported."""

    def stop(self, worker: int) -> None:
        """End the worker when it has read and done everything sent to it; its death is reported."""

    def close(self) -> None:
        """End everything, wait for it, leave no process, thread, descriptor or file behind."""


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"  # real-time signals have no names
