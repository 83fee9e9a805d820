"""A routine: a step of a flow, with slots (inputs), events (outputs) and a handler or a logic.

A routine object in the user's process is a definition. What runs is a copy of it, one per worker
and job; configuration and the fields named in :meth:`Routine.add_serializable_fields` are what
such copies share. Queues and state are not here: they belong to the job.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, Any, Self

from . import context
from ._core.topology import PolicySpec
from ._serialization.callables import describe_callable, resolve_callable
from ._serialization.json_values import from_json, to_json
from ._serialization.registry import Serializable, check_constructible, register_serializable, remember_class
from .activation_policies import ActivationPolicy, CustomPolicy, as_policy, from_spec
from .context import ExecutionContext as ExecutionContext
from .error_handler import ErrorHandler, ErrorStrategy
from .errors import DefinitionError, NotInHandler, UnknownName
from .event import Event
from .output import staged_file
from .slot import MergeStrategy, Slot


@register_serializable
class Routine(Serializable):
    """Base of every routine.

    Subclasses take no required constructor parameters (they are made again on other hosts by
    calling the class); what distinguishes two of them goes into :meth:`set_config`.
    """

    _id: str
    _config: dict[str, Any]
    _slots: dict[str, Slot]
    _events: dict[str, Event]
    _logic: Callable[..., Any] | None
    _activation_policy: ActivationPolicy | CustomPolicy | None
    _error_handler: ErrorHandler | None
    #: Set when a flow is compiled: connection number -> param_mapping of what feeds this routine.
    _incoming: dict[int, dict[str, str] | None]
    #: Set when a flow is compiled: its own error handler, else the flow's.
    _effective_error_handler: ErrorHandler | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Here, not in __init__: a subclass that forgets super().__init__() still has its slots.
        self = super().__new__(cls)
        self._id = hex(id(self))
        self._config = {}
        self._slots = {}
        self._events = {}
        self._logic = None
        self._activation_policy = None
        self._error_handler = None
        return self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        remember_class(cls)

    # -- definition -----------------------------------------------------------------------------

    def add_slot(
        self,
        name: str,
        handler: Callable[..., Any] | None = None,
        merge_strategy: MergeStrategy = "override",
        max_queue_length: int | None = None,
        watermark: float | None = None,
    ) -> Slot:
        """Add an input.

        Args:
            name: unique among the slots of this routine.
            handler: called once per emission that arrives; leave it out in a routine with a logic.
            merge_strategy: how an emission is merged with earlier ones of the same job.
            max_queue_length: emissions that may wait before the routines that feed it are held.
            watermark: accepted for compatibility.

        Raises:
            ValueError: the name is taken or no name, the handler cannot be called.
        """
        _check_name(name, "slot")
        if name in self._slots:
            raise DefinitionError(f"Slot '{name}' already exists in routine '{self._id}'")
        if handler is not None and not callable(handler):
            raise DefinitionError(f"Slot '{self._id}.{name}': the handler must be callable, got {handler!r}")
        if max_queue_length is not None and max_queue_length < 1:
            raise DefinitionError(f"Slot '{self._id}.{name}': max_queue_length must be at least 1")
        slot = Slot(
            name, self, handler, merge_strategy, max_queue_length=max_queue_length, watermark=watermark
        )  # fmt: skip
        self._slots[name] = slot
        return slot

    define_slot = add_slot

    def add_event(self, name: str, output_params: list[str] | None = None) -> Event:
        """Add an output.

        Raises:
            ValueError: the name is taken, or no name.
        """
        _check_name(name, "event")
        if name in self._events:
            raise DefinitionError(f"Event '{name}' already exists in routine '{self._id}'")
        event = self._events[name] = Event(name, self, output_params)
        return event

    define_event = add_event

    def get_slot(self, name: str) -> Slot | None:
        """The slot of that name, or None."""
        return self._slots.get(name)

    def get_event(self, name: str) -> Event | None:
        """The event of that name, or None."""
        return self._events.get(name)

    def set_logic(self, logic: Callable[..., Any]) -> Self:
        """Let ``logic(slot_data, policy_message, job_state)`` run when the activation policy says so."""
        if not callable(logic):
            raise DefinitionError(f"Routine '{self._id}': the logic must be callable, got {logic!r}")
        self._logic = logic
        return self

    def set_activation_policy(self, policy: Any) -> Self:
        """Say when the logic is activated; without a policy, as soon as there is data."""
        self._activation_policy = as_policy(policy)
        return self

    # -- configuration --------------------------------------------------------------------------

    def set_config(self, **values: Any) -> None:
        """Set configuration values; they are serialised with the flow."""
        self._config.update(values)

    def get_config(self, key: str, default: Any = None) -> Any:
        """A configuration value, or ``default``."""
        return self._config.get(key, default)

    def config(self) -> dict[str, Any]:
        """A copy of the configuration."""
        return dict(self._config)

    # -- errors ---------------------------------------------------------------------------------

    def set_error_handler(self, error_handler: ErrorHandler | None) -> None:
        """Set the rule for this routine's failures; it goes before the flow's. None: the flow's."""
        if error_handler is not None and not isinstance(error_handler, ErrorHandler):
            raise DefinitionError(f"Routine '{self._id}': not an ErrorHandler: {error_handler!r}")
        self._error_handler = error_handler

    def get_error_handler(self) -> ErrorHandler | None:
        """The rule for this routine's failures, or None if it has none of its own."""
        return self._error_handler

    def set_as_optional(self, strategy: ErrorStrategy | str = ErrorStrategy.CONTINUE) -> None:
        """Let the job go on when this routine fails."""
        self._error_handler = ErrorHandler(strategy)

    def set_as_critical(self, max_retries: int = 3, retry_delay: float = 1.0, retry_backoff: float = 2.0) -> None:
        """Try this routine again when it fails, and let the job fail when that does not help."""
        self._error_handler = ErrorHandler(
            ErrorStrategy.RETRY, max_retries, retry_delay, retry_backoff, is_critical=True
        )  # fmt: skip

    # -- in a handler ---------------------------------------------------------------------------

    def emit(
        self,
        event_name: str,
        flow: Any = None,
        runtime: Any = None,
        job_state: Any = None,
        worker_state: Any = None,
        **kwargs: Any,
    ) -> None:
        """Send ``kwargs`` through an event; they leave when the handler returns (or commits).

        ``flow``, ``runtime``, ``job_state`` and ``worker_state`` are accepted and ignored: the
        running activation is known without them.

        Raises:
            ValueError: no such event.
            RuntimeError: no handler is running.
        """
        if event_name not in self._events:
            raise self._unknown_event(event_name)
        activation = context.of_process or context.current()  # the first is all that a worker process needs
        if activation is None:
            raise _no_activation(f"emit '{event_name}' from routine '{self._id}'")
        activation.emit(self, event_name, kwargs)

    def _unknown_event(self, name: str) -> UnknownName:
        known = ", ".join(repr(event) for event in self._events) or "none"
        return UnknownName(f"Event '{name}' not found in routine '{self._id}'; its events: {known}")

    def commit(self, cursor: Any) -> None:
        """Make everything emitted and changed so far durable; ``cursor`` says how far that is.

        Does not wait. If the handler has to be run again, :attr:`resume_cursor` is the last cursor
        committed. A generator handler says the same with ``yield cursor``.
        """
        activation = context.current()
        if activation is None:
            raise _no_activation(f"commit in routine '{self._id}'")
        activation.commit(cursor)

    @property
    def resume_cursor(self) -> Any:
        """The last cursor this activation committed before it was interrupted; None on a first run."""
        activation = context.current()
        return None if activation is None else activation.resume_cursor

    @property
    def attempt(self) -> int:
        """Which try of this activation this is, from 1."""
        activation = context.current()
        return 1 if activation is None else activation.attempt

    @property
    def idempotency_key(self) -> str:
        """The same on every attempt and every host, different between activations and jobs.

        It also makes a good seed: ``random.Random(self.idempotency_key)`` draws the same on every attempt.

        Raises:
            RuntimeError: no handler is running.
        """
        activation = context.current()
        if activation is None:
            raise _no_activation(f"idempotency_key of routine '{self._id}'")
        return activation.idempotency_key

    def output_file(
        self, path: str | os.PathLike[str], mode: str = "w", **options: Any
    ) -> AbstractContextManager[IO[Any]]:
        """A file that appears at ``path``, whole, when the activation commits; never half of it.

        Args:
            path: where it is to be; the folder must exist.
            mode: ``"w"`` or ``"wb"``.
            options: ``encoding``, ``newline``, … as for ``open``.

        Raises:
            RuntimeError: no handler is running.
        """
        activation = context.current()
        if activation is None:
            raise _no_activation(f"write output file '{os.fspath(path)}' from routine '{self._id}'")
        return staged_file(path, mode, options, activation.add_output)

    def get_execution_context(self) -> ExecutionContext | None:
        """Flow, job state and routine id of the running activation; None outside a handler."""
        activation = context.current()
        if activation is None:
            return None
        return ExecutionContext(activation.flow, activation.job_state, activation.routine_id)

    def emit_deferred_event(self, event_name: str, **kwargs: Any) -> None:
        """Send ``kwargs`` through an event when the job is resumed, and not before.

        It is part of the activation's commit; a job that has only such events left waits for its resumption.

        Raises:
            ValueError: no such event.
            RuntimeError: no handler is running.
        """
        if event_name not in self._events:
            raise self._unknown_event(event_name)
        activation = context.current()
        if activation is None:
            raise _no_activation(f"defer event '{event_name}' of routine '{self._id}'")
        activation.job_state.add_deferred_event(activation.routine_id, event_name, kwargs)

    def send_output(self, output_type: str, **data: Any) -> None:
        """Send data to the caller: to the job's output log, and to its output handler once it is durable.

        Raises:
            RuntimeError: no handler is running.
        """
        activation = context.current()
        if activation is None:
            raise _no_activation(f"send output '{output_type}' from routine '{self._id}'")
        activation.job_state.send_output(activation.routine_id, output_type, data)

    def _extract_input_data(self, data: Any = None, **kwargs: Any) -> Any:
        """The input, however it was sent: ``data``, the only value, or all values."""
        if data is not None:
            return data
        if len(kwargs) == 1:
            return next(iter(kwargs.values()))
        return kwargs

    # -- serialisation --------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """As JSON-able data: the definition, no execution state.

        Raises:
            TypeError: the class needs constructor parameters, or a value cannot be serialised.
            ValueError: a handler, merge strategy, condition or logic cannot be found by name elsewhere.
        """
        where = f"Routine '{self._id}'"
        check_constructible(type(self), f"{where} ({type(self).__name__})")
        data = super().serialize()
        data["_id"] = self._id
        data["_config"] = to_json(self._config, self, f"{where}, config")
        data["_slots"] = {name: slot.serialize() for name, slot in self._slots.items()}
        data["_events"] = {name: event.serialize() for name, event in self._events.items()}
        data["_error_handler"] = None if self._error_handler is None else self._error_handler.serialize()
        data["_logic"] = describe_callable(self._logic, self, f"{where}, logic")
        data["_activation_policy"] = self._describe_policy(where)
        return data

    def _accepts(self, data: dict[str, Any]) -> bool:
        # A plain Routine() may be filled with any subclass's data; what it cannot resolve, it leaves out.
        return super()._accepts(data) or (type(self) is Routine and "_slots" in data)

    def _restore(self, data: dict[str, Any]) -> None:
        """Lay config, handlers and fields over what the constructor made; match the rest by name."""
        self._id = str(data.get("_id", self._id))
        where = f"Routine '{self._id}'"
        self._config.update(from_json(data.get("_config") or {}, self, f"{where}, config"))
        super()._restore(data)
        for name, slot_data in (data.get("_slots") or {}).items():
            slot = self._slots.get(name) or self._slots.setdefault(name, Slot(name, self))
            slot._restore(slot_data if type(self) is not Routine else _portable(slot_data))
        for name, event_data in (data.get("_events") or {}).items():
            event = self._events.get(name) or self._events.setdefault(name, Event(name, self))
            event._restore(event_data)
        handler = data.get("_error_handler")
        self._error_handler = None if handler is None else ErrorHandler.deserialize(handler)
        logic = data.get("_logic")
        if type(self) is not Routine or _is_portable(logic):
            self._logic = resolve_callable(logic, self, self._logic, f"{where}, logic")
        self._restore_policy(data.get("_activation_policy"), where)

    def _describe_policy(self, where: str) -> dict[str, Any] | None:
        policy = self._activation_policy
        if policy is None:
            return None
        if isinstance(policy, ActivationPolicy):
            return {"kind": policy.spec.kind, "count": policy.spec.count, "interval_s": policy.spec.interval_s}
        function = describe_callable(policy.function, self, f"{where}, activation policy")
        return {"kind": "custom", "is_check": policy.is_check, "function": function}

    def _restore_policy(self, data: dict[str, Any] | None, where: str) -> None:
        if data is None:
            return
        if data.get("kind") != "custom":
            self._activation_policy = from_spec(PolicySpec(data["kind"], data["count"], data["interval_s"]))
        elif type(self) is not Routine or _is_portable(data.get("function")):
            kept = self._activation_policy.function if isinstance(self._activation_policy, CustomPolicy) else None
            function = resolve_callable(data.get("function"), self, kept, f"{where}, activation policy")
            if function is not None:
                self._activation_policy = CustomPolicy(function, is_check=bool(data.get("is_check")))

    def __repr__(self) -> str:
        return f"{type(self).__name__}[{self._id}]"


def _is_portable(reference: Any) -> bool:
    """Whether a callable can be found without the class that it was made by."""
    return isinstance(reference, dict) and reference.get("kind") in ("function", "code")


def _portable(slot_data: dict[str, Any]) -> dict[str, Any]:
    merge = slot_data.get("merge_strategy")
    return {
        **slot_data,
        "handler": slot_data.get("handler") if _is_portable(slot_data.get("handler")) else None,
        "merge_strategy": merge if isinstance(merge, str) or _is_portable(merge) else "override",
    }


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"the name of a {what} must be a non-empty string, got {name!r}")


def _no_activation(what: str) -> NotInHandler:
    return NotInHandler(
        f"Cannot {what}: not in execution context: no handler is running here. This works inside a handler or a "
        f"logic that the engine called. (A thread that goes on after its handler has returned is in none. One of a "
        f"handler that runs in the caller's own process has to be given its context: contextvars.copy_context().run.)"
    )
