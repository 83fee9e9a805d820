"""Flows of routines across worker processes, durable and recoverable through a shared directory.

Everything common is importable from here; names are loaded when they are first used, so that
``import routilux_mp`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ._serialization.registry import Serializable, register_serializable
    from .activation_policies import (
        all_slots_ready_policy,
        batch_size_policy,
        custom_policy,
        immediate_policy,
        time_interval_policy,
        upstream_done_policy,
    )
    from .connection import Connection
    from .error_handler import ErrorHandler, ErrorStrategy
    from .event import Event
    from .flow import Flow
    from .job_state import ExecutionRecord, JobState
    from .monitoring.flow_registry import FlowRegistry
    from .output import CallbackOutputHandler, NullOutputHandler, OutputHandler, QueueOutputHandler
    from .routine import ExecutionContext, Routine
    from .runtime import Runtime, configure
    from .slot import Slot
    from .standby import Standby, hand_over_on_sigterm
    from .status import JobStatus
    from .tracker import ExecutionTracker

#: name -> module that has it
_HOMES = {
    "Flow": "flow",
    "Routine": "routine",
    "ExecutionContext": "routine",
    "Slot": "slot",
    "Event": "event",
    "Connection": "connection",
    "JobState": "job_state",
    "ExecutionRecord": "job_state",
    "JobStatus": "status",
    "ExecutionTracker": "tracker",
    "ErrorHandler": "error_handler",
    "ErrorStrategy": "error_handler",
    "Runtime": "runtime",
    "configure": "runtime",
    "Standby": "standby",
    "hand_over_on_sigterm": "standby",
    "FlowRegistry": "monitoring.flow_registry",
    "immediate_policy": "activation_policies",
    "upstream_done_policy": "activation_policies",
    "batch_size_policy": "activation_policies",
    "time_interval_policy": "activation_policies",
    "all_slots_ready_policy": "activation_policies",
    "custom_policy": "activation_policies",
    "OutputHandler": "output",
    "QueueOutputHandler": "output",
    "CallbackOutputHandler": "output",
    "NullOutputHandler": "output",
    "Serializable": "serilux",
    "register_serializable": "serilux",
}

__all__ = [
    "CallbackOutputHandler",
    "Connection",
    "ErrorHandler",
    "ErrorStrategy",
    "Event",
    "ExecutionContext",
    "ExecutionRecord",
    "ExecutionTracker",
    "Flow",
    "FlowRegistry",
    "JobState",
    "JobStatus",
    "NullOutputHandler",
    "OutputHandler",
    "QueueOutputHandler",
    "Routine",
    "Runtime",
    "Serializable",
    "Slot",
    "Standby",
    "all_slots_ready_policy",
    "batch_size_policy",
    "configure",
    "custom_policy",
    "hand_over_on_sigterm",
    "immediate_policy",
    "register_serializable",
    "time_interval_policy",
    "upstream_done_policy",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
