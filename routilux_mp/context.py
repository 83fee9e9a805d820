"""What a running handler can reach: the activation it belongs to.

A routine's ``emit``, ``commit``, ``job_state`` and so on end here. Nothing is implemented here: the
worker supplies the activation. The rule it owns: where no activation runs, there is none (``None``),
and a thread that a handler started in a worker process belongs to the worker's activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from typing import Any, NamedTuple, Protocol

from .errors import UsageError


class Activation(Protocol):
    """One attempt to run a handler or logic; a transaction."""

    #: Cursor of the last commit of an earlier attempt; None on the first run.
    resume_cursor: Any
    #: 1 on the first attempt.
    attempt: int

    @property
    def job_state(self) -> Any:
        """The view of the job that this activation may read and change."""
        ...

    @property
    def flow(self) -> FlowReference:
        """The flow of the job."""
        ...

    @property
    def routine_id(self) -> str:
        """The id in the flow of the routine that runs."""
        ...

    @property
    def idempotency_key(self) -> str:
        """The same on every attempt and every host, different between jobs and activations."""
        ...

    def emit(self, routine: Any, event_name: str, kwargs: dict[str, Any]) -> None:
        """Buffer one emission; it exists when the activation commits."""
        ...

    def commit(self, cursor: Any) -> None:
        """Make what was done so far durable; a later attempt starts with this cursor."""
        ...

    def add_output(self, temporary: str, final: str) -> None:
        """Move the file into place when the activation commits, delete it when it fails."""
        ...


_current: ContextVar[Activation | None] = ContextVar("routilux_mp_activation", default=None)
#: A worker process runs one activation at a time and nothing else: every thread of it finds that here.
of_process: Activation | None = None


def current() -> Activation | None:
    """The activation that the caller runs in; None outside of a handler."""
    return of_process or _current.get()


def enter(activation: Activation) -> Token[Activation | None]:
    """Make ``activation`` current in this thread, until :func:`leave`."""
    return _current.set(activation)


def leave(token: Token[Activation | None]) -> None:
    """Undo the :func:`enter` that gave ``token``."""
    _current.reset(token)


def set_for_process(activation: Activation | None) -> None:
    """The same for all threads of a worker process, which runs nothing else."""
    global of_process
    of_process = activation


class ExecutionContext(NamedTuple):
    """Where a running handler is: what ``Routine.get_execution_context()`` returns."""

    flow: FlowReference
    job_state: Any
    routine_id: str


class Definitions(Mapping[str, Any]):
    """Routines by id, each made when somebody looks at it."""

    def __init__(self, numbers: Mapping[str, int], make: Callable[[int], Any]) -> None:
        self._numbers = numbers
        self._make = make

    def __getitem__(self, routine_id: str) -> Any:
        return self._make(self._numbers[routine_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class FlowReference:
    """The flow of a running job, as a worker knows it: its id, its routines, and wishes about the job."""

    def __init__(self, flow_id: str, routines: Mapping[str, Any]) -> None:
        self.flow_id = flow_id
        #: Definitions by id, as this worker has them; what a handler changes in one stays there.
        self.routines = routines

    def find_routines_by_type(self, routine_type: type) -> list[tuple[str, Any]]:
        """(id, routine) of every routine of a class."""
        return [(rid, routine) for rid, routine in self.routines.items() if isinstance(routine, routine_type)]

    def pause(self, job_state: Any, reason: str = "", checkpoint: Any = None) -> None:
        """Pause the job that runs this handler, once its activation has committed; returns at once.

        Raises:
            UsageError: the state of another job.
        """
        self._wish("pause", job_state, reason, checkpoint)

    def cancel(self, job_state: Any, reason: str = "") -> None:
        """Cancel the job that runs this handler, once its activation has committed; returns at once.

        Raises:
            UsageError: the state of another job.
        """
        self._wish("cancel", job_state, reason)

    def _wish(self, what: str, job_state: Any, reason: str, checkpoint: Any = None) -> None:
        if not wish(what, job_state, reason, checkpoint):
            raise UsageError(f"a handler can {what} the job that runs it, not job '{job_state.job_id}'")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a handler knows of its flow: flow_id, routines, find_routines_by_type, pause and cancel; "
            f"'{name}' is to be had where the flow was made"
        )

    def __repr__(self) -> str:
        return f"Flow[{self.flow_id}]"


def wish(what: str, job_state: Any, reason: str, checkpoint: Any = None) -> bool:
    """Ask for a pause or a cancel from inside a handler of that very job; False outside of one."""
    activation = current()
    if activation is None or activation.job_state.job_id != job_state.job_id:
        return False
    if what == "pause":
        activation.job_state.ask_to_pause(reason, checkpoint)
    else:
        activation.job_state.ask_to_cancel(reason)
    return True
