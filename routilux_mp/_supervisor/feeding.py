"""Giving out work: which job gets which worker, and how a worker comes to be free for whom.

Not here: what may run now (the core's ``select``), how many fit (``placement``), how workers begin and end
(``staff``). The rule it owns: whoever was turned away is looked at again when a worker is free for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .._core import asking, select
from .._core.batch import Batch
from .._core.effects import Revoke, Work
from .._core.stimuli import Capacity, HandedBack
from ..errors import CheckpointDamaged, CheckpointFormat, KeyUnavailable, SignatureInvalid, StorageError
from .live import LiveJob
from .placement import WorkerSlot

if TYPE_CHECKING:
    from .loop import Loop

Introduce = Callable[[LiveJob, WorkerSlot], None]
ReadBatch = Callable[[LiveJob, Batch], bytes]

#: What was read is not what was written: trying again would read the same.
_HOPELESS = (CheckpointDamaged, CheckpointFormat, SignatureInvalid, KeyUnavailable)
#: Between two tries to read what the file system does not give now.
READ_AGAIN_NS = 1_000_000_000


class Feeding:
    """Called by the loop, in its thread."""

    def __init__(self, loop: Loop, introduce: Introduce, read_batch: ReadBatch) -> None:
        self._loop = loop
        self._introduce = introduce
        self._read_batch = read_batch
        self._dispatch_number = 0
        self._turns = 0

    def give_in_turn(self, now: int) -> None:
        """Look at every job that something happened to; another one begins each time, so that none starves."""
        loop = self._loop
        touched = loop.attention.take_touched()
        self._turns += 1
        first = self._turns % len(touched) if touched else 0
        for job_id in touched[first:] + touched[:first]:
            live = loop.jobs.get(job_id)
            if live is not None:
                loop.alone(live, self._give, live, now)
        for slot in loop.placement.workers.values():
            if slot.is_yielding and not slot.load:
                slot.is_yielding = False  # whoever wanted it has had its turn, and does not want it any more
                self.touch_code(slot.code_id)

    def introduce_anew(self, live: LiveJob) -> None:
        """Workers that know the job are told of it again: something about it has changed."""
        for slot in self._loop.placement.workers.values():
            if live.job.job_id in slot.introduced:
                self._introduce(live, slot)

    def warm_up(self, live: LiveJob) -> None:
        """Workers of a flow start side by side, the entry's first."""
        placement = self._loop.placement
        topology = live.job.topology
        order = sorted(range(len(topology.routines)), key=lambda r: (r != live.job.entry, -topology.depth[r]))
        for number in order:
            routine = topology.routines[number].routine_id
            if placement.is_full(live.code_id):
                return
            if not placement.bound(live.code_id, routine):
                self._loop.staff.start(live.code_id, routine)

    def touch_code(self, code_id: str) -> None:
        """A worker of this code is free: every job that could use it is looked at."""
        loop = self._loop
        for job_id in loop.attention.hungry:
            live = loop.jobs[job_id]
            if live.code_id == code_id or loop.placement.is_full(live.code_id):
                loop.attention.touch(job_id)

    def hand_back(self, live: LiveJob, worker: int, now: int) -> None:
        """The worker drops whatever it has; all its jobs get their work back."""
        loop = self._loop
        slot = loop.placement.workers.get(worker)
        if slot is None:
            return
        loop.backend.send(worker, Revoke(worker, slot.last_dispatch))
        number = live.job.topology.index_of(slot.routine)
        slot.handed_back = slot.last_dispatch
        slot.limit_s = None if number is None else live.job.topology.routines[number].timeout_s
        for job_id in sorted(loop.placement.handed_back(slot, now)):
            other = loop.jobs.get(job_id)
            if other is not None and other is not live:
                loop.happen(other, HandedBack(worker), now)

    # -- inside -------------------------------------------------------------------------------

    def _give(self, live: LiveJob, now: int) -> None:
        loop = self._loop
        loop.attention.hungry.pop(live.job.job_id, None)
        if loop.is_draining or live.blocked is not None or live.is_doubted or now < live.rests_until_ns:
            return
        if loop.is_ahead(live):
            return  # the commit under way will have it looked at again
        wanted = select.wanted(live.job, now)
        served: set[str] | None = None  # once there is no worker for who has none: the routines that have some
        for number in wanted:
            if served is not None and live.job.topology.routines[number].routine_id not in served:
                continue  # of a thousand that wait for one, one asks for it
            if not self._feed(live, number, now) and not self._make_room(live, number) and served is None:
                served = loop.placement.served(live.code_id)
        if any(self._is_hungry(live, n) for n in wanted):
            loop.attention.hungry[live.job.job_id] = None

    def _is_hungry(self, live: LiveJob, number: int) -> bool:
        """Something of this routine was not given: it would be looked at too late otherwise."""
        routine = live.job.routines[number]
        if number in live.job.topology.custom and not routine.asking and any(routine.slots):
            return True
        return bool(routine.ready or routine.special)

    def _feed(self, live: LiveJob, number: int, now: int) -> bool:
        """Give as much of this routine as workers may have. False when it needs a worker and has none."""
        loop, job = self._loop, live.job
        spec = job.topology.routines[number]
        routine = job.routines[number]
        while True:
            holders = {d.worker for d in routine.dispatches.values()}
            slot = loop.placement.candidate(live.code_id, spec.routine_id, holders, spec.workers)
            if slot is None:
                break
            may_ask = spec.workers == 1 or number not in job.topology.custom
            if not may_ask and asking.question(job, number, now) is not None:
                first = min(loop.placement.bound(live.code_id, spec.routine_id), key=lambda one: one.worker)
                may_ask = first is slot or loop.placement.room(first) > 0
                slot = first if may_ask else slot
            self._dispatch_number += 1
            share = loop.placement.share(slot, routine.ready_count)
            stimulus = Capacity(number, slot.worker, self._dispatch_number, share, may_ask)
            work: Work | None = None
            for effect in live.step(stimulus, now, verify=loop.settings.verify):
                if type(effect) is Work:
                    work = effect
            if work is None:
                return True  # nothing of it may run now
            if not self._has_read(live, work, now):
                return True
            if job.job_id not in slot.introduced:
                slot.introduced.add(job.job_id)
                self._introduce(live, slot)
            count = 1 if work.is_group else sum(part.count for part in work.parts)
            loop.backend.send(slot.worker, work, job.job_id)
            size = sum([part.batch.size for part in work.parts])
            loop.placement.gave(slot, work.dispatch, job.job_id, count, size)
            live.is_dirty = True  # what runs now can be seen
            if not (routine.ready or routine.special):
                return True
            if job.topology.strategy == "sequential":
                return True
        holders = {d.worker for d in routine.dispatches.values()}
        return bool(spec.workers and len(holders) >= spec.workers)

    def _has_read(self, live: LiveJob, work: Work, now: int) -> bool:
        """Fetch the payloads that were dropped from memory. False: they cannot be had now, and nothing was given."""
        try:
            for part in work.parts:
                if part.batch.data is None:
                    part.batch.data = self._read_batch(live, part.batch)
        except _HOPELESS:
            raise
        except (StorageError, OSError) as error:
            live.rest(now + READ_AGAIN_NS, f"what is queued cannot be read: {error}")
            self.hand_back(live, work.worker, now)
            self._loop.happen(live, HandedBack(work.worker), now)
            return False
        return True

    def _make_room(self, live: LiveJob, number: int) -> bool:
        """The routine's workers are all busy, or it has none: another one, if the budget allows.

        False when it has none and nobody gets one before a worker that serves another routine is free.
        """
        loop = self._loop
        spec = live.job.topology.routines[number]
        code_id, routine = live.code_id, spec.routine_id
        bound = loop.placement.bound(code_id, routine)
        if spec.workers and len(bound) >= spec.workers:
            return True
        if any(not slot.is_started and not slot.load for slot in bound):
            return True  # one is on its way
        if not loop.placement.is_full(code_id):
            if loop.staff.start(code_id, routine):
                self._feed(live, number, loop.clock.now_ns())
            return True
        if loop.placement.rebind(code_id, routine) is not None:
            self._feed(live, number, loop.clock.now_ns())
            return True
        if bound:
            return True
        idle = loop.placement.idle_of_other_code(code_id)
        if idle is not None:
            idle.is_leaving = True
            loop.backend.stop(idle.worker)
            return True
        self._claim(code_id, routine)
        return False

    def _claim(self, code_id: str, routine: str) -> None:
        """A routine has work and no worker: one that serves another routine is freed for it."""
        loop = self._loop
        yielding = [slot for slot in loop.placement.workers.values() if slot.is_yielding]
        if not yielding:
            slot = loop.placement.victim(code_id, routine)
            if slot is None:
                return
            slot.is_yielding = True
            yielding = [slot]
        for slot in yielding:
            # A generator that waits for room would never end by itself.
            for job_id in loop.placement.jobs_of(slot):
                live = loop.jobs.get(job_id)
                if live and any(d.is_held for d in live.job.dispatches.values() if d.worker == slot.worker):
                    loop.backend.send(slot.worker, Revoke(slot.worker, slot.last_dispatch))
