"""Activation policies: when a logic-style routine is activated, and with which of its data.

A policy is a callable ``(slots, job_state) -> (should_activate, data_slice, message)``. The
built-in ones carry a :class:`~routilux_mp._core.topology.PolicySpec` besides: they need only
counts and are decided in the core, without asking anybody. They are callables all the same, so
that a policy of the user's own may be composed of them.

The rule owned here: what a policy takes out of its slots (``data_slice``) is exactly what it
returns; nothing is taken when it declines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ._core.topology import PolicySpec
from .errors import DefinitionError, PolicyAnswerInvalid

__all__ = [
    "ActivationPolicy",
    "Answer",
    "SlotLike",
    "all_slots_ready_policy",
    "as_policy",
    "batch_size_policy",
    "custom_policy",
    "immediate_policy",
    "time_interval_policy",
    "upstream_done_policy",
]


class SlotLike(Protocol):
    """What a policy sees of a slot; :class:`routilux_mp.slot.SlotView` is the real one."""

    def consume_all_new(self) -> list[Any]:
        """Take everything that is new."""

    def consume_one_new(self) -> Any | None:
        """Take the oldest new item; None if there is none."""

    def get_unconsumed_count(self) -> int:
        """How many items are new."""


Slots = Mapping[str, SlotLike]
#: (should_activate, what was taken from each slot, a message for the logic)
Answer = tuple[bool, dict[str, list[Any]], Any]

_DECLINED: Answer = (False, {}, None)


class ActivationPolicy:
    """A built-in policy: a spec for the core, and the same rule as a callable."""

    def __init__(self, spec: PolicySpec, answer: Callable[[PolicySpec, Slots, bool], Answer]) -> None:
        #: What the core needs to decide by itself.
        self.spec = spec
        #: Whether the policy wants to be asked once more when the job is quiet.
        self.accepts_final = True
        self._answer = answer

    def __call__(self, slots: Slots, job_state: Any = None, final: bool = False) -> Answer:
        """Whether to activate now, with what, and why. ``final``: nothing more will come by itself."""
        return self._answer(self.spec, slots, final)

    @property
    def message(self) -> dict[str, Any]:
        """What the logic is told as ``policy_message`` when this policy activates it."""
        return _message(self.spec)

    def __eq__(self, other: object) -> bool:
        return type(other) is ActivationPolicy and other.spec == self.spec

    def __hash__(self) -> int:
        return hash(self.spec)

    def __repr__(self) -> str:
        return f"{self.spec.kind}_policy({_argument(self.spec)})"


class CustomPolicy:
    """A policy of the user's own; it runs in the routine's first worker and its answer is recorded."""

    spec = PolicySpec("custom")

    def __init__(self, function: Callable[..., Any], *, is_check: bool) -> None:
        self.function = function
        #: True: ``function`` answers yes or no, and everything new is taken on a yes.
        self.is_check = is_check
        self.accepts_final = _accepts(function, "final")

    def __call__(self, slots: Slots, job_state: Any = None, final: bool = False) -> Answer:
        """Ask the user's function; ``final`` is passed on if it takes that argument."""
        if final and not self.accepts_final:
            return _DECLINED
        more = {"final": final} if self.accepts_final else {}
        answer = self.function(slots, job_state, **more)
        if self.is_check:
            return (True, _take_all(slots), {"reason": "custom_policy_met"}) if answer else _DECLINED
        if not isinstance(answer, tuple) or len(answer) != 3:
            said = f"{answer!r:.200}"
            raise PolicyAnswerInvalid(f"{self!r} must return (should_activate, data_slice, message), got {said}")
        should_activate, data_slice, message = answer
        return bool(should_activate), data_slice or {}, message

    def __repr__(self) -> str:
        return f"custom_policy({getattr(self.function, '__qualname__', self.function)!s})"


def immediate_policy() -> ActivationPolicy:
    """Activate as soon as any slot has new data, with all of it; message ``{"reason": "immediate"}``."""
    return ActivationPolicy(PolicySpec("each"), _immediate)


def upstream_done_policy() -> ActivationPolicy:
    """Activate once, with everything the slots hold, when nothing upstream is left.

    That is how an aggregation knows that it has seen all. A routine on a cycle cannot use it.
    """
    return ActivationPolicy(PolicySpec("upstream_done"), _upstream_done)


def batch_size_policy(min_batch_size: int) -> ActivationPolicy:
    """Activate with exactly ``min_batch_size`` items of every slot; what is left at the end is flushed.

    Raises:
        DefinitionError: ``min_batch_size`` is not a whole number of at least 1.
    """
    if type(min_batch_size) is not int or min_batch_size < 1:
        raise DefinitionError(f"batch_size_policy needs a whole number of at least 1, got {min_batch_size!r}")
    return ActivationPolicy(PolicySpec("batch_size", count=min_batch_size), _batch_size)


def time_interval_policy(min_interval_seconds: float) -> ActivationPolicy:
    """Activate with all new data, but at most once in ``min_interval_seconds``.

    Raises:
        DefinitionError: ``min_interval_seconds`` is negative.
    """
    if not min_interval_seconds >= 0:
        raise DefinitionError(f"time_interval_policy needs an interval of at least 0 s, got {min_interval_seconds!r}")
    return ActivationPolicy(PolicySpec("time_interval", interval_s=float(min_interval_seconds)), _Interval())


def all_slots_ready_policy() -> ActivationPolicy:
    """Activate with one item of every slot as soon as every slot has one."""
    return ActivationPolicy(PolicySpec("all_slots_ready"), _all_slots_ready)


def custom_policy(check_function: Callable[..., bool]) -> CustomPolicy:
    """Activate with all new data whenever ``check_function(slots, job_state)`` is true.

    ``check_function`` is asked once more when the job is quiet, with ``final=True``, if it takes
    an argument of that name.
    """
    if not callable(check_function):
        raise DefinitionError(f"custom_policy needs a callable (slots, job_state) -> bool, got {check_function!r}")
    return CustomPolicy(check_function, is_check=True)


def as_policy(policy: Any) -> ActivationPolicy | CustomPolicy:
    """The policy object of whatever ``set_activation_policy`` was given.

    Raises:
        DefinitionError: it is not callable.
    """
    if isinstance(policy, (ActivationPolicy, CustomPolicy)):
        return policy
    if not callable(policy):
        raise DefinitionError(
            f"an activation policy is a callable (slots, job_state) -> (should_activate, data_slice, message), "
            f"got {policy!r}"
        )
    return CustomPolicy(policy, is_check=False)


def from_spec(spec: PolicySpec) -> ActivationPolicy:
    """The built-in policy of a spec that was read from a checkpoint.

    Raises:
        DefinitionError: no built-in policy of that kind.
    """
    answer = _Interval() if spec.kind == "time_interval" else _ANSWERS.get(spec.kind)
    if answer is None:
        raise DefinitionError(f"no built-in activation policy of kind {spec.kind!r}")
    return ActivationPolicy(spec, answer)


# -- the rules --------------------------------------------------------------------------------


def _immediate(spec: PolicySpec, slots: Slots, final: bool) -> Answer:
    taken = _take_all(slots)
    return (True, taken, _message(spec)) if any(taken.values()) else _DECLINED


def _upstream_done(spec: PolicySpec, slots: Slots, final: bool) -> Answer:
    return (True, _take_all(slots), _message(spec)) if final else _DECLINED


def _batch_size(spec: PolicySpec, slots: Slots, final: bool) -> Answer:
    counts = [slot.get_unconsumed_count() for slot in slots.values()]
    if counts and min(counts) >= spec.count:
        taken = {name: [slot.consume_one_new() for _ in range(spec.count)] for name, slot in slots.items()}
        return True, taken, _message(spec)
    if final and any(counts):
        return True, _take_all(slots), _message(spec)
    return _DECLINED


def _all_slots_ready(spec: PolicySpec, slots: Slots, final: bool) -> Answer:
    if not slots or any(slot.get_unconsumed_count() == 0 for slot in slots.values()):
        return _DECLINED
    return True, {name: [slot.consume_one_new()] for name, slot in slots.items()}, _message(spec)


class _Interval:
    """Remembers when it last said yes; only for direct calls, since the core keeps its own time."""

    def __init__(self) -> None:
        self.last_s: float | None = None

    def __call__(self, spec: PolicySpec, slots: Slots, final: bool) -> Answer:
        now_s = time.monotonic()
        if self.last_s is not None and now_s - self.last_s < spec.interval_s and not final:
            return _DECLINED
        taken = _take_all(slots)
        if not any(taken.values()):
            return _DECLINED
        self.last_s = now_s
        return True, taken, _message(spec)


_ANSWERS: dict[str, Callable[[PolicySpec, Slots, bool], Answer]] = {
    "each": _immediate,
    "upstream_done": _upstream_done,
    "batch_size": _batch_size,
    "all_slots_ready": _all_slots_ready,
}


def _message(spec: PolicySpec) -> dict[str, Any]:
    match spec.kind:
        case "each":
            return {"reason": "immediate"}
        case "batch_size":
            return {"reason": "batch_ready", "batch_size": spec.count}
        case "time_interval":
            return {"reason": "time_interval_met", "interval": spec.interval_s}
    return {"reason": spec.kind}


def _take_all(slots: Slots) -> dict[str, list[Any]]:
    return {name: slot.consume_all_new() for name, slot in slots.items()}


def _accepts(function: Callable[..., Any], name: str) -> bool:
    import inspect  # 10 ms, for policies that are functions of one's own

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _argument(spec: PolicySpec) -> str:
    if spec.count:
        return str(spec.count)
    return repr(spec.interval_s) if spec.kind == "time_interval" else ""
