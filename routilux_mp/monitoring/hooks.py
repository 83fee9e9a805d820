"""Hooks: what somebody wants to be told of every job of a runtime.

They run in a thread of the caller, after what they tell is durable, never in a worker; so they cannot
slow, change or stop anything. What they are told is what the execution history says.
"""

from __future__ import annotations

from typing import Any


class ExecutionHooks:
    """Override what is wanted, and give an object to ``Runtime.add_hooks``. An exception is logged, no more."""

    def on_job_start(self, job_state: Any) -> None:
        """This process begins to run the job, or goes on with it."""

    def on_job_end(self, job_state: Any, status: str) -> None:
        """The job has ended as ``completed``, ``failed`` or ``cancelled``."""

    def on_routine_start(self, routine_id: str, job_state: Any) -> None:
        """A routine has begun: the entry when it is dispatched, any other when it is durable that it has run."""

    def on_routine_end(self, routine_id: str, job_state: Any, status: str, error: str | None = None) -> None:
        """A routine has returned (``completed``), or an attempt has failed (``failed``).

        Activations that were committed together are told together: all begin, what they emitted, all end.
        """

    def on_event_emit(self, routine_id: str, event_name: str, data: dict[str, Any], job_state: Any) -> None:
        """A routine has emitted."""
