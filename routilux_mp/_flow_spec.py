"""A flow from a description in plain data, as one reads from YAML or JSON.

The description names classes; it never imports anything. A class is found when it is registered or
its module is loaded.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._serialization.registry import find_class
from .error_handler import ErrorHandler
from .errors import DefinitionError, UsageError
from .routine import Routine

if TYPE_CHECKING:
    from .flow import Flow

_KEYS = frozenset({"flow_id", "routines", "connections", "execution", "error_handler"})
_ROUTINE_KEYS = frozenset({"class", "config", "error_handler", "workers", "ordered", "timeout_s"})
_CONNECTION_KEYS = frozenset({"from", "to", "param_mapping"})
_EXECUTION_KEYS = frozenset({"strategy", "max_workers", "timeout"})


def build_flow(cls: type[Flow], spec: Mapping[str, Any]) -> Flow:
    """See :meth:`Flow.from_dict`."""
    _check(spec, _KEYS, "a flow description")
    execution = spec.get("execution") or {}
    _check(execution, _EXECUTION_KEYS, "'execution'")
    flow = cls(
        spec.get("flow_id"),
        execution.get("strategy", "concurrent"),
        execution.get("max_workers"),
        execution.get("timeout"),
    )
    if spec.get("error_handler"):
        flow.set_error_handler(ErrorHandler(**spec["error_handler"]))
    for rid, entry in (spec.get("routines") or {}).items():
        entry = {"class": entry} if isinstance(entry, str) else entry
        _check(entry, _ROUTINE_KEYS, f"routine '{rid}'")
        routine = _routine(rid, entry)
        options = {key: entry[key] for key in ("workers", "ordered", "timeout_s") if key in entry}
        flow.add_routine(routine, rid, **options)
    for number, entry in enumerate(spec.get("connections") or []):
        _check(entry, _CONNECTION_KEYS, f"connection {number}")
        source, target = (_ends(entry, end, number) for end in ("from", "to"))
        flow.connect(*source, *target, entry.get("param_mapping"))
    return flow


def read_yaml(source: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The description in a YAML file, or in YAML text (which has more than one line).

    Raises:
        UsageError: PyYAML is not installed.
        DefinitionError: it is no YAML, or no mapping.
    """
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise UsageError(
            "Flow.from_yaml needs PyYAML: pip install 'routilux-mp[yaml]', or read the file yourself and use from_dict"
        ) from None
    is_text = isinstance(source, str) and "\n" in source
    text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
    try:
        spec = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DefinitionError(f"{'the text' if is_text else os.fspath(source)} is not YAML: {error}") from error
    if not isinstance(spec, Mapping):
        raise DefinitionError(f"a flow description must be a mapping, got {type(spec).__name__}")
    return spec


def _routine(rid: str, entry: Mapping[str, Any]) -> Routine:
    if not isinstance(entry.get("class"), str):
        raise DefinitionError(f"routine '{rid}' names no 'class'")
    module, _, qualname = entry["class"].rpartition(":")
    data = {"_type": qualname.rpartition(".")[2], "_qualname": qualname}
    routine: Routine = find_class({**data, "_module": module} if module else data, Routine)()
    routine.set_config(**(entry.get("config") or {}))
    if entry.get("error_handler"):
        routine.set_error_handler(ErrorHandler(**entry["error_handler"]))
    return routine


def _ends(entry: Mapping[str, Any], end: str, number: int) -> tuple[str, str]:
    routine, dot, port = str(entry.get(end, "")).rpartition(".")
    if not (routine and dot and port):
        raise DefinitionError(f"connection {number}: '{end}' must be 'routine.{'event' if end == 'from' else 'slot'}'")
    return routine, port


def _check(entry: Any, known: frozenset[str], what: str) -> None:
    if not isinstance(entry, Mapping):
        raise DefinitionError(f"{what} must be a mapping, got {entry!r}")
    for key in entry:
        if key not in known:
            raise DefinitionError(f"{what}: unknown key {key!r}; there are: {', '.join(sorted(known))}")
