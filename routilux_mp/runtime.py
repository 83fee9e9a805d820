"""Where jobs run: one supervisor with its workers, and the calls that reach it.

What only jobs that run need is imported where it is used, while the process that workers come from starts.

The rule owned here: nothing is dropped. Leaving a ``with Runtime()`` block, and the end of the script
for the default runtime, wait for queued work; what cannot end (a paused job) stays resumable.
"""

from __future__ import annotations

import logging
import threading
import weakref
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ._compile import compile_flow
from ._current_runtime import activate, close_default, configure, current_runtime, deactivate, remember
from ._documents import Document
from ._starting import TRIGGER, entry_of, refused, settle
from ._waiting import deadline_of, left_of, wait_for_all
from .errors import DefinitionError, RuntimeClosed, UnknownName
from .job_state import JobState
from .monitoring.flow_registry import FlowRegistry
from .monitoring.hooks import ExecutionHooks
from .settings import Settings
from .status import JobStatus

if TYPE_CHECKING:
    from ._supervisor.compiled import CompiledFlow
    from ._supervisor.handle import JobHandle
    from ._supervisor.supervisor import Supervisor
    from .flow import Flow

__all__ = ["Runtime", "close_default", "configure", "current_runtime"]

_log = logging.getLogger(__name__)


class Runtime:
    """Runs jobs on worker processes. Best used as a context manager.

    Args:
        thread_pool_size: worker processes at most; 0: the number of cores; None: the setting ``max_workers``.
        checkpoint_dir: the checkpoint root; default: the setting, else ``./checkpoints``.
        backend: ``"local"`` (worker processes) or ``"inline"`` (everything in this process).
        durability: ``"commit"`` or ``"none"``, which keeps nothing on disk.
        settle_s: how long ``exec`` waits for a short job to end before it returns, seconds.
        settings: any other setting by its name.

    Raises:
        ValueError: a setting that does not exist or has an impossible value.
    """

    def __init__(
        self,
        thread_pool_size: int | None = 10,
        *,
        checkpoint_dir: str | None = None,
        backend: str | None = None,
        durability: str | None = None,
        settle_s: float | None = None,
        **settings: Any,
    ) -> None:
        self.settings = Settings.load(
            max_workers=thread_pool_size, checkpoint_dir=checkpoint_dir, backend=backend, durability=durability,
            settle_s=settle_s, **settings,
        )  # fmt: skip
        self._lock = threading.RLock()
        self._made: Supervisor | None = None
        self._may_create_key = True  # a standby must not: it would be another one than the jobs are signed with
        self._is_closed = False
        self._hooks: list[ExecutionHooks] = []
        self._states: weakref.WeakValueDictionary[str, JobState] = weakref.WeakValueDictionary()
        if self.settings.durability == "none":
            _log.warning("durability='none': nothing is kept on disk; jobs of this runtime cannot be resumed")

    # -- starting jobs --------------------------------------------------------------------------

    def exec(
        self,
        flow_name: str | Flow,
        entry_params: dict[str, Any] | None = None,
        job_state: JobState | None = None,
        *,
        settle_s: float | None = None,
        takeover: bool = False,
    ) -> JobState:
        """Start a job of a registered flow, or go on with one.

        Args:
            flow_name: registered name or flow id; or the flow itself.
            entry_params: what the entry slot is given: that of the first routine with a ``trigger`` slot, else
                the first slot of the first routine that nothing feeds. Without parameters only a ``trigger``
                is activated, and a flow without one stays open for :meth:`post`.
            job_state: paused or running: goes on. Ended: a new run that starts from its state. Pending: run as it is.
            settle_s: instead of the setting; 0 never waits. takeover: as in :meth:`resume`.

        Raises:
            ValueError: no such flow, a state of another flow, or parameters for a job that goes on.
            RuntimeError: the runtime has been shut down.
        """
        self._check_open()
        flow = self._flow(flow_name)
        if job_state is not None:
            job_state._check_flow(flow)
            if job_state.status in (JobStatus.PAUSED, JobStatus.RUNNING):
                if entry_params is not None:
                    raise DefinitionError(
                        f"job '{job_state.job_id}' is {job_state.status}: it goes on with what it was given"
                    )
                resumed = self.resume(flow, job_state, takeover=takeover)
                flow._follow(resumed)
                return resumed
        compiled = compile_flow(flow, self.settings, "concurrent")
        before = job_state if job_state is not None and job_state.status.is_terminal else None
        if before is not None and entry_params is None:
            from ._transfer import entry_params_of

            entry_params = entry_params_of(before)
        entry, slot = entry_of(compiled.topology)
        is_settling = entry_params is not None
        if entry_params is None and slot == TRIGGER:
            entry_params = {}
        state = job_state if job_state is not None and before is None else JobState(flow.flow_id)
        self._submit(compiled, state, entry, slot, entry_params, flow.execution_timeout, before)
        flow._follow(state)
        if is_settling:
            settle(state, self.settings.settle_s if settle_s is None else settle_s)
        return state

    def execute(
        self,
        flow: Flow,
        entry_routine_id: str,
        entry_params: dict[str, Any],
        *,
        strategy: str | None = None,
        timeout_s: float | None = None,
        settle_s: float | None = None,
    ) -> JobState:
        """Start a job at a routine's ``trigger`` slot; see :meth:`Flow.execute`."""
        self._check_open()
        compiled = compile_flow(flow, self.settings, strategy)
        state = JobState(flow.flow_id)
        if flow.routines[entry_routine_id].get_slot(TRIGGER) is None:
            flow._follow(state)
            return refused(state, entry_routine_id, f"Entry routine '{entry_routine_id}' must have a 'trigger' slot")
        self._submit(compiled, state, entry_routine_id, TRIGGER, entry_params, timeout_s, None)
        flow._follow(state)
        settle(state, self.settings.settle_s if settle_s is None else settle_s)
        return state

    def post(self, flow: str | Flow, routine: str, slot: str, data: Any, job_id: str | None = None) -> JobState:
        """Put data into a slot of a job: of ``job_id``, else of the flow's newest job that goes on.

        Raises:
            ValueError: no such flow, routine, slot or job.
            StorageBlocked: the disk has taken nothing for ten seconds; it is kept, and put there when it can be.
        """
        self._check_open()
        flow_id = self._flow(flow).flow_id
        found = [h for h in self._supervisor().handles() if h.view.flow_id == flow_id and not h.view.is_terminal]
        if job_id is not None:
            found = [h for h in found if h.job_id == job_id]
        if not found:
            which = f"job '{job_id}'" if job_id is not None else "job"
            raise UnknownName(f"Flow '{flow_id}' has no {which} here that goes on; start one with exec('{flow_id}')")
        handle = max(found, key=lambda h: h.view.created_ns)
        handle.post(routine, slot, data if isinstance(data, dict) else {"data": data})
        return self._state_of(handle)

    # -- control --------------------------------------------------------------------------------

    def pause(
        self,
        job_state: JobState,
        reason: str = "",
        checkpoint: Any = None,
        timeout_s: float | None = None,
        *,
        handover: bool = False,
    ) -> None:
        """Pause a job and wait until it is paused; see :meth:`Flow.pause`."""
        live = job_state._live
        if live is None:
            job_state._mark_paused(reason, checkpoint)
        elif live.handle.view.is_terminal:
            live.curtain.pause(reason, checkpoint)
        else:
            encoded = b"" if checkpoint is None else live.encode_checkpoint(checkpoint)
            live.handle.pause(reason, encoded, timeout_s, is_offer=handover)
            view = live.handle.view
            if view.is_terminal and view.status != "failed":
                live.curtain.pause(reason, checkpoint)  # it ended before the wish reached it

    def resume(
        self, flow: Flow, job_state: JobState, *, takeover: bool = False, on_code_change: str | None = None
    ) -> JobState:
        """Go on with a job; see :meth:`Flow.resume`. ``on_code_change``: instead of the setting."""
        from ._resuming import go_on

        return go_on(self, flow, job_state, takeover, on_code_change)

    def resume_job(
        self, job_id: str, flow: Flow | None = None, *, takeover: bool = False, on_code_change: str | None = None
    ) -> JobState:
        """Go on with a job of this checkpoint root by its id; without a flow, with the code that it was started with.

        Raises:
            ValueError: no such job, it does not fit the flow, or its code has changed (``CodeChanged``).
            JobOwned: another living process owns it.
        """
        from ._resuming import go_on_by_id

        return go_on_by_id(self, job_id, flow, takeover, on_code_change)

    def cancel(self, job_state: JobState, reason: str = "", timeout_s: float | None = None) -> None:
        """Cancel a job and wait until it has ended; see :meth:`Flow.cancel`."""
        live = job_state._live
        if live is None:
            job_state._mark_cancelled(reason)
            return
        if not live.handle.view.is_terminal:
            live.handle.cancel(reason, timeout_s)
        if live.handle.view.is_terminal and live.handle.view.status != "cancelled":
            live.curtain.cancel(reason)

    def cancel_job(self, job_id: str, reason: str = "") -> bool:
        """Cancel a job of this runtime by its id; False if there is none."""
        state = self.get_job(job_id)
        if state is None:
            return False
        self.cancel(state, reason)
        return True

    def cancel_all(self, flow_id: str, reason: str) -> None:
        """Cancel every job of a flow that goes on here."""
        for state in self.list_jobs():
            if state.flow_id == flow_id and not state.status.is_terminal:
                self.cancel(state, reason)

    # -- looking --------------------------------------------------------------------------------

    def get_job(self, job_id: str) -> JobState | None:
        """The state of a job of this runtime, or None."""
        found = [h for h in self._handles() if h.job_id == job_id]
        return self._state_of(found[0]) if found else None

    def list_jobs(self, status: str | None = None) -> list[JobState]:
        """States of this runtime's jobs, oldest first."""
        states = [self._state_of(h) for h in sorted(self._handles(), key=lambda h: h.view.created_ns)]
        return [state for state in states if status is None or state.status == status]

    def wait_until_all_jobs_finished(self, timeout: float | None = None, *, flow_id: str | None = None) -> bool:
        """Wait until every job (of one flow) has ended; False on a timeout, or with none once only paused are left."""
        deadline_s = deadline_of(timeout)
        if self._made is None or not self._made.wait_all(timeout, flow_id):
            return self._made is None
        return wait_for_all([s for s in self.list_jobs() if flow_id in (None, s.flow_id)], left_of(deadline_s))

    def add_hooks(self, hooks: ExecutionHooks) -> None:
        """Have hooks told of every job that this runtime begins or goes on with from now on."""
        self._hooks.append(hooks)

    @property
    def is_closed(self) -> bool:
        """Whether it has been shut down."""
        return self._is_closed

    def shutdown(self, wait: bool = True, timeout: float | None = None) -> None:
        """Wait for queued work (unless ``wait`` is False: then only for what runs now), and stop all workers."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        deactivate(self)
        if self._made is not None:
            self._made.close(wait, timeout)

    def _leave(self) -> None:
        if self._made is not None:
            self._made.leave()

    def __enter__(self) -> Self:
        self._check_open()
        activate(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Ctrl-C in the block means: finish what runs, and leave the rest for a resume.
        self.shutdown(wait=not (kind is not None and issubclass(kind, KeyboardInterrupt)))

    # -- inside ---------------------------------------------------------------------------------

    def _supervisor(self) -> Supervisor:
        with self._lock:
            if self._made is None:
                self._made = self._make_supervisor()
                remember(self)
            return self._made

    def _make_supervisor(self) -> Supervisor:
        # A program that only defines flows need not pay for importing the engine; and while one that runs them
        # pays, the process that its workers come from starts already.
        backend = None
        with ExitStack() as stack:
            if self.settings.backend == "local":
                from .backends.launching import launch

                launched = launch()
                stack.callback(launched.close)  # unless there is somebody who does it
                from .backends.local import LocalBackend

                backend = LocalBackend(launched)
                stack.pop_all()
                stack.callback(backend.close)
            from ._supervisor.supervisor import Supervisor

            made = Supervisor(self.settings, self._describe, may_create_key=self._may_create_key, backend=backend)
            stack.pop_all()
        return made

    def _handles(self) -> list[JobHandle]:
        return [] if self._made is None else self._made.handles()

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeClosed("this Runtime has been shut down; make a new one")

    def _flow(self, name: str | Flow) -> Flow:
        if not isinstance(name, str):
            return name
        flow = FlowRegistry.get_instance().find(name)
        if flow is None:
            raise UnknownName(f"Flow '{name}' not found in registry")
        return flow

    def _submit(
        self, compiled: CompiledFlow, state: JobState, entry: str | None, slot: str | None,
        params: dict[str, Any] | None, timeout_s: float | None, before: JobState | None,
    ) -> None:  # fmt: skip
        if params is not None and not isinstance(params, dict):
            raise DefinitionError(f"entry_params must be a dictionary, got {type(params).__name__}")
        if before is not None:
            state.metadata = {**before.metadata, "rerun_of": before.job_id}
        supervisor = self._supervisor()
        from ._transfer import state_ops

        with state._lock:  # what another thread writes meanwhile goes to the job that is live then
            handle = supervisor.submit(
                compiled,
                entry=entry,
                slot=slot,
                params=params,
                metadata=dict(state.metadata),
                job_id=state.job_id,
                timeout_s=timeout_s,
                initial=state_ops(state if before is None else before, state.job_id, supervisor.signer),
            )
            self._take(state, handle)
        if before is not None:
            state._live_or_fail().before = list(before.execution_history)

    def _take(self, state: JobState, handle: JobHandle) -> None:
        """Put a job that was just begun behind its state."""
        state._forget_edits()
        state._attach(handle, self._supervisor().signer)
        self._know(state)

    def _know(self, state: JobState) -> None:
        """This object shows a job of ours from now on."""
        self._states[state.job_id] = state
        handle = state._live_or_fail().handle
        if self._hooks and handle.observer is None:
            from ._delivery import Observer

            handle.observer = Observer(handle, state, lambda: list(self._hooks))

    def _state_of(self, handle: JobHandle) -> JobState:
        with self._lock:
            state = self._states.get(handle.job_id)
            if state is None or state._live is None or state._live.handle is not handle:
                state = JobState(handle.view.flow_id)
                state._attach(handle, self._supervisor().signer)
                self._know(state)
            return state

    def _describe(self, handle: JobHandle) -> bytes:
        """``job_state.json`` of a job, for the supervisor to write."""
        from ._live import LiveJob, ViewLimits, describe

        state = self._states.get(handle.job_id)
        live = state._live if state is not None else None
        if live is None or live.handle is not handle:
            live = LiveJob(handle, self._supervisor().signer, Document())
        return describe(live, ViewLimits(self.settings.history_inline_max, self.settings.view_bytes_max))
