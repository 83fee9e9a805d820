"""How a handler or a logic is called: which of the emitted values become which of its arguments.

Everything that depends only on the signature is found out once; what is left per activation is one
call. Not here: transactions, generators, errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

from .._serialization.batch import Unreadable
from .state import ActivationJobState

Call = Callable[[dict[str, Any]], Any]
LogicCall = Callable[[dict[str, list[Any]], Any, Any], Any]

#: What an activation for a single emission is told in place of a policy's message.
IMMEDIATE = {"reason": "immediate"}


def slot_call(slot: Any, mapping: Mapping[str, str] | None, state: ActivationJobState) -> Call:
    """What to call with one emission for a handler-style slot: names mapped, merged with earlier ones, unpacked."""
    call = handler_call(slot.handler)
    strategy = slot.merge_strategy
    if strategy == "append":
        call = _appending(call, slot.name, state)
    elif callable(strategy):
        call = _merging(call, strategy, slot.name, state)
    return call if not mapping else _mapping(call, mapping)


def handler_call(handler: Callable[..., Any]) -> Call:
    """A function of the emitted dictionary that calls ``handler`` by the rules for handler arguments.

    With ``**kwargs`` it gets all keys; a single parameter its value, or the whole dictionary when no
    key of that name was sent; several parameters the matching keys, or the whole dictionary when
    none match; without parameters, nothing.
    """
    named, takes_any, is_known = _parameters(handler)
    if not is_known:
        return handler
    if any(p.kind is Parameter.VAR_KEYWORD for p in named):
        return lambda data: handler(**data)
    named = [p for p in named if p.kind is not Parameter.VAR_KEYWORD]
    if not named:
        return handler if takes_any else lambda data: handler()
    if len(named) == 1:
        return _single(handler, named[0])
    return _several(handler, named)


def only_parameter(slot: Any, mapping: Mapping[str, str] | None) -> str | None:
    """Name of the value that alone is handed to the slot's handler, when nothing else is done with an emission."""
    named, _, is_known = _parameters(slot.handler)
    if mapping or slot.merge_strategy == "append" or callable(slot.merge_strategy) or not is_known or len(named) != 1:
        return None
    is_positional = named[0].kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return named[0].name if is_positional else None


def if_readable(call: Call) -> Call:
    """``call``, but an object that cannot be built fails the activation that was to have it."""

    def checked(data: Any) -> Any:
        if type(data) is Unreadable:
            raise data.error
        return call(data)

    return checked


def logic_call(logic: Callable[..., Any], slots: Sequence[str]) -> LogicCall:
    """A function of (slot data, policy message, job state) that calls ``logic`` by the rules for logic arguments.

    A first parameter named ``slot_data`` gets the dictionary of lists; otherwise the lists come one by
    one in the order of the slots. Message and state follow, by name where they are named.
    """
    named, takes_any, is_known = _parameters(logic)
    if not is_known:
        return logic
    takes_keywords = any(p.kind is Parameter.VAR_KEYWORD for p in named)
    named = [p for p in named if p.kind is not Parameter.VAR_KEYWORD]
    is_whole = bool(named) and named[0].name == "slot_data"
    names = {p.name for p in named if p.kind is not Parameter.POSITIONAL_ONLY}
    by_name = [n for n in ("policy_message", "job_state") if n in names or takes_keywords]
    inputs = 1 if is_whole else len(slots)
    free = [p for p in named if p.name not in ("policy_message", "job_state") and p.kind is not Parameter.KEYWORD_ONLY]
    room = max(0, len(free) - inputs) if not takes_any else 2

    def call(data: dict[str, list[Any]], message: Any, state: Any) -> Any:
        given: list[Any] = [data] if is_whole else [data[name] for name in slots]
        extra = {"policy_message": message, "job_state": state}
        keywords = {name: extra.pop(name) for name in by_name}
        return logic(*given, *list(extra.values())[:room], **keywords)

    return call


def _parameters(function: Callable[..., Any]) -> tuple[list[Parameter], bool, bool]:
    """(parameters without ``*args``, whether there is ``*args``, whether the signature is known)."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"'{name}' is a coroutine function; call asyncio.run(...) in an ordinary handler instead")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return [], False, False  # some builtins do not say
    named = [p for p in parameters if p.kind is not Parameter.VAR_POSITIONAL]
    return named, len(named) != len(parameters), True


def _single(handler: Callable[..., Any], parameter: Parameter) -> Call:
    name = parameter.name
    if parameter.kind is Parameter.KEYWORD_ONLY:
        return lambda data: handler(**{name: data.get(name, data)})

    def call(data: dict[str, Any]) -> Any:
        return handler(data.get(name, data))

    return call


def _several(handler: Callable[..., Any], named: Sequence[Parameter]) -> Call:
    positional = [p.name for p in named if p.kind is Parameter.POSITIONAL_ONLY]
    names = [p.name for p in named]

    def call(data: dict[str, Any]) -> Any:
        found = {name: data[name] for name in names if name in data}
        if not found:
            return handler(data)
        return handler(*[found.pop(name) for name in positional if name in found], **found)

    return call


def _mapping(call: Call, mapping: Mapping[str, str]) -> Call:
    """Keys renamed; what is not mapped passes unless a mapped key takes its name."""

    def mapped(data: dict[str, Any]) -> Any:
        renamed = {mapping[key]: value for key, value in data.items() if key in mapping}
        for key, value in data.items():
            if key not in mapping:
                renamed.setdefault(key, value)
        return call(renamed)

    return mapped


def map_keys(mapping: Mapping[str, str] | None) -> Call:
    """The renaming alone, for data that goes to a logic."""
    return _mapping(lambda data: data, mapping) if mapping else lambda data: data


def _appending(call: Call, slot: str, state: ActivationJobState) -> Call:
    """Every key gets the list of all values that came under it in this job."""

    def appended(data: dict[str, Any]) -> Any:
        merged = {}
        for key, value in data.items():
            place = f"__slot__:{slot}:{key}"
            state.append(place, value, routine_id=state.current_routine_id)
            merged[key] = state.get_hidden(place)
        return call(merged)

    return appended


def _merging(call: Call, merge: Callable[[Any, Any], Any], slot: str, state: ActivationJobState) -> Call:
    """``merge(old, new)`` decides what the handler gets, and is handed that as ``old`` the next time."""
    place = f"__slot__:{slot}"

    def merged(data: dict[str, Any]) -> Any:
        result = merge(state.get_hidden(place, is_read=True) or {}, data)
        state.set_hidden(place, result)
        return call(result)

    return merged
