"""A flow: routines and the connections between them. A definition; it holds no execution state.

What runs a flow is a runtime; ``flow.execute`` and its friends use the current one. Each execution is a
job of its own, seen through the JobState that is returned, and pausing, resuming or cancelling
one never touches another.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any

from ._compile import RoutineOptions, check_strategy, problems_of
from ._ids import new_id
from ._serialization.registry import Serializable, check_constructible, describe_type, register_serializable
from ._waiting import wait_for_all
from .connection import Connection
from .context import wish
from .error_handler import ErrorHandler
from .errors import DefinitionError, UnknownName
from .job_state import JobState
from .routine import Routine
from .runtime import current_runtime
from .tracker import ExecutionTracker


@register_serializable
class Flow(Serializable):
    """A graph of routines.

    Args:
        flow_id: identifies the definition; jobs can only be resumed with a flow of the same id. Default: a new uuid.
        execution_strategy: ``"concurrent"``, or ``"sequential"``: one activation of a job at a time.
        max_workers: worker processes at most; None: the runtime's number.
        execution_timeout: a job that runs longer fails, seconds; None: no limit.
    """

    def __init__(
        self,
        flow_id: str | None = None,
        execution_strategy: str = "concurrent",
        max_workers: int | None = None,
        execution_timeout: float | None = None,
    ) -> None:
        super().__init__()
        self.flow_id: str = flow_id or new_id()
        #: In the order in which they were added.
        self.routines: dict[str, Routine] = {}
        self.connections: list[Connection] = []
        self.execution_timeout = execution_timeout
        self._error_handler: ErrorHandler | None = None
        self._options: dict[str, RoutineOptions] = {}
        self._last_job: JobState | None = None
        self.set_execution_strategy(execution_strategy, max_workers)

    # -- definition -----------------------------------------------------------------------------

    def add_routine(
        self,
        routine: Routine,
        routine_id: str | None = None,
        *,
        workers: int | str = 1,
        ordered: bool = False,
        timeout_s: float | None = None,
    ) -> str:
        """Add a routine and return its id.

        Args:
            routine: an object of its own for every place in a flow.
            routine_id: unique in the flow; default: the name of its class, numbered when taken.
            workers: worker processes at most; ``"auto"``: as many as the backlog asks for.
            ordered: with several workers, release emissions in the order of the inputs.
            timeout_s: an activation that runs longer is killed and has failed.

        Raises:
            ValueError: the id is taken, or a setting is impossible.
        """
        if not isinstance(routine, Routine):
            raise DefinitionError(f"add_routine takes a Routine object, got {routine!r}")
        rid: Any = routine_id if routine_id is not None else self._free_id(type(routine).__name__)
        if not isinstance(rid, str) or not rid:
            raise DefinitionError(f"a routine id must be a non-empty string, got {rid!r}")
        if rid in self.routines:
            raise DefinitionError(f"Routine ID '{rid}' already exists in flow")
        for other, known in self.routines.items():
            if known is routine:
                raise DefinitionError(f"this object is already in the flow as '{other}'; make another one for '{rid}'")
        self._options[rid] = RoutineOptions.checked(rid, workers, ordered, timeout_s)
        routine._id = rid
        self.routines[rid] = routine
        return rid

    def connect(
        self,
        source_routine_id: str,
        source_event: str,
        target_routine_id: str,
        target_slot: str,
        param_mapping: Mapping[str, str] | None = None,
    ) -> Connection:
        """Send emissions of an event to a slot. Events and slots may be connected many times over.

        Raises:
            ValueError: no such routine, event or slot.
        """
        source = self._routine(source_routine_id, "Source routine")
        event = source.get_event(source_event)
        if event is None:
            raise UnknownName(f"Event '{source_event}' not found in routine '{source_routine_id}'")
        target = self._routine(target_routine_id, "Target routine")
        slot = target.get_slot(target_slot)
        if slot is None:
            raise UnknownName(f"Slot '{target_slot}' not found in routine '{target_routine_id}'")
        connection = Connection(event, slot, param_mapping)
        self.connections.append(connection)
        return connection

    def pipe(self, *routines: Routine | str, event: str = "output", slot: str = "input") -> Flow:
        """Connect routines in a row, ``event`` of each to ``slot`` of the next; objects not yet added are added."""
        ids = [r if isinstance(r, str) else self._id_of(r) or self.add_routine(r) for r in routines]
        for source, target in itertools.pairwise(ids):
            self.connect(source, event, target, slot)
        return self

    def set_execution_strategy(self, strategy: str, max_workers: int | None = None) -> None:
        """``"concurrent"`` or ``"sequential"``; ``max_workers`` as in the constructor."""
        self.execution_strategy = check_strategy(strategy)
        if max_workers is not None and (type(max_workers) is not int or max_workers < 0):
            raise DefinitionError(f"max_workers must be a whole number of at least 0, got {max_workers!r}")
        self.max_workers = max_workers

    def set_error_handler(self, error_handler: ErrorHandler | None) -> None:
        """Set the rule for failures of every routine that has none of its own."""
        if error_handler is not None and not isinstance(error_handler, ErrorHandler):
            raise DefinitionError(f"Flow '{self.flow_id}': not an ErrorHandler: {error_handler!r}")
        self._error_handler = error_handler

    @property
    def error_handler(self) -> ErrorHandler | None:
        """The rule for failures of routines that have none of their own."""
        return self._error_handler

    @error_handler.setter
    def error_handler(self, error_handler: ErrorHandler | None) -> None:
        self.set_error_handler(error_handler)

    def find_routines_by_type(self, routine_type: type) -> list[tuple[str, Routine]]:
        """(id, routine) of every routine of a class."""
        return [(rid, routine) for rid, routine in self.routines.items() if isinstance(routine, routine_type)]

    def validate(self) -> list[str]:
        """Everything that is wrong or looks wrong, as sentences; empty when the flow is fine."""
        return problems_of(self)

    def options_of(self, routine_id: str) -> RoutineOptions:
        """What ``add_routine`` was told of this routine besides its id."""
        return self._options.get(routine_id, RoutineOptions())

    # -- execution ------------------------------------------------------------------------------

    def execute(
        self,
        entry_routine_id: str,
        entry_params: dict[str, Any] | None = None,
        execution_strategy: str | None = None,
        timeout: float | None = None,
        *,
        settle_s: float | None = None,
    ) -> JobState:
        """Start a new, independent job at a routine's ``trigger`` slot.

        Returns as soon as the job has ended, or ``settle_s`` after its entry was dispatched; also when nothing of
        it can be written meanwhile: the state is then ``pending``, says why (``blocked``), and goes on by itself.

        Args:
            entry_routine_id: it needs a slot named ``trigger``; else the job has failed.
            entry_params: what the slot is given.
            execution_strategy: instead of the flow's own.
            timeout: instead of the flow's ``execution_timeout``, seconds.
            settle_s: instead of the setting; 0 never waits.

        Raises:
            ValueError: no such routine, or the flow cannot run.
        """
        self._routine(entry_routine_id, "Entry routine")
        return current_runtime().execute(
            self,
            entry_routine_id,
            entry_params or {},
            strategy=execution_strategy,
            timeout_s=self.execution_timeout if timeout is None else timeout,
            settle_s=settle_s,
        )

    def pause(
        self,
        job_state: JobState,
        reason: str = "",
        checkpoint: Any = None,
        *,
        timeout_s: float | None = None,
        handover: bool = False,
    ) -> None:
        """Let running activations finish, keep everything queued in the checkpoint, and be ``paused``.

        ``handover``: a standby of the checkpoint root may take the job over at once, and goes on with it.

        Raises:
            ValueError: the job belongs to another flow.
        """
        if wish("pause", job_state, reason, checkpoint):
            return
        job_state._check_flow(self)
        current_runtime().pause(job_state, reason, checkpoint, timeout_s, handover=handover)

    def resume(self, job_state: JobState, *, takeover: bool = False) -> JobState:
        """Go on with a paused or interrupted job; completed work stays completed. Does not wait for it.

        Retry rules, time limits and worker counts are those of this flow; so are the handlers, but for a job that
        this process has already. A failed job goes on if something unfinished has retries left by these rules.
        ``takeover``: also one that another living process owns, which is asked to yield it first.

        Returns:
            The same object, live, when this process knows the job or can take it over.

        Raises:
            ValueError: the job belongs to another flow, or does not fit this one.
            JobOwned: another living process owns it.
        """
        job_state._check_flow(self)
        current = job_state.current_routine_id
        if current is not None and current not in self.routines:
            raise UnknownName(f"Current routine '{current}' not found in flow")
        resumed = current_runtime().resume(self, job_state, takeover=takeover)
        self._follow(resumed)
        return resumed

    def cancel(self, job_state: JobState, reason: str = "", *, timeout_s: float | None = None) -> None:
        """End a job: nothing more starts, what runs is stopped after a grace period.

        Raises:
            ValueError: the job belongs to another flow.
        """
        if wish("cancel", job_state, reason):
            return
        job_state._check_flow(self)
        current_runtime().cancel(job_state, reason, timeout_s)

    def wait_for_completion(self, timeout: float | None = None, job_state: JobState | None = None) -> bool:
        """Wait until a job has ended, or all jobs of this flow that this process started.

        Returns:
            True when they have ended, False on a timeout, or at once for a paused job without one.
        """
        if job_state is not None:
            return JobState.wait_for_completion(self, job_state, timeout=timeout)
        return wait_for_all([s for s in current_runtime().list_jobs() if s.flow_id == self.flow_id], timeout)

    def shutdown(self, wait: bool = True, timeout: float | None = None) -> bool:
        """Let this flow's jobs end (or cancel them, without ``wait``); the runtime goes on for other flows."""
        if not wait:
            current_runtime().cancel_all(self.flow_id, "flow shut down")
        return self.wait_for_completion(timeout)

    @property
    def execution_tracker(self) -> ExecutionTracker | None:
        """Times and counts of this object's most recent job; None before the first."""
        if self._last_job is None:
            return None
        return ExecutionTracker.of(self.flow_id, self._last_job.execution_history)

    def get_routine_retry_count(self, routine_id: str) -> int:
        """Retries of a routine's latest failing activation, in this object's most recent job."""
        self._routine(routine_id, "Routine")
        if self._last_job is not None:
            return self._last_job.retry_count(routine_id)
        handler = self.routines[routine_id].get_error_handler()
        return 0 if handler is None else handler.retry_count

    def _follow(self, job_state: JobState) -> None:
        """Show this job's retry counts on the handler objects that the caller holds."""
        self._last_job = job_state
        for rid, routine in self.routines.items():
            if routine._error_handler is not None:
                routine._error_handler.mirror(_counter(job_state, (rid,)))
        if self._error_handler is not None:
            own = [rid for rid, routine in self.routines.items() if routine._error_handler is None]
            self._error_handler.mirror(_counter(job_state, tuple(own)))

    # -- serialisation --------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """The definition as JSON-able data; everything is checked first.

        Raises:
            TypeError: a class needs constructor parameters, or a value cannot be serialised.
            ValueError: a callable is a method of another object, or cannot be found by name elsewhere.
        """
        self._check_constructible()
        routines = {}
        for rid, routine in self.routines.items():
            options = self.options_of(rid)
            routines[rid] = {**routine.serialize(), "_options": options._asdict()}
        return {
            **describe_type(type(self)),
            "flow_id": self.flow_id,
            "_paused": False,
            "execution_strategy": self.execution_strategy,
            "max_workers": self.max_workers,
            "execution_timeout": self.execution_timeout,
            "error_handler": None if self._error_handler is None else self._error_handler.serialize(),
            "routines": routines,
            "connections": [connection.serialize() for connection in self.connections],
        }

    def _check_constructible(self) -> None:
        check_constructible(type(self), f"Flow '{self.flow_id}' ({type(self).__name__})")
        for rid, routine in self.routines.items():
            parts: list[tuple[str, Any]] = [(f"Routine '{rid}'", routine)]
            parts += [(f"Slot '{rid}.{name}'", slot) for name, slot in routine._slots.items()]
            parts += [(f"Event '{rid}.{name}'", event) for name, event in routine._events.items()]
            parts += [(f"Error handler of routine '{rid}'", routine._error_handler)]
            for where, part in parts:
                check_constructible(type(part), f"{where} ({type(part).__name__})")
        for number, connection in enumerate(self.connections):
            check_constructible(type(connection), f"Connection {number} ({type(connection).__name__})")

    def _restore(self, data: dict[str, Any]) -> None:
        if data.get("portable") is False:
            raise DefinitionError(
                f"Flow '{data.get('flow_id')}' cannot be rebuilt from this data: {data.get('why')} "
                f"Make the flow by the program that defined it, and resume the job with that."
            )
        fresh: dict[str, Routine] = {}
        options: dict[str, RoutineOptions] = {}
        for rid, routine_data in (data.get("routines") or {}).items():
            routine = fresh[rid] = Routine.deserialize(routine_data)
            routine._id = rid
            options[rid] = RoutineOptions(**routine_data.get("_options", {}))
        self.flow_id = data.get("flow_id", self.flow_id)
        self.routines, self._options, self.connections = fresh, options, []
        self._last_job = None
        self.execution_timeout = data.get("execution_timeout")
        self.set_execution_strategy(data.get("execution_strategy", "concurrent"), data.get("max_workers"))
        handler = data.get("error_handler")
        self._error_handler = None if handler is None else ErrorHandler.deserialize(handler)
        for connection in data.get("connections") or []:
            self.connect(
                connection["source_routine_id"],
                connection["source_event_name"],
                connection["target_routine_id"],
                connection["target_slot_name"],
                connection.get("param_mapping"),
            )

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> Flow:
        """A flow from a description of registered classes; ValueError for a key, class or name that is not known.

        ``spec``: ``flow_id``; ``routines``: id → ``{"class": name, "config": {}, "workers": 1, …}``;
        ``connections``: ``[{"from": "id.event", "to": "id.slot", "param_mapping": {}}]``; ``execution``:
        ``{"strategy", "max_workers", "timeout"}``.
        """
        from ._flow_spec import build_flow  # only flows from a description need it

        return build_flow(cls, spec)

    @classmethod
    def from_yaml(cls, source: str | os.PathLike[str]) -> Flow:
        """A flow from YAML, a file's path or the text itself, as :meth:`from_dict`; needs PyYAML."""
        from ._flow_spec import build_flow, read_yaml

        return build_flow(cls, read_yaml(source))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_job": None}

    def __repr__(self) -> str:
        return f"Flow[{self.flow_id}]"

    def _routine(self, routine_id: str, role: str) -> Routine:
        routine = self.routines.get(routine_id)
        if routine is None:
            raise UnknownName(f"{role} '{routine_id}' not found in flow")
        return routine

    def _id_of(self, routine: Routine) -> str | None:
        return next((rid for rid, known in self.routines.items() if known is routine), None)

    def _free_id(self, name: str) -> str:
        # The same program must give the same ids on another host, so they are counted, not drawn.
        numbered = (f"{name}_{n}" for n in range(2, len(self.routines) + 3))
        return next(rid for rid in (name, *numbered) if rid not in self.routines)


def _counter(job_state: JobState, routine_ids: tuple[str, ...]) -> Callable[[], int]:
    return lambda: max((job_state.retry_count(rid) for rid in routine_ids), default=0)
