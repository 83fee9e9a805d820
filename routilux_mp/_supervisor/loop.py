"""The loop: drain, step, commit, perform. One turn at a time, in one thread, on whatever clock it is given.

The rules it owns: an effect that somebody could notice is performed only when the records that cause it
stand (work is safe by itself, since the core gives out only what stands; views wait for their commit); and
what goes wrong with one job ends with that job.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from .._core import policy, select
from .._core.effects import Dropped, Effect, Ended, GoOn, Kill, Revoke, Unreadable, Work
from .._core.stimuli import Stands, Stimulus, Tick
from ..backends.base import Backend, CodeReady, CodeRefused, Died, Event, Forget, Printed, Report, Started
from ..errors import (
    BackendError,
    CheckpointDamaged,
    Fenced,
    KeyUnavailable,
    OutcomeUnknown,
    SignatureInvalid,
)  # fmt: skip
from ..settings import Settings
from .attention import Attention
from .clock import Clock
from .commits import Commits, MakeViews
from .committer import Committer
from .feeding import Feeding, Introduce, ReadBatch
from .live import LiveJob
from .pace import Pace
from .placement import Placement, WorkerSlot
from .staff import Staff
from .unreadable import error_of

if TYPE_CHECKING:
    from .tenure import Keeper

log = logging.getLogger(__name__)

#: Errors that say by themselves what has become of a job.
_KNOWN = (BackendError, Fenced, OutcomeUnknown, CheckpointDamaged, SignatureInvalid, KeyUnavailable)


class Loop:
    """All jobs of one supervisor. Everything but ``commands`` belongs to the thread that calls :meth:`turn`."""

    def __init__(
        self, settings: Settings, backend: Backend, committer: Committer, clock: Clock, *,
        introduce: Introduce, read_batch: ReadBatch, on_print: Callable[[str, str], None],
        documents: Callable[[LiveJob], MakeViews], workers_max: int, cores: int = 1,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.backend = backend
        self.committer = committer
        self.clock = clock
        self.print = on_print
        self.placement = Placement(workers_max, settings.worker_ahead_ms, cores)
        self.attention = Attention()
        self.feeding = Feeding(self, introduce, read_batch)
        self.staff = Staff(self)
        self.commits = Commits(self, documents)
        self.jobs: dict[str, LiveJob] = {}
        self.pace = Pace(self.jobs, self.placement, clock)
        self.commands: deque[Callable[[], None]] = deque()
        #: Called with what the backend says about code: its id, and why it cannot be loaded or None.
        self.on_code: Callable[[str, str | None, bytes], None] = lambda code_id, refusal, sources: None
        #: Called with what should not have happened, before the job is given up for it.
        self.on_trouble: Callable[[LiveJob, Exception], None] = _log_trouble
        self.is_draining = False
        self.keeper: Keeper | None = None  # of jobs that are kept on disk

    # -- one turn -----------------------------------------------------------------------------

    def turn(self, timeout_s: float | None) -> None:
        """Wait for something to happen, let it happen, and do what follows."""
        events = self.backend.poll(self._wait(timeout_s), self.pace.pause_s())
        self.pace.turned()
        now = self.clock.now_ns()
        while self.commands:
            self.commands.popleft()()
        for event in events:
            self._on_event(event, now)
        if self.keeper is not None:
            self.keeper.turn(now)
        self._timers(now)
        finished = self.committer.finished()
        while True:
            for key, error in finished:
                self.commits.finished(key, error, now)
            self.feeding.give_in_turn(now)
            self.commits.settle(now)
            # A commit that stands at once lets more happen at once.
            finished = self.committer.finished()
            if not finished:
                return

    def add(self, live: LiveJob, stimulus: Stimulus | None) -> None:
        """Take a job in; ``stimulus``: what begins it."""
        self.jobs[live.job.job_id] = live
        self.pace.came()
        if self.keeper is not None:
            self.keeper.keep(live)
        if stimulus is not None:
            self.happen(live, stimulus, self.clock.now_ns())
        if live.job.job_id not in self.jobs:
            return  # it could not even begin
        self.commits.begin(live)
        self.attention.touch(live.job.job_id)
        if any(spec.timeout_s for spec in live.job.topology.routines):
            self.attention.limited[live.job.job_id] = None
        self.feeding.warm_up(live)

    def add_begun(self, live: LiveJob, number: int, owed: Sequence[Effect]) -> None:
        """Take in a job whose first records stand, as its commit ``number``; ``owed``: what follows from them."""
        self.alone(live, self.add, live, Stands(number))
        for effect in owed:
            self.alone(live, self._perform, live, effect, self.clock.now_ns())

    def happen(self, live: LiveJob, stimulus: Stimulus, now: int) -> None:
        """Step one job and perform what it asks for."""
        self.alone(live, self._step, live, stimulus, now)
        if live.lost is not None:
            return
        job_id = live.job.job_id
        self.attention.touch(job_id)
        due_ns = _earliest(
            select.next_due_ns(live.job, now), policy.next_due_ns(live.job, now), _grace_ends(live, now),
            live.job.ends_after_ns if live.job.ends_after_ns > now else 0,
            live.rests_until_ns if live.rests_until_ns > now else 0,
        )  # fmt: skip
        if type(stimulus) is Tick or not self.attention.is_due(job_id, now):
            self.attention.set_due(job_id, due_ns)  # else its time has come, and it has not been told yet

    def _step(self, live: LiveJob, stimulus: Stimulus, now: int) -> None:
        for effect in live.step(stimulus, now, verify=self.settings.verify):
            self._perform(live, effect, now)

    def alone(self, live: LiveJob, act: Callable[..., object], *arguments: object) -> None:
        """Do something for one job: its trouble is no other's, whatever it is."""
        try:
            act(*arguments)
        except Exception as error:  # the wall between jobs: there is no other
            self.give_up(live, error)

    def forget_codes(self, code_ids: Collection[str]) -> list[str]:
        """Forget those of these codes that nothing here uses; they can be loaded again."""
        used = {live.code_id for live in self.jobs.values()}
        used.update(slot.code_id for slot in self.placement.workers.values())
        forgotten = [code_id for code_id in code_ids if code_id not in used]
        for code_id in forgotten:
            self.placement.forget(code_id)
            self.staff.forget(code_id)
            self.backend.unload(code_id)
        return forgotten

    def drain(self) -> None:
        """Dispatch nothing more; what runs may finish."""
        self.is_draining = True
        for live in self.jobs.values():
            live.job.is_draining = True
            live.is_leaving = live.memory is None  # each is sealed as soon as it is quiet
        self.revoke(self.jobs)

    def revoke(self, job_ids: Collection[str]) -> None:
        """Workers start nothing more of what they were given of these jobs; what runs may finish."""
        for job_id in job_ids:
            self.attention.touch(job_id)
        for slot in self.placement.workers.values():
            if not self.placement.jobs_of(slot).isdisjoint(job_ids):
                self._recall(slot, slot.last_dispatch)

    def _recall(self, slot: WorkerSlot, dispatch: int) -> None:
        """What runs there up to this dispatch may finish; the rest comes back."""
        self.placement.recall(slot, dispatch)
        self.backend.send(slot.worker, Revoke(slot.worker, dispatch))

    def is_ahead(self, live: LiveJob) -> bool:
        """So much has happened that the disk does not have yet, or for so long, that nothing more is to be started."""
        return live.volatile_bytes > self.settings.commit_memory_bytes_max or self.commits.is_silent(live)

    def answer(self, live: LiveJob) -> None:
        """Generators that have waited for the disk go on."""
        for answer in live.held_answers:
            self.backend.send(answer.worker, answer)
        live.held_answers.clear()

    def show(self, live: LiveJob) -> None:
        """Have a view of the job taken and published, though nothing happens to it."""
        live.is_dirty = True
        if live.job.job_id in self.jobs:
            self.attention.touch(live.job.job_id)

    def set_lease(self, deadline_ns: int) -> None:
        """No worker starts anything after this time (CLOCK_MONOTONIC)."""
        self.backend.set_lease(deadline_ns)

    @property
    def is_quiet(self) -> bool:
        """Nothing is running and everything is on the disk."""
        return not self.commits.last_views and all(
            not live.job.dispatches and not live.records and live.in_flight is None and not live.is_sealing
            for live in self.jobs.values()
        )

    # -- the end of a job's time here ---------------------------------------------------------

    def give_up(self, live: LiveJob, error: Exception) -> None:
        """Something happened that should not have: the job leaves, as its log has it; the others go on."""
        if live.lost is None:
            self.on_trouble(live, error)
            self.lose(live, error)

    def lose(self, live: LiveJob, error: BaseException) -> None:
        """Give the job up: nothing more is written, nothing more is started."""
        job_id = live.job.job_id
        # As text: a log that keeps its records must not keep whatever the error was raised through.
        log.error("job %s is no longer ours: %s", job_id, str(error))
        for slot in list(self.placement.workers.values()):
            if job_id in self.placement.jobs_of(slot):
                self.backend.kill(slot.worker)
        if not isinstance(error, _KNOWN):
            cause, error = error, BackendError(f"job {job_id}: {str(error) or type(error).__name__}")
            error.__cause__ = cause
        live.lose(error)
        self.remove(live)

    def remove(self, live: LiveJob) -> None:
        """The job has left."""
        job_id = live.job.job_id
        if self.jobs.get(job_id) is not live:
            return
        del self.jobs[job_id]
        self.attention.forget(job_id)
        if self.keeper is not None:
            self.keeper.let_go(live)
        self.commits.let_go(live)
        live.handle = None  # from now on the job is here for as long as somebody looks at it
        for slot in self.placement.workers.values():
            if job_id in slot.introduced:
                slot.introduced.discard(job_id)
                self.backend.send(slot.worker, Forget(job_id))

    # -- what happened ------------------------------------------------------------------------

    def _on_event(self, event: Event, now: int) -> None:
        match event:
            case Report(worker, completion, job_id):
                slot = self.placement.workers.get(worker)
                if slot is not None:
                    self.staff.reported(slot.code_id)
                    busy_ns = 0 if completion.answers else completion.busy_ns  # a policy's pace is not its routine's
                    self.placement.reported(
                        slot, completion.dispatch, completion.ended, completion.is_last, busy_ns, now
                    )
                live = self.jobs.get(job_id)
                if live is not None:
                    self.happen(live, completion, now)
                if slot is not None and (completion.is_last or not slot.load):
                    self.feeding.touch_code(slot.code_id)
            case Printed(_, stream, text):
                self.print(stream, text)
            case Started(worker, pid):
                slot = self.placement.workers.get(worker)
                if slot is not None:
                    slot.is_started, slot.pid = True, pid
                    self.feeding.touch_code(slot.code_id)
            case Died():
                self.staff.died(event, now)
            case CodeReady(code_id, sources):
                self.on_code(code_id, None, sources)
            case CodeRefused(code_id, message, routine_id):
                refusal = f"Routine '{routine_id}': {message}" if routine_id else message
                self.staff.code_is_lost(code_id, refusal, now)
                self.on_code(code_id, refusal, b"")

    # -- what must be done --------------------------------------------------------------------

    def _perform(self, live: LiveJob, effect: Effect, now: int) -> None:
        match effect:
            case Work():
                raise AssertionError("work is asked for by Feeding only")
            case GoOn():
                live.held_answers.append(effect)
                if not self.is_ahead(live):
                    self.answer(live)
            case Revoke(worker, 0):
                self.feeding.hand_back(live, worker, now)
            case Revoke(worker, dispatch):
                slot = self.placement.workers.get(worker)
                if slot is not None:
                    self._recall(slot, dispatch)
            case Kill(worker):
                self.backend.kill(worker)
            case Unreadable():
                error = error_of(effect, live.job.job_id, live.job.topology)
                if error is not None and live.lost is None:
                    self.lose(live, error)
            case Dropped(batches):
                live.blobs.note_unnamed(batches)
            case Ended():
                pass  # seen by Commits once the record stands

    # -- time ---------------------------------------------------------------------------------

    def _wait(self, timeout_s: float | None) -> float | None:
        """How long to wait for something to happen."""
        if self.commands or self.attention.touched:
            return 0.0
        now = self.clock.now_ns()
        unsettled = [self.jobs[job_id] for job_id in self.attention.unsettled if job_id in self.jobs]
        due = _earliest(
            *self.attention.times_ns(),
            *(live.retry_at_ns for live in unsettled),
            self.staff.next_start_ns(),
            *(live.gathers_until_ns for live in unsettled if live.records and not live.is_committing),
        )
        if self.attention.limited or any(live.is_dirty for live in unsettled):
            due = _earliest(due, now + 20_000_000)
        if self.placement.workers or self.commits.are_under_way:
            due = _earliest(due, now + 1_000_000_000)
        if not due:
            return timeout_s
        wait = max(0.0, (due - now) / 1e9)
        return wait if timeout_s is None else min(wait, timeout_s)

    def _timers(self, now: int) -> None:
        for job_id in self.attention.take_due(now):
            live = self.jobs.get(job_id)
            if live is not None:
                self.happen(live, Tick(), now)
        self.staff.turn(now)


def _log_trouble(live: LiveJob, error: Exception) -> None:
    log.error("job %s met what should not happen", live.job.job_id, exc_info=error)


def _earliest(*times_ns: int) -> int:
    """The earliest of those that are set (not 0); 0 when none is."""
    return min((t for t in times_ns if t), default=0)


def _grace_ends(live: LiveJob, now: int) -> int:
    closing = live.job.closing
    if closing is None or closing[0] == "paused" or not live.job.dispatches:
        return 0
    end = closing[2] + live.job.grace_ns + 1
    return end if end > now else 0  # the workers have been killed: their deaths will be reported
