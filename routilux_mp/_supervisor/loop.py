"""The loop: drain, step, commit, perform. One turn at a time, in one thread, on whatever clock it is given.

The rule it owns: an effect that somebody could notice is performed only when the records that
cause it stand. Work is safe by itself (the core gives out only what stands); views wait for their
commit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Literal

from .._core import policy, select
from .._core.batch import Batch
from .._core.effects import Effect, Ended, GoOn, Kill, Revoke, Work
from .._core.stimuli import Capacity, Fail, Failure, HandedBack, Stands, Stimulus, Tick, WorkerLost
from .._storage.codec import encode_snapshot
from ..backends.base import Backend, CodeReady, CodeRefused, Died, Event, Forget, Printed, Report, Started
from ..errors import BackendError, Fenced, HandedOver, OutcomeUnknown, StorageBlocked, StorageError
from ..settings import Settings
from .attention import Attention
from .clock import Clock
from .committer import Committer
from .live import LiveJob, NullTenure, Tenure
from .outputs import outputs_of, put_in_place
from .placement import Placement, WorkerSlot

if TYPE_CHECKING:
    from .tenure import Keeper

log = logging.getLogger(__name__)

Introduce = Callable[[LiveJob, WorkerSlot], None]
#: Makes (flow.json or None, job_state.json); called beside the loop, since it opens users' values.
MakeViews = Callable[[], tuple[bytes | None, bytes]]
#: So many workers in a row died before they did anything with their work: it would go on for ever.
SILENT_DEATHS_MAX = 10
#: Commits between two looks at the memory that queued payloads take.
SPILL_EVERY = 32
#: The views of a running job are written at most this often.
VIEWS_INTERVAL_NS = 5_000_000_000
HOUSEKEEPING = "\0housekeeping"
LAST_VIEWS = "\0last views"


class Loop:
    def __init__(
        self, settings: Settings, backend: Backend, committer: Committer, clock: Clock, *,
        introduce: Introduce, read_batch: Callable[[LiveJob, Batch], bytes], on_print: Callable[[str, str], None],
        documents: Callable[[LiveJob], MakeViews], workers_max: int,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._backend = backend
        self._committer = committer
        self._clock = clock
        self._introduce = introduce
        self._read_batch = read_batch
        self._print = on_print
        self._documents = documents
        self.placement = Placement(workers_max, settings.worker_ahead_ms)
        self.jobs: dict[str, LiveJob] = {}
        self.commands: deque[Callable[[], None]] = deque()
        self.code_refused: dict[str, str] = {}
        self.code_ready: set[str] = set()
        self.on_code: Callable[[str], None] = lambda code_id: None
        self.is_draining = False
        self.keeper: Keeper | None = None  # of jobs that are kept on disk
        self._last_views = 0  # of jobs that were handed over, on their way
        self._dispatch_number = 0
        self._attention = Attention()
        self._turns = 0
        self._timeouts: dict[int, tuple[int, int]] = {}  # worker killed for exceeding -> (dispatch, index)
        self._silent_deaths = 0

    # -- one turn -----------------------------------------------------------------------------

    def turn(self, timeout_s: float | None) -> None:
        """Wait for something to happen, let it happen, and do what follows."""
        events = self._backend.poll(self._wait(timeout_s))
        now = self._clock.now_ns()
        while self.commands:
            self.commands.popleft()()
        for event in events:
            self._on_event(event, now)
        if self.keeper is not None:
            self.keeper.turn(now)
        self._timers(now)
        finished = self._committer.finished()
        while True:
            for key, error in finished:
                self._on_finished(key, error, now)
            self._give_work_in_turn(now)
            self._settle(now)
            # A commit that stands at once lets more happen at once.
            finished = self._committer.finished()
            if not finished:
                return

    def add(self, live: LiveJob, stimulus: Stimulus | None) -> None:
        """Take a job in; ``stimulus``: what begins it."""
        self.jobs[live.job.job_id] = live
        if self.keeper is not None:
            self.keeper.keep(live)
        if stimulus is not None:
            self.happen(live, stimulus, self._clock.now_ns())
        self._attention.touch(live.job.job_id)
        if any(spec.timeout_s for spec in live.job.topology.routines):
            self._attention.limited[live.job.job_id] = None
        self._warm_up(live)

    def happen(self, live: LiveJob, stimulus: Stimulus, now: int) -> None:
        """Step one job and perform what it asks for."""
        for effect in live.step(stimulus, now, verify=self._settings.verify):
            self._perform(live, effect, now)
        self._attention.touch(live.job.job_id)
        due_ns = _earliest(
            select.next_due_ns(live.job, now), policy.next_due_ns(live.job, now), _grace_ends(live, now),
            live.execution_deadline_ns,
            live.job.ends_after_ns if live.job.ends_after_ns > now else 0,
        )  # fmt: skip
        self._attention.set_due(live.job.job_id, due_ns)

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
            self._attention.touch(job_id)
        for slot in self.placement.workers.values():
            if not self.placement.jobs_of(slot).isdisjoint(job_ids):
                self._backend.send(slot.worker, Revoke(slot.worker, slot.last_dispatch))

    def set_lease(self, deadline_ns: int) -> None:
        """No worker starts anything after this time (CLOCK_MONOTONIC)."""
        self._backend.set_lease(deadline_ns)

    @property
    def is_quiet(self) -> bool:
        """Nothing is running and everything is on the disk."""
        return not self._last_views and all(
            not live.job.dispatches and not live.records and live.in_flight is None and not live.is_sealing
            for live in self.jobs.values()
        )

    # -- what happened ------------------------------------------------------------------------

    def _on_event(self, event: Event, now: int) -> None:
        match event:
            case Report(worker, completion, job_id):
                self._silent_deaths = 0
                slot = self.placement.workers.get(worker)
                if slot is not None:
                    self.placement.reported(
                        slot, completion.dispatch, completion.done, completion.is_last, completion.busy_ns, now
                    )
                live = self.jobs.get(job_id)
                if live is not None:
                    self.happen(live, completion, now)
                if slot is not None and (completion.is_last or not slot.load):
                    self._touch_code(slot.code_id)
            case Printed(_, stream, text):
                self._print(stream, text)
            case Started(worker, pid):
                slot = self.placement.workers.get(worker)
                if slot is not None:
                    slot.is_started, slot.pid = True, pid
                    self._touch_code(slot.code_id)
            case Died():
                self._on_died(event, now)
            case CodeReady(code_id):
                self.code_ready.add(code_id)
                self.on_code(code_id)
            case CodeRefused(code_id, message, routine_id):
                self.code_refused[code_id] = f"Routine '{routine_id}': {message}" if routine_id else message
                self.on_code(code_id)

    def _on_died(self, event: Died, now: int) -> None:
        worker, how = event
        slot = self.placement.workers.pop(worker, None)
        if slot is None:
            return
        dispatch, index, _ = self._backend.running(worker)
        timed_out = self._timeouts.pop(worker, None)
        failure: Failure | None = None
        if timed_out is not None:
            dispatch, index = timed_out
            failure = Failure("timeout", "ActivationTimeout", f"the handler ran longer than timeout_s; {how.report}")
        elif not how.is_blameless:
            failure = Failure("crash", "WorkerCrashed", how.report)
            if index < 0 and slot.load:
                self._silent_deaths += 1  # it had work and nothing was running: nobody can be charged
        for job_id in sorted(slot.introduced):  # each of them remembers what state this worker has
            live = self.jobs.get(job_id)
            if live is not None:
                self.happen(live, WorkerLost(worker, dispatch, index, failure), now)
        if self._silent_deaths >= SILENT_DEATHS_MAX:
            self._give_up_code(slot.code_id, how.report, now)
        for job_id in self.jobs:
            self._attention.touch(job_id)  # its place in the budget is anybody's now

    def _give_up_code(self, code_id: str, detail: str, now: int) -> None:
        self._silent_deaths = 0
        for live in list(self.jobs.values()):
            if live.code_id == code_id:
                self.happen(live, Fail(f"worker processes die before they begin with their work: {detail}"), now)

    def _on_finished(self, key: str, error: BaseException | None, now: int) -> None:
        if key == HOUSEKEEPING:
            return
        if key == LAST_VIEWS:
            self._last_views -= 1
            return
        live = self.jobs.get(key)
        if live is None:
            return
        self._attention.touch(key)
        if isinstance(error, StorageBlocked):
            live.retry_at_ns = now + 200_000_000
            if live.blocked is None:
                log.warning("job %s is blocked: %s", key, error)
                live.show_blocked((str(error), now))
            return
        if error is not None:
            self._lose(live, error, now)
            return
        if isinstance(live.retry, Commit) and live.retry.has_rolled:
            self._begin_epoch(live)
        if live.blocked is not None:
            live.show_blocked(None)
        live.retry = None
        if live.is_sealing:
            self._finish(live)
            return
        assert live.in_flight is not None
        number = live.in_flight
        live.stands(number)
        if live.is_confirming:
            live.is_doubted = live.is_confirming = False
        if self.keeper is not None:
            self.keeper.stands(live, number)
        self.happen(live, Stands(number), now)

    def _begin_epoch(self, live: LiveJob) -> None:
        """The job has rolled: its past is put away, and workers put blobs where this epoch keeps them."""
        self._committer.submit(HOUSEKEEPING, live.tenure.housekeep)
        for slot in self.placement.workers.values():
            if live.job.job_id in slot.introduced:
                self._introduce(live, slot)

    def _lose(self, live: LiveJob, error: BaseException, now: int) -> None:
        """Give the job up: nothing more is written, nothing more is started."""
        log.error("job %s is no longer ours: %s", live.job.job_id, error)
        for slot in list(self.placement.workers.values()):
            if live.job.job_id in self.placement.jobs_of(slot):
                self._backend.kill(slot.worker)
        known = isinstance(error, (Fenced, OutcomeUnknown))
        live.lose(error if known else BackendError(f"job {live.job.job_id}: {error}"))
        self._remove(live)

    def _finish(self, live: LiveJob) -> None:
        if live.is_leaving and not live.job.is_terminal:
            live.lose(HandedOver(f"job {live.job.job_id} was handed over; resume it to go on here"))
            # After the SEAL: whoever waits for the job need not wait for what people look at.
            self._last_views += 1
            self._committer.submit(LAST_VIEWS, Views(live, self._documents(live), self._clock))
        live.is_finished = True
        self._remove(live)
        with live.changed:
            live.changed.notify_all()

    def _remove(self, live: LiveJob) -> None:
        job_id = live.job.job_id
        del self.jobs[job_id]
        self._attention.forget(job_id)
        if self.keeper is not None:
            self.keeper.let_go(live)
        live.tenure.close()
        for slot in self.placement.workers.values():
            if job_id in slot.introduced:
                slot.introduced.discard(job_id)
                self._backend.send(slot.worker, Forget(job_id))

    # -- what must be done --------------------------------------------------------------------

    def _perform(self, live: LiveJob, effect: Effect, now: int) -> None:
        match effect:
            case Work():
                raise AssertionError("work is asked for in _give_work only")
            case GoOn(worker, _):
                self._backend.send(worker, effect)
            case Revoke(worker, 0):
                self._hand_back(live, worker, now)
            case Revoke(worker, _):
                self._backend.send(worker, effect)
            case Kill(worker):
                self._backend.kill(worker)
            case Ended():
                pass  # seen by _commit once the record stands

    def _hand_back(self, live: LiveJob, worker: int, now: int) -> None:
        """The worker drops whatever it has; all its jobs get their work back."""
        slot = self.placement.workers.get(worker)
        if slot is None:
            return
        self._backend.send(worker, Revoke(worker, slot.last_dispatch))
        number = live.job.topology.index_of(slot.routine)
        slot.handed_back = slot.last_dispatch
        slot.limit_s = None if number is None else live.job.topology.routines[number].timeout_s
        for job_id in sorted(self.placement.handed_back(slot, now)):
            other = self.jobs.get(job_id)
            if other is not None and other is not live:
                self.happen(other, HandedBack(worker), now)

    def _settle(self, now: int) -> None:
        """Commit, publish and seal what can be."""
        unsettled = self._attention.unsettled
        for job_id in list(unsettled):
            live = self.jobs.get(job_id)
            if live is not None:
                self._commit(live, now)
            if live is None or not live.is_unsettled:
                unsettled.pop(job_id, None)

    def _commit(self, live: LiveJob, now: int) -> None:
        if live.is_sealing or live.in_flight is not None:
            if live.retry is not None and live.blocked is not None and now >= live.retry_at_ns > 0:
                live.retry_at_ns = 0
                self._committer.submit(live.job.job_id, live.retry)
            return
        if live.records or live.is_doubted:
            live.is_confirming = live.is_doubted
            outputs = list(outputs_of(live.records))
            number, frames = live.take_commit(now)
            if number % SPILL_EVERY == 0:
                live.spill(self._settings.queue_memory_bytes_max)
            tenure = live.tenure
            snapshot: bytes | None = None
            if tenure.should_roll(64 * live.job.pending_count() + 1024):
                snapshot = encode_snapshot(live.job)
            unused = live.unused_blobs() if snapshot is not None else []
            live.retry = Commit(tenure, frames, snapshot, outputs, unused)
            self._committer.submit(live.job.job_id, live.retry)
        elif live.publish_if_quiet(now):
            if live.job.is_terminal:
                live.is_sealing = True
                live.retry = Seal(live.tenure, self._documents(live), "ended")
                self._committer.submit(live.job.job_id, live.retry)
            elif self._may_leave(live):
                live.is_leaving = live.is_sealing = True
                live.retry = Seal(live.tenure, self._documents(live), "handover")
                self._committer.submit(live.job.job_id, live.retry)
            elif live.memory is None and self._wants_views(live, now):
                self._committer.submit(HOUSEKEEPING, Views(live, self._documents(live), self._clock))

    def _may_leave(self, live: LiveJob) -> bool:
        """It was asked for, and nothing of the job runs. (Everything is durable when this is asked.)"""
        is_offered = live.job.is_offered and live.job.status == "paused"
        return (live.is_leaving or is_offered) and not live.job.dispatches and live.memory is None

    def _wants_views(self, live: LiveJob, now: int) -> bool:
        """The files that people open follow every change of status, and a busy job now and then."""
        if live.is_writing_views:
            return False
        if live.view.status != live.shown_status:
            return True
        if live.view is live.shown_view:
            return False
        if now >= live.show_again_ns > 0:
            return True
        live.show_again_ns = live.show_again_ns or now + VIEWS_INTERVAL_NS
        self._attention.show_at(live.job.job_id, live.show_again_ns)
        return False

    # -- giving out work ----------------------------------------------------------------------

    def _give_work_in_turn(self, now: int) -> None:
        """Look at every job that something happened to; another one begins each time, so that none starves."""
        touched = self._attention.take_touched()
        self._turns += 1
        first = self._turns % len(touched) if touched else 0
        for job_id in touched[first:] + touched[:first]:
            live = self.jobs.get(job_id)
            if live is not None:
                self._give_work(live, now)
        for slot in self.placement.workers.values():
            if slot.is_yielding and not slot.load:
                slot.is_yielding = False  # whoever wanted it has had its turn, and does not want it any more
                self._touch_code(slot.code_id)

    def _give_work(self, live: LiveJob, now: int) -> None:
        self._attention.hungry.pop(live.job.job_id, None)
        if self.is_draining or live.blocked is not None or live.is_doubted:
            return
        wanted = select.wanted(live.job, now)
        for number in wanted:
            if not self._feed(live, number, now):
                self._make_room(live, number)
        if any(live.job.routines[n].ready or live.job.routines[n].special for n in wanted):
            self._attention.hungry[live.job.job_id] = None

    def _feed(self, live: LiveJob, number: int, now: int) -> bool:
        """Give as much of this routine as workers may have. False when it needs a worker and has none."""
        job = live.job
        spec = job.topology.routines[number]
        routine = job.routines[number]
        while True:
            holders = {d.worker for d in routine.dispatches.values()}
            slot = self.placement.candidate(live.code_id, spec.routine_id, holders, spec.workers)
            if slot is None:
                break
            self._dispatch_number += 1
            stimulus = Capacity(number, slot.worker, self._dispatch_number, self.placement.room(slot))
            work: Work | None = None
            for effect in live.step(stimulus, now, verify=self._settings.verify):
                if type(effect) is Work:
                    work = effect
            if work is None:
                return True  # nothing of it may run now
            if job.job_id not in slot.introduced:
                slot.introduced.add(job.job_id)
                self._introduce(live, slot)
            count = 1 if work.is_group else sum(part.count for part in work.parts)
            for part in work.parts:
                if part.batch.data is None:
                    part.batch.data = self._read_batch(live, part.batch)
            self._backend.send(slot.worker, work, job.job_id)
            self.placement.gave(slot, work.dispatch, job.job_id, count)
            live.is_dirty = True  # what runs now can be seen
            if not (routine.ready or routine.special):
                return True
            if job.topology.strategy == "sequential":
                return True
        holders = {d.worker for d in routine.dispatches.values()}
        return bool(spec.workers and len(holders) >= spec.workers)

    def _make_room(self, live: LiveJob, number: int) -> None:
        """The routine's workers are all busy, or it has none: another one, if the budget allows."""
        spec = live.job.topology.routines[number]
        code_id, routine = live.code_id, spec.routine_id
        bound = self.placement.bound(code_id, routine)
        if spec.workers and len(bound) >= spec.workers:
            return
        if any(not slot.is_started and not slot.load for slot in bound):
            return  # one is on its way
        if not self.placement.is_full(code_id):
            self._start(code_id, routine)
            self._feed(live, number, self._clock.now_ns())
            return
        if self.placement.rebind(code_id, routine) is not None:
            self._feed(live, number, self._clock.now_ns())
            return
        if bound:
            return
        idle = self.placement.idle_of_other_code(code_id)
        if idle is not None:
            idle.is_leaving = True
            self._backend.stop(idle.worker)
            return
        self._claim(code_id, routine)

    def _claim(self, code_id: str, routine: str) -> None:
        """A routine has work and no worker: one that serves another routine is freed for it."""
        yielding = [slot for slot in self.placement.workers.values() if slot.is_yielding]
        if not yielding:
            slot = self.placement.victim(code_id, routine)
            if slot is None:
                return
            slot.is_yielding = True
            yielding = [slot]
        for slot in yielding:
            # A generator that waits for room would never end by itself.
            for job_id in self.placement.jobs_of(slot):
                live = self.jobs.get(job_id)
                if live and any(d.is_held for d in live.job.dispatches.values() if d.worker == slot.worker):
                    self._backend.send(slot.worker, Revoke(slot.worker, slot.last_dispatch))

    def _start(self, code_id: str, routine: str) -> WorkerSlot:
        slot = self.placement.new(code_id, routine, self._clock.now_ns())
        self._backend.start(slot.worker, code_id)
        return slot

    def _warm_up(self, live: LiveJob) -> None:
        """Workers of a flow start side by side, the entry's first."""
        topology = live.job.topology
        order = sorted(range(len(topology.routines)), key=lambda r: (r != live.job.entry, -topology.depth[r]))
        for number in order:
            routine = topology.routines[number].routine_id
            if self.placement.is_full(live.code_id):
                return
            if not self.placement.bound(live.code_id, routine):
                self._start(live.code_id, routine)

    def _touch_code(self, code_id: str) -> None:
        """A worker of this code is free: every job that could use it is looked at."""
        for job_id in self._attention.hungry:
            live = self.jobs[job_id]
            if live.code_id == code_id or self.placement.is_full(live.code_id):
                self._attention.touch(job_id)

    # -- time ---------------------------------------------------------------------------------

    def _wait(self, timeout_s: float | None) -> float | None:
        """How long to wait for something to happen."""
        if self.commands or self._attention.touched:
            return 0.0
        now = self._clock.now_ns()
        unsettled = [self.jobs[job_id] for job_id in self._attention.unsettled if job_id in self.jobs]
        due = _earliest(*self._attention.times_ns(), *(live.retry_at_ns for live in unsettled))
        if self._attention.limited or any(live.is_dirty for live in unsettled):
            due = _earliest(due, now + 20_000_000)
        if self.placement.workers:
            due = _earliest(due, now + 1_000_000_000)
        if not due:
            return timeout_s
        wait = max(0.0, (due - now) / 1e9)
        return wait if timeout_s is None else min(wait, timeout_s)

    def _timers(self, now: int) -> None:
        for job_id in self._attention.take_due(now):
            live = self.jobs[job_id]
            if live.execution_deadline_ns and live.execution_deadline_ns <= now:
                live.execution_deadline_ns = 0
                self.happen(live, Fail("execution_timeout is over"), now)
            else:
                self.happen(live, Tick(), now)
        self._check_timeouts()
        before = now - int(self._settings.worker_idle_s * 1e9)
        for slot in self.placement.idle_since(before):
            slot.is_leaving = True
            self._backend.stop(slot.worker)

    def _check_timeouts(self) -> None:
        for job_id in self._attention.limited:
            live = self.jobs[job_id]
            for d in live.job.dispatches.values():
                limit_s = live.job.topology.routines[d.routine].timeout_s
                if limit_s is None or d.worker in self._timeouts:
                    continue
                dispatch, index, start_ns = self._backend.running(d.worker)
                if dispatch == d.dispatch and index >= 0 and start_ns:
                    if self._clock.monotonic_ns() - start_ns > limit_s * 1e9:
                        self._timeouts[d.worker] = (dispatch, index)
                        self._backend.kill(d.worker)
        for slot in self.placement.workers.values():
            if slot.limit_s is None or slot.worker in self._timeouts:
                continue
            # It is still at what was taken back from it, and what it was given since waits behind that.
            dispatch, index, start_ns = self._backend.running(slot.worker)
            if 0 < dispatch <= slot.handed_back and index >= 0 and start_ns:
                if self._clock.monotonic_ns() - start_ns > slot.limit_s * 1e9:
                    slot.limit_s = None
                    self._backend.kill(slot.worker)


class Commit:
    """One commit, and the roll that may go with it; done over and over until nothing blocks it."""

    def __init__(
        self, tenure: Tenure, frames: list[bytes], snapshot: bytes | None, outputs: list[tuple[str, str]],
        unused_blobs: list[str],
    ) -> None:  # fmt: skip
        self._tenure = tenure
        self._frames: list[bytes] | None = frames
        self._outputs = outputs
        self._snapshot = snapshot
        self._unused_blobs = unused_blobs
        self.has_rolled = False

    def __call__(self) -> None:
        if self._frames is not None:
            self._tenure.commit(self._frames)
            self._frames = None  # it stands: a roll that is blocked must not commit it twice
            put_in_place(self._outputs)  # before the roll: a successor looks for them behind the snapshot only
        if self._snapshot is not None:
            if self._unused_blobs:
                self._tenure.release_blobs(self._unused_blobs)  # before the roll: the list goes with its snapshot
                self._unused_blobs = []
            self._tenure.roll(self._snapshot)
            self.has_rolled = True


class Seal:
    """The end of a job, or of its time here: its views show it, then the epoch is sealed."""

    def __init__(self, tenure: Tenure, make: MakeViews, reason: Literal["handover", "ended"]) -> None:
        self._tenure = tenure
        self._make = make
        self._reason = reason

    def __call__(self) -> None:
        if not isinstance(self._tenure, NullTenure) and self._reason == "ended":
            self._tenure.write_views(*self._make())
        self._tenure.seal(self._reason)


class Views:
    """Writes the views of a running job, at most a hundredth of the time."""

    def __init__(self, live: LiveJob, make: MakeViews, clock: Clock) -> None:
        self._live = live
        self._make = make
        self._clock = clock
        live.is_writing_views = True
        live.shown_status, live.shown_view = live.view.status, live.view

    def __call__(self) -> None:
        live = self._live
        begin = self._clock.monotonic_ns()
        try:
            live.tenure.write_views(*self._make())
        except StorageError as error:
            log.warning("the views of job %s could not be written: %s", live.job.job_id, error)
        finally:
            took = self._clock.monotonic_ns() - begin
            live.show_again_ns = self._clock.now_ns() + max(VIEWS_INTERVAL_NS, 100 * took)
            live.is_writing_views = False


def _earliest(*times_ns: int) -> int:
    """The earliest of those that are set (not 0); 0 when none is."""
    return min((t for t in times_ns if t), default=0)


def _grace_ends(live: LiveJob, now: int) -> int:
    closing = live.job.closing
    if closing is None or closing[0] == "paused" or not live.job.dispatches:
        return 0
    end = closing[2] + live.job.grace_ns + 1
    return end if end > now else 0  # the workers have been killed: their deaths will be reported
