"""Which worker processes there are, what they are for, and how much lies in front of each.

The rule it owns: no worker is given more than ``worker_ahead_ms`` of work by its routine's own
measured pace, so that slow activations go singly and fast ones by the hundred; and every routine
that has work gets a worker in turn, however few there are.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Activations in one dispatch, and in front of one worker, at most.
DISPATCH_COUNT_MAX = 1024
AHEAD_COUNT_MAX = 4096
#: Each of them is looked at whenever another one is given out: what a policy takes goes singly.
AHEAD_DISPATCHES_MAX = 64
#: With so much input in front of it a worker gets nothing more before it has ended some of that.
AHEAD_BYTES_MAX = 4 * 1024 * 1024
#: So many activations in one report are a good sample; and what is known is kept when one takes less time than this.
_MANY = 8
_LONG_NS = 1_000_000
#: A worker that gave everything back, for a failure or a conflict, is given so many, and two more for each that ends:
#: what waits there when the next one fails is sent again.
_FEW = 8
#: Those that take so long go singly.
_SINGLY_NS = 20_000_000


class WorkerSlot:
    """One worker process, from the request to start it until its death is known."""

    __slots__ = ("bytes", "code_id", "ended", "handed_back", "has_measured", "idle_since_ns", "introduced",
                 "is_leaving", "is_started", "is_yielding", "last_dispatch", "limit_s", "load", "outstanding", "pid",
                 "recalled", "routine", "worker")  # fmt: skip

    def __init__(self, worker: int, code_id: str, routine: str, now_ns: int) -> None:
        self.worker = worker
        self.code_id = code_id
        self.routine = routine
        self.pid = 0
        self.is_started = False
        self.is_leaving = False  # told to stop; takes nothing more
        self.is_yielding = False  # gets nothing more until it is idle and can serve another routine
        self.outstanding: dict[int, tuple[str, int]] = {}  # dispatch -> (job, activations not reported)
        self.load = 0  # activations not reported
        self.bytes: dict[int, int] = {}  # dispatch -> what its input weighs, for as long as it is out
        self.last_dispatch = 0
        self.ended: int | None = None  # activations since it gave everything back; None: it never has
        self.recalled = 0  # up to this dispatch it was told to begin nothing more, and what it has not begun comes back
        self.handed_back = 0  # up to this dispatch nobody waits for it; it may still be busy with one of them,
        self.limit_s: float | None = None  # but for no longer than its routine's timeout_s
        self.introduced: set[str] = set()
        self.idle_since_ns = now_ns
        self.has_measured = ""  # the routine whose pace it has told


class Placement:
    """All workers of one runtime."""

    def __init__(self, workers_max: int, ahead_ms: float, cores: int) -> None:
        self.workers_max = workers_max
        self.cores = cores
        self.workers: dict[int, WorkerSlot] = {}
        self.code_max: dict[str, int] = {}  # code -> worker processes it may have at most
        self._ahead_ns = ahead_ms * 1e6
        self._pace_ns: dict[tuple[str, str], float] = {}  # (code, routine) -> time per activation
        self._guessed: set[tuple[str, str]] = set()  # those that are known from first calls only
        self._last_number = 0

    # -- who may take what --------------------------------------------------------------------

    def room(self, slot: WorkerSlot) -> int:
        """Activations that may be given to this worker now."""
        if slot.is_leaving or slot.is_yielding or self._is_recalled(slot):
            return 0
        pace = self._pace_ns.get((slot.code_id, slot.routine))
        if pace is None:
            return 0 if slot.load else 1  # the first one tells how long they take
        if len(slot.outstanding) >= AHEAD_DISPATCHES_MAX or sum(slot.bytes.values()) > AHEAD_BYTES_MAX:
            return 0
        target = 1 + int(self._ahead_ns / max(pace, 1.0))  # one to run, and what waits behind it
        if slot.ended is not None:
            target = min(target, _FEW + 2 * slot.ended)  # it may soon give everything back again
        if pace < _SINGLY_NS and target <= DISPATCH_COUNT_MAX and 2 * slot.load > target:
            return 0  # few large portions: each costs a turn of the loop, a message, and a report at its end
        return min(target - slot.load, DISPATCH_COUNT_MAX, AHEAD_COUNT_MAX - slot.load)

    def _is_recalled(self, slot: WorkerSlot) -> bool:
        """Some of what it has comes back: whatever it was given now would overtake that."""
        return bool(slot.recalled) and next(iter(slot.outstanding), slot.recalled + 1) <= slot.recalled

    def share(self, slot: WorkerSlot, ready: int) -> int:
        """What of so many that wait this worker gets now: its neighbours get theirs, if it is worth waking them."""
        room = self.room(slot)
        if room <= 1 or min(room, ready) * self._pace_ns.get((slot.code_id, slot.routine), 0.0) < _LONG_NS:
            return room
        takers = self.bound(slot.code_id, slot.routine)
        fair = -(-(ready + sum(other.load for other in takers)) // len(takers))
        return min(room, max(1, fair - slot.load))

    def candidate(self, code_id: str, routine: str, holders: set[int], limit: int) -> WorkerSlot | None:
        """The least loaded worker of the routine that has room; one of ``holders`` once they are ``limit``."""
        best: WorkerSlot | None = None
        for slot in self.workers.values():
            if slot.routine != routine or slot.code_id != code_id:
                continue
            if limit and len(holders) >= limit and slot.worker not in holders:
                continue
            if (best is None or slot.load < best.load) and self.room(slot) > 0:
                best = slot
        return best

    def bound(self, code_id: str, routine: str) -> list[WorkerSlot]:
        return [s for s in self.workers.values() if s.routine == routine and s.code_id == code_id and not s.is_leaving]

    def served(self, code_id: str) -> set[str]:
        """The routines of this code that have a worker."""
        return {slot.routine for slot in self.workers.values() if slot.code_id == code_id and not slot.is_leaving}

    def is_full(self, code_id: str) -> bool:
        """No further worker may be started for this code."""
        if len(self.workers) >= self.workers_max:
            return True
        limit = self.code_max.get(code_id, 0)
        return limit > 0 and sum(slot.code_id == code_id for slot in self.workers.values()) >= limit

    def allow(self, code_id: str, workers_max: int, is_fixed: bool) -> None:
        """A flow's own ``max_workers``; it widens the runtime's budget unless that was set."""
        self.code_max[code_id] = workers_max
        if not is_fixed:
            self.workers_max = max(self.workers_max, workers_max)

    def forget(self, code_id: str) -> None:
        """Nothing of this code is there any more."""
        self.code_max.pop(code_id, None)
        for key in [key for key in self._pace_ns if key[0] == code_id]:
            del self._pace_ns[key]
            self._guessed.discard(key)

    def new(self, code_id: str, routine: str, now_ns: int) -> WorkerSlot:
        self._last_number += 1
        slot = WorkerSlot(self._last_number, code_id, routine, now_ns)
        self.workers[slot.worker] = slot
        return slot

    def rebind(self, code_id: str, routine: str) -> WorkerSlot | None:
        """An idle worker of the same code changes to this routine."""
        for slot in self.workers.values():
            if slot.code_id == code_id and not slot.load and slot.routine != routine and not slot.is_leaving:
                slot.routine = routine
                slot.is_yielding = False
                return slot
        return None

    def idle_of_other_code(self, code_id: str) -> WorkerSlot | None:
        for slot in self.workers.values():
            if slot.code_id != code_id and not slot.load and not slot.is_leaving:
                return slot
        return None

    def victim(self, code_id: str, routine: str) -> WorkerSlot | None:
        """A busy worker that is to be free for a routine that has none: from the routine that has most."""
        counts: dict[tuple[str, str], int] = {}
        for slot in self.workers.values():
            counts[(slot.code_id, slot.routine)] = counts.get((slot.code_id, slot.routine), 0) + 1
        choices = [
            s for s in self.workers.values()
            if not (s.is_leaving or s.is_yielding) and (s.code_id, s.routine) != (code_id, routine)
        ]  # fmt: skip
        return max(choices, key=lambda s: counts[(s.code_id, s.routine)], default=None)

    def are_busy(self, workers: Iterable[int], for_ns: int) -> bool:
        """These workers will not run out of work for that time, and are as many as there are cores."""
        busy = 0
        for worker in workers:
            slot = self.workers.get(worker)
            if slot is not None:
                busy += slot.load * self._pace_ns.get((slot.code_id, slot.routine), 0.0) >= for_ns
        return busy >= self.cores

    def busy_ns(self) -> int:
        """For how long every core has work that waits behind what runs, as far as that is known."""
        waits = []
        for slot in self.workers.values():
            key = (slot.code_id, slot.routine)
            if slot.load > 1 and key not in self._guessed:
                waits.append((slot.load - 1) * self._pace_ns.get(key, 0.0))
        return int(sorted(waits)[-self.cores]) if len(waits) >= self.cores else 0

    @property
    def have_cores_of_their_own(self) -> bool:
        """No more workers are busy for a while than there are cores."""
        busy = 0
        for slot in self.workers.values():
            if slot.load:
                busy += slot.load * self._pace_ns.get((slot.code_id, slot.routine), _LONG_NS) >= _LONG_NS
        return busy <= self.cores

    # -- what happened ------------------------------------------------------------------------

    def gave(self, slot: WorkerSlot, dispatch: int, job_id: str, count: int, size: int = 0) -> None:
        slot.outstanding[dispatch] = (job_id, count)
        slot.bytes[dispatch] = size
        slot.load += count
        slot.last_dispatch = dispatch

    def recall(self, slot: WorkerSlot, dispatch: int) -> None:
        """The worker is told to begin nothing more of what it was given up to this dispatch."""
        slot.recalled = max(slot.recalled, dispatch)

    def reported(self, slot: WorkerSlot, dispatch: int, done: int, is_last: bool, busy_ns: int, now_ns: int) -> None:
        entry = slot.outstanding.get(dispatch)
        if entry is None:
            return
        job_id, left = entry
        finished = left if is_last else min(done, left)
        slot.load -= finished
        if slot.ended is not None:
            slot.ended += done
        if is_last:
            del slot.outstanding[dispatch], slot.bytes[dispatch]
        else:
            slot.outstanding[dispatch] = (job_id, left - finished)
        if not slot.load:
            slot.idle_since_ns = now_ns
        if done and busy_ns > 0:
            self._measure(slot, done, busy_ns)

    def _measure(self, slot: WorkerSlot, done: int, busy_ns: int) -> None:
        """Learn from a report; a worker's first call imports and warms up, and counts until there is a better one."""
        key, pace = (slot.code_id, slot.routine), busy_ns / done
        is_first, slot.has_measured = slot.has_measured != slot.routine, slot.routine
        old = self._pace_ns.get(key)
        if old is None:
            self._pace_ns[key] = pace
            self._guessed.add(key)
        elif not is_first:
            if pace < old and (done >= _MANY or key in self._guessed):
                self._pace_ns[key] = pace
            elif pace < old or busy_ns >= _LONG_NS:  # a short call after a pause is slow, and says little
                self._pace_ns[key] = (old + pace) / 2
            self._guessed.discard(key)

    def handed_back(self, slot: WorkerSlot, now_ns: int) -> set[str]:
        """Nothing is in front of this worker any more. Returns the jobs whose work it was."""
        jobs = {job_id for job_id, _ in slot.outstanding.values()}
        slot.ended = 0
        slot.outstanding.clear()
        slot.bytes.clear()
        slot.load = 0
        slot.idle_since_ns = now_ns
        return jobs

    def jobs_of(self, slot: WorkerSlot) -> set[str]:
        return {job_id for job_id, _ in slot.outstanding.values()}

    def idle_since(self, before_ns: int) -> Iterable[WorkerSlot]:
        """Workers that have had nothing to do since ``before_ns``."""
        return [s for s in self.workers.values() if not s.load and not s.is_leaving and s.idle_since_ns < before_ns]
