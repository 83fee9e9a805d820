"""The workers as processes: starting them, their time limits, and what follows from their deaths.

Not here: what they are for and what they are given (``placement``, ``feeding``). The rule it owns: a flow
whose workers cannot begin is tried ever more slowly and then given up, whatever other flows do beside it;
nothing is started for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.stimuli import Fail, Failure, WorkerLost
from .._worker.liveness import LOOK_NS
from ..backends.base import Died
from ..errors import BackendError
from .leftovers import worker_died

if TYPE_CHECKING:
    from .loop import Loop

#: So many workers of a flow in a row ended before they did anything with their work: it would go on for ever.
SILENT_DEATHS_MAX = 10
#: The wait before the next worker of the flow is started; it doubles with each such death.
START_AGAIN_NS = 10_000_000
START_AGAIN_MAX_NS = 1_000_000_000


class Staff:
    """Called by the loop, in its thread."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._timeouts: dict[int, tuple[int, int]] = {}  # worker killed for exceeding -> (dispatch, index)
        #: code -> workers that could not begin since one of that code has reported
        self._silent_deaths: dict[str, int] = {}
        self._start_after_ns: dict[str, int] = {}

    def start(self, code_id: str, routine: str) -> bool:
        """A new worker for the routine, unless those of its flow could not begin a moment ago."""
        loop, now = self._loop, self._loop.clock.now_ns()
        if now < self._start_after_ns.get(code_id, 0):
            return False
        slot = loop.placement.new(code_id, routine, now)
        try:
            loop.backend.start(slot.worker, code_id)
        except (OSError, BackendError) as error:
            loop.placement.workers.pop(slot.worker, None)
            self._died_silently(code_id, f"a worker process cannot be started: {error}", now, is_theirs=False)
            return False
        return True

    def reported(self, code_id: str) -> None:
        """A worker of this code does its work."""
        if self._silent_deaths:
            self._silent_deaths.pop(code_id, None)
            self._start_after_ns.pop(code_id, None)

    def forget(self, code_id: str) -> None:
        """Nothing of this code is there any more."""
        self._silent_deaths.pop(code_id, None)
        self._start_after_ns.pop(code_id, None)

    def next_start_ns(self) -> int:
        """When a worker may be started that could not be; 0: nobody waits for one."""
        return min(self._start_after_ns.values(), default=0)

    def turn(self, now: int) -> None:
        """What has become due since the last turn."""
        for code_id in [code_id for code_id, due_ns in self._start_after_ns.items() if due_ns <= now]:
            del self._start_after_ns[code_id]
            self._loop.feeding.touch_code(code_id)
        self._check_timeouts()
        loop = self._loop
        for slot in loop.placement.idle_since(now - int(loop.settings.worker_idle_s * 1e9)):
            slot.is_leaving = True
            loop.backend.stop(slot.worker)

    def died(self, event: Died, now: int) -> None:
        """A worker is gone: whoever had work there gets it back, and what ran is charged."""
        loop = self._loop
        worker, how = event
        slot = loop.placement.workers.pop(worker, None)
        if slot is None:
            return
        dispatch, index, _ = loop.backend.running(worker)
        timed_out = self._timeouts.pop(worker, None)
        failure: Failure | None = None
        if timed_out is not None:
            dispatch, index = timed_out
            failure = Failure("timeout", "ActivationTimeout", f"the handler ran longer than timeout_s; {how.report}")
        elif not how.is_blameless:
            failure = Failure("crash", "WorkerCrashed", how.report)
        # Nobody can be charged: it had work and nothing was running, or it never came to life.
        is_silent = timed_out is None and index < 0 and bool(slot.load) and not how.is_blameless
        for job_id in sorted(slot.introduced):  # each of them remembers what state this worker has
            live = loop.jobs.get(job_id)
            if live is not None:
                loop.happen(live, WorkerLost(worker, dispatch, index, failure), now)
                worker_died(live, how.pid)
        if is_silent or how.pid == 0:
            self._died_silently(slot.code_id, how.report, now, is_theirs=how.pid != 0)
        for job_id in loop.jobs:
            loop.attention.touch(job_id)  # its place in the budget is anybody's now

    def code_is_lost(self, code_id: str, message: str, now: int) -> None:
        """Code that was in use cannot be loaded any more: nothing of it can ever run."""
        for live in list(self._loop.jobs.values()):
            if live.code_id == code_id:
                self._loop.happen(live, Fail(f"its code cannot be loaded again: {message}"), now)

    # -- inside -------------------------------------------------------------------------------

    def _died_silently(self, code_id: str, detail: str, now: int, *, is_theirs: bool) -> None:
        loop = self._loop
        count = self._silent_deaths[code_id] = self._silent_deaths.get(code_id, 0) + 1
        self._start_after_ns[code_id] = now + min(START_AGAIN_NS << count - 1, START_AGAIN_MAX_NS)
        if count < SILENT_DEATHS_MAX:
            return
        self.reported(code_id)  # whoever comes next has as many tries
        for live in list(loop.jobs.values()):
            if live.code_id != code_id:
                continue
            if is_theirs:
                loop.happen(live, Fail(f"worker processes die before they begin with their work: {detail}"), now)
            else:  # this machine's fault: the job can be resumed, here or elsewhere
                loop.lose(live, BackendError(f"no worker process can be started: {detail}"))

    def _check_timeouts(self) -> None:
        loop = self._loop
        for job_id in loop.attention.limited:
            live = loop.jobs[job_id]
            for d in live.job.dispatches.values():
                limit_s = live.job.topology.routines[d.routine].timeout_s
                if limit_s is None or d.worker in self._timeouts:
                    continue
                dispatch, index, start_ns = loop.backend.running(d.worker)
                if dispatch == d.dispatch and index >= 0 and start_ns:
                    if loop.clock.monotonic_ns() - start_ns > limit_s * 1e9 + LOOK_NS:
                        self._timeouts[d.worker] = (dispatch, index)
                        loop.backend.kill(d.worker)
        for slot in loop.placement.workers.values():
            if slot.limit_s is None or slot.worker in self._timeouts:
                continue
            # It is still at what was taken back from it, and what it was given since waits behind that.
            dispatch, index, start_ns = loop.backend.running(slot.worker)
            if 0 < dispatch <= slot.handed_back and index >= 0 and start_ns:
                if loop.clock.monotonic_ns() - start_ns > slot.limit_s * 1e9 + LOOK_NS:
                    slot.limit_s = None
                    loop.backend.kill(slot.worker)
