"""Waiting beside a checkpoint root, and taking over what its owners have left behind.

Not here: how a job is taken over (``supervisor``), who wins (the file system). The rules it owns: a
job is looked at only when something about it can have changed (one that has ended never again, one
that a living owner's heartbeat lists not at all), and whatever keeps one job from being run here is
said once and keeps no other from it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from .._storage.glance import Glance
from .._storage.lease import Sign
from .._storage.owner import OwnerInfo
from .._storage.watch import Watch
from ..errors import CheckpointDamaged, Fenced, JobOwned, NeverBegan, RoutiluxError, StorageError
from .owners import Owners
from .wakeup import Wakeup

if TYPE_CHECKING:
    from .compiled import CompiledFlow
    from .handle import JobHandle
    from .supervisor import Supervisor

log = logging.getLogger(__name__)

#: Take-overs and loads of code that go on side by side.
_THREADS_MAX: Final = 4
#: Polls between two looks at a job that cannot be run here, or is paused.
_PARKED_POLLS: Final = 10
#: Looking for requests to paused jobs takes at most this share of the time, however many of them there are.
_ASKED_SHARE: Final = 0.01
#: Another try at a job that could not be run here: the key or the module may have come.
_RETRY_S: Final = 60.0
#: And when it could not be read: soon, since that may be over at once, then after twice the time, up to this.
_RETRY_STORAGE_S: Final = 5.0
_RETRY_STORAGE_SOON_S: Final = 0.25
#: A SEAL whose writer has not opened the next epoch after this time belongs to a dead one.
_SEALED_S: Final = 2.0
#: The heartbeat of an owner that is gone is deleted after this time: other hosts have read it by then.
_GONE_S: Final = 120.0
#: Codes loaded ahead at most: each one costs memory in the nursery.
_PRELOADED_MAX: Final = 32


class Parked(NamedTuple):
    """A job that was looked at and left alone."""

    place: tuple[int, int]  # epoch and number of its last file then
    look_again_s: float
    #: Not before, unless it has changed. A paused job: not before somebody asks for something new, or has asked.
    try_again_s: float
    is_paused: bool = False
    waits_s: float = 0.0  # until the next try


class Found(NamedTuple):
    """A job that is free, and why."""

    job_id: str
    glance: Glance
    why: str


class Standby:
    """Watches one root with the store, workers and key of one supervisor."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        capacity: int,
        flow_of: Callable[[str], CompiledFlow | None],
        say: Callable[[str], None],
    ) -> None:
        """``capacity``: jobs that go on here at once at most; 0: any number."""
        self._supervisor = supervisor
        self._capacity = capacity
        self._flow_of = flow_of
        self._say = say
        self._poll_s = supervisor.settings.poll_s
        self._wakeup = Wakeup()
        self._owners = Owners(supervisor.store)
        self._ended: set[str] = set()
        self._parked: dict[str, Parked] = {}
        self._said: dict[str, str] = {}
        self._sealed_since: dict[str, tuple[int, int, float]] = {}
        self._preloaded: set[str] = set()
        self._mine: dict[str, JobHandle] = {}
        self._taking: dict[str, threading.Thread] = {}
        #: Requests that were there when a paused job was last looked at closely: they have led to nothing.
        self._heard: dict[str, frozenset[str]] = {}
        self._ask_again_s = 0.0
        self._results: deque[tuple[Found | str, JobHandle | RoutiluxError | Literal["ended", "paused", "loaded"]]] = (
            deque()
        )
        self._is_stopped = False

    def run(self) -> None:
        """Watch until :meth:`stop`. Jobs that were taken over go on in the supervisor after it returns."""
        store = self._supervisor.store
        store.prepare_to_take_over()
        self._supervisor.start()
        self._owners.heartbeats.sweep()
        watch = Watch(store.path, self._wakeup.set, self._poll_s)
        try:
            while not self._is_stopped:
                for path in (store.path, f"{store.path}/.owners"):
                    watch.add(path)
                try:
                    self.look()
                except StorageError as error:
                    log.warning("%s cannot be looked at: %s", store.path, error)
                self._wakeup.wait(self._wait_s())
        finally:
            watch.close()
            for thread in list(self._taking.values()):
                thread.join(self._supervisor.settings.grace_s)
            self._wakeup.close()

    def stop(self) -> None:
        """Make :meth:`run` return; from any thread or signal handler."""
        self._is_stopped = True
        self._wakeup.set()

    # -- looking --------------------------------------------------------------------------------

    def look(self) -> None:
        """One look at the root: take over what is free."""
        self._collect()
        signs = self._owners.heartbeats.look()
        self._forget_gone(signs)
        listed = self._listed(signs)
        offered: dict[str, dict[str, int]] = {}  # job -> tokens of those who have handed it over, and the epoch
        for sign in signs:
            for job_id in sign.offered:
                offered.setdefault(job_id, {})[sign.owner.token] = sign.sealed.get(job_id, 0)
        mine = self._supervisor.loop.jobs
        free: list[Found] = []
        job_ids = self._supervisor.store.job_ids()
        self._forget_deleted(job_ids)
        self._wake_asked()
        for job_id in job_ids:
            if job_id in self._ended or job_id in mine or job_id in self._taking:
                continue
            owner = listed.get(job_id)
            if owner is not None:
                self._parked.pop(job_id, None)
                self._watch_owner(job_id, owner)
                continue
            found = self._judge(job_id, offered.get(job_id, {}))
            if found is not None:
                free.append(found)
        for found in free:
            if not self._has_room():
                self._say_once("", f"at capacity ({self._capacity}): further jobs wait until one here has ended")
                break
            self._start(found.job_id, lambda found=found: self._take(found))  # type: ignore[misc]

    def _listed(self, signs: list[Sign]) -> dict[str, OwnerInfo]:
        """Jobs whose owner lives and says that they are its own."""
        listed: dict[str, OwnerInfo] = {}
        watched: set[tuple[int, int]] = set()
        for sign in signs:
            owner = sign.owner
            if sign.is_leaving or self._owners.is_gone(owner, None):
                continue
            if self._owners.is_here(owner):
                watched.add((owner.pid, owner.start_ticks))
            if not self._owners.is_suspect(owner):
                listed.update(dict.fromkeys(sign.jobs - sign.offered, owner))
        self._wakeup.watch_processes(watched)
        return listed

    def _forget_deleted(self, job_ids: Collection[str]) -> None:
        """What is known of a job goes with its directory: a root is cleaned up, and a standby lives for months."""
        there = set(job_ids)
        for known in (self._ended, self._preloaded):
            known &= there
        for notes in (self._parked, self._said, self._sealed_since, self._heard):
            for job_id in [job_id for job_id in notes if job_id not in there and job_id]:
                notes.pop(job_id)

    def _forget_gone(self, signs: list[Sign]) -> None:
        """Heartbeats of owners that are gone for good need not be read for ever."""
        for sign in signs:
            if self._owners.is_gone(sign.owner, None) and self._owners.heartbeats.silent_s(sign.owner) > _GONE_S:
                self._owners.heartbeats.remove(sign.owner)

    def _judge(self, job_id: str, offered_by: Mapping[str, int]) -> Found | None:
        """Whether the job is free, from a cheap look at it."""
        now = time.monotonic()
        parked = self._parked.get(job_id)
        if parked is not None and now < parked.look_again_s and not offered_by:
            return None
        try:
            glance = self._supervisor.store.glance(job_id)
        except (StorageError, CheckpointDamaged) as error:
            self._park(job_id, (0, 0), self._storage_wait_s(job_id))
            self._say_once(job_id, f"job {job_id} cannot be looked at", error)
            return None
        if glance is None:
            return None  # it is being made
        if glance.seal_reason == "ended":
            self._end(job_id)
            return None
        if parked is not None and parked.place == glance[:2] and not self._may_try_again(job_id, parked, now):
            look_again_s = now + _PARKED_POLLS * self._poll_s
            if not parked.is_paused:
                look_again_s = min(look_again_s, parked.try_again_s)
            self._parked[job_id] = parked._replace(look_again_s=look_again_s)
            return None
        why = self._why_free(job_id, glance, offered_by, now)
        return None if why is None else Found(job_id, glance, why)

    def _may_try_again(self, job_id: str, parked: Parked, now: float) -> bool:
        return self._is_asked(job_id, parked, now) if parked.is_paused else now >= parked.try_again_s

    def _wake_asked(self) -> None:
        """A paused job of which something is asked is looked at now, and not when its turn comes."""
        began = time.monotonic()
        if began < self._ask_again_s:
            return
        for job_id, parked in self._parked.items():
            if parked.is_paused and self._is_asked(job_id, parked, began):
                self._parked[job_id] = parked._replace(look_again_s=began)
        self._ask_again_s = began + (time.monotonic() - began) / _ASKED_SHARE

    def _is_asked(self, job_id: str, parked: Parked, now: float) -> bool:
        """Whether there is a new request; now and then one that led to nothing counts as new: who knows why it did."""
        try:
            asked = self._supervisor.store.control(job_id).unanswered()
        except StorageError:
            return False  # said when the job's turn comes
        return bool(asked) and (now >= parked.try_again_s or not self._heard.get(job_id, frozenset()).issuperset(asked))

    def _why_free(self, job_id: str, glance: Glance, offered_by: Mapping[str, int], now: float) -> str | None:
        owner = glance.owner
        # Where a network client lists what was there, the heartbeat (which is opened) may show it before the SEAL. Of a
        # later epoch it says nothing: its owner has taken the job again, and the next heartbeat will show that.
        is_sealed = glance.seal_reason is None and glance.epoch <= offered_by.get(owner.token, 0)
        if glance.seal_reason == "handover" or is_sealed:
            return f"handed over by pid {owner.pid} on '{owner.host}'"
        if glance.seal_reason == "takeover":
            epoch, number, since = self._sealed_since.get(job_id, (0, 0, now))
            if (epoch, number) != glance[:2]:
                since = now
            self._sealed_since[job_id] = (*glance[:2], since)
            return "its last take-over was not finished" if now - since > _SEALED_S else None
        if self._owners.is_gone(owner, None):
            return f"pid {owner.pid} on '{owner.host}' is gone"
        if self._owners.is_suspect(owner):
            silent_s = self._owners.heartbeats.silent_s(owner)
            return f"pid {owner.pid} on '{owner.host}' has been silent for {silent_s:.1f} s"
        if self._owners.is_here(owner):
            self._wakeup.watch_processes({(owner.pid, owner.start_ticks)}, is_more=True)
        return None

    def _watch_owner(self, job_id: str, owner: OwnerInfo) -> None:
        """The job goes on elsewhere: be ready for it."""
        if job_id in self._preloaded or len(self._preloaded) >= _PRELOADED_MAX or not self._has_room():
            return
        if len(self._taking) < _THREADS_MAX:
            self._preloaded.add(job_id)
            self._start(job_id, lambda: self._preload(job_id))

    def _wait_s(self) -> float:
        """Until the next look: a poll, or less when an owner is about to be suspected."""
        if self._results:
            return 0.0
        suspects = [s.owner for s in self._owners.heartbeats.signs() if not s.is_leaving]
        due = [self._owners.heartbeats.suspect_in_s(owner) for owner in suspects]
        return min([self._poll_s, *(s + 0.001 for s in due if s > 0)])

    def _has_room(self) -> bool:
        busy = sum(live.job.status != "paused" for live in list(self._supervisor.loop.jobs.values()))
        return not self._capacity or busy + len(self._taking) < self._capacity

    # -- taking over ----------------------------------------------------------------------------

    def _start(self, job_id: str, work: Callable[[], None]) -> None:
        if len(self._taking) >= _THREADS_MAX:
            return  # at the next look
        thread = threading.Thread(target=work, name=f"routilux-standby-{job_id[:8]}", daemon=True)
        self._taking[job_id] = thread
        thread.start()

    def _take(self, found: Found) -> None:
        try:
            self._heard[found.job_id] = frozenset(self._supervisor.store.control(found.job_id).unanswered())
            self._results.append((found, self._supervisor.adopt(found.job_id, self._flow_of, found.glance.epoch)))
        except RoutiluxError as error:
            self._results.append((found, error))
        self._wakeup.set()

    def _preload(self, job_id: str) -> None:
        try:
            self._supervisor.preload(job_id, self._flow_of)
            self._results.append((job_id, "loaded"))
        except RoutiluxError as error:
            self._results.append((job_id, error))
        self._wakeup.set()

    def _collect(self) -> None:
        """What the threads have come back with, and what has become of our jobs."""
        while self._results:
            what, result = self._results.popleft()
            job_id = what if isinstance(what, str) else what.job_id
            thread = self._taking.pop(job_id, None)
            if thread is not None:
                thread.join()
            if isinstance(what, str):
                self._preload_ended(job_id, result)
            else:
                self._take_ended(what, result)
        for job_id, thread in list(self._taking.items()):
            if not thread.is_alive() and not self._results:
                del self._taking[job_id]  # it failed in a way that it could not report
        for job_id, handle in list(self._mine.items()):
            view = handle.view
            if handle.lost is not None:
                del self._mine[job_id]
                self._say(f"job {job_id} is no longer ours: {handle.lost}")
            elif view.is_terminal:
                del self._mine[job_id]
                self._say(f"job {job_id} {view.status}" + (f": {view.reason}" if view.reason else ""))

    def _preload_ended(self, job_id: str, result: object) -> None:
        if type(result) in (StorageError, CheckpointDamaged):
            self._preloaded.discard(job_id)  # its first record is not there yet, or cannot be read now
        elif isinstance(result, RoutiluxError):
            self._say_once(job_id, f"job {job_id} cannot be run here if its owner fails", result)

    def _take_ended(self, found: Found, result: object) -> None:
        job_id, glance, why = found
        match result:
            case Fenced() | JobOwned():
                log.debug("job %s went to another standby: %s", job_id, result)
            case NeverBegan():
                # Its maker was silent, and may only have been slow: should it write its first record yet, that shows.
                log.info("%s", result)
                self._park(job_id, glance[:2], _RETRY_S)
            case StorageError():
                is_passing = type(result) is StorageError
                self._park(job_id, glance[:2], self._storage_wait_s(job_id) if is_passing else _RETRY_S)
                self._say_once(job_id, f"job {job_id} ({why}) cannot be run here", result)
            case RoutiluxError():
                self._park(job_id, glance[:2], _RETRY_S)
                self._say_once(job_id, f"job {job_id} ({why}) cannot be run here", result)
            case "ended":
                self._end(job_id)
            case "paused":
                self._park(job_id, glance[:2], _RETRY_S, is_paused=True)
            case _:
                self._said.pop(job_id, None)
                self._parked.pop(job_id, None)
                self._mine[job_id] = result  # type: ignore[assignment]
                self._say(f"took over job {job_id}: {why}")

    def _park(self, job_id: str, place: tuple[int, int], try_again_s: float, *, is_paused: bool = False) -> None:
        now = time.monotonic()
        look_again_s = now + min(_PARKED_POLLS * self._poll_s, try_again_s)
        self._parked[job_id] = Parked(place, look_again_s, now + try_again_s, is_paused, try_again_s)

    def _storage_wait_s(self, job_id: str) -> float:
        """Until the next try at what could not be read."""
        before = self._parked.get(job_id)
        return _RETRY_STORAGE_SOON_S if before is None else min(_RETRY_STORAGE_S, 2 * before.waits_s)

    def _end(self, job_id: str) -> None:
        self._ended.add(job_id)
        self._preloaded.discard(job_id)  # there is room for another one's code
        for known in (self._parked, self._said, self._sealed_since, self._heard):
            known.pop(job_id, None)

    def _say_once(self, about: str, text: str, reason: object = "") -> None:
        """Say it unless the same reason has been given for this job."""
        if self._said.get(about) != str(reason):
            self._said[about] = str(reason)
            self._say(f"{text}: {reason}" if reason else text)
