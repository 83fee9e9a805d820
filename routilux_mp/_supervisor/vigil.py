"""The thread beside the loop that touches the shared directory for it: heartbeat, requests, answers.

The loop must never wait for a network file system, and must not fall silent because a user's code
holds it up. The rule it owns: a heartbeat that comes later than the lease raises a doubt, however
well it was written in the end: this process was stopped, and somebody may have taken its jobs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from .._storage.control import Answer, Control, Request
from .._storage.lease import BEATS_PER_LEASE, Heartbeat, boot_time_s
from .._storage.watch import Watch
from ..errors import CheckpointDamaged, RoutiluxError
from ..settings import Settings

if TYPE_CHECKING:
    from .._core.job import Job
    from .._storage.store import Store

log = logging.getLogger(__name__)

#: A change of what is owned is shown at once, but not more often than this.
_BEAT_INTERVAL_S: Final = 0.2
#: Whoever leaves waits so long for the heartbeat that says so; the share may hang.
_TOLD_S: Final = 2.0
#: How long a job that was handed over is pointed out.
_OFFERED_S: Final = 60.0
#: Watching a job costs threads: that is not done for a job of a moment, nor for the many jobs of a busy process.
_WATCH_AFTER_S: Final = 1.0
_WATCHED_JOBS_MAX: Final = 4
#: Looking for requests takes at most this share of the time, however many jobs there are.
_LOOK_SHARE: Final = 0.1


class Heard(NamedTuple):
    """A request that was found; None: what is there cannot be read as one, for this reason."""

    job_id: str
    request_id: str
    request: Request | None
    reason: str = ""


class Kept(NamedTuple):
    """A job that this process owns, as this thread needs it."""

    job: Job
    #: request id -> why it was refused, or "": durable ones only, since only those may be answered.
    answers: dict[str, str]
    since_s: float = 0.0


class Vigil:
    """Its thread touches nothing before the first job is kept. It is begun before: later there may be no new ones."""

    def __init__(self, store: Store, settings: Settings, wake: Callable[[], None]) -> None:
        self.heard: deque[Heard] = deque()
        self._store = store
        self._lease_s = settings.lease_s
        self._poll_s = settings.poll_s
        self._wake = wake
        self._kept: dict[str, Kept] = {}
        self._left: deque[tuple[str, Kept]] = deque()
        self._to_tell: deque[threading.Event] = deque()
        #: job id -> when it was handed over, and the epoch that was sealed
        self._offered: dict[str, tuple[float, int]] = {}
        self._blocked: Mapping[str, str] = {}
        self._has_changed = False
        self._should_look = False
        self._is_doubtful = False
        self._deadline_s = 0.0  # on the clock of boot_time_s; 0: no lease yet
        self._event = threading.Event()
        self._is_closed = False
        self._watch: Watch | None = None
        self._controls: dict[str, Control] = {}
        self._thread = threading.Thread(target=self._run, name="routilux-vigil", daemon=True)
        self._thread.start()

    # -- the loop's side --------------------------------------------------------------------------

    def keep(self, job: Job) -> dict[str, str]:
        """This process owns the job. Returns where the loop notes the answers that are durable."""
        kept = Kept(job, dict(job.answered), time.monotonic())
        self._kept[job.job_id] = kept
        self._offered.pop(job.job_id, None)
        if not self._deadline_s:
            self._deadline_s = boot_time_s() + self._lease_s
            self._event.set()
        self._changed()
        return kept.answers

    def let_go(self, job_id: str, *, is_offered: bool, epoch: int = 0) -> None:
        """This process does not own the job any more; ``is_offered``: its ``epoch`` is sealed for whoever takes it."""
        kept = self._kept.pop(job_id, None)
        if kept is not None:
            self._left.append((job_id, kept))
            self._should_look |= bool(kept.answers)
        if is_offered:
            self._offered[job_id] = (time.monotonic(), epoch)
        self._changed()

    def blocked(self, blocked: Mapping[str, str]) -> None:
        """Jobs that cannot be written now, with the reason."""
        if blocked != self._blocked:
            self._blocked = blocked
            self._changed()

    def look_now(self) -> None:
        """There are answers to be shown, or requests to be found."""
        self._should_look = True
        self._event.set()

    def take_doubt(self) -> bool:
        """Whether there was a silence longer than the lease since the last question."""
        is_over = self._deadline_s != 0.0 and boot_time_s() > self._deadline_s
        doubt, self._is_doubtful = self._is_doubtful or is_over, False
        if is_over:
            # Asked once per silence: what the loop does now decides, and gives as good a lease as a heartbeat.
            self._deadline_s = boot_time_s() + self._lease_s
        return doubt

    def tell(self) -> Callable[[], object]:
        """What waits until a heartbeat says all that has become of the jobs so far: without one they are not looked at.

        To be called in the loop's thread; what it returns is for one that may wait.
        """
        if self._is_closed or not self._deadline_s:
            return partial(self._thread.join, _TOLD_S) if self._is_closed else lambda: None
        told = threading.Event()
        self._to_tell.append(told)
        self._changed()
        return partial(told.wait, _TOLD_S)

    @property
    def left_ns(self) -> int:
        """How much of the lease is left."""
        return max(0, int((self._deadline_s - boot_time_s()) * 1e9)) if self._deadline_s else 0

    def close(self, offered: Mapping[str, int] | None = None) -> None:
        """Show what is left to be shown, and that this process leaves. ``offered``: jobs it has sealed, and epochs."""
        for job_id in list(self._kept):
            epoch = (offered or {}).get(job_id)
            self.let_go(job_id, is_offered=epoch is not None, epoch=epoch or 0)
        self._is_closed = True
        self._event.set()
        self._thread.join()

    def _changed(self) -> None:
        if not self._has_changed:  # else its thread knows, and has set itself a time to tell of it
            self._has_changed = True
            self._event.set()

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._deadline_s:
            self._event.wait()
            self._event.clear()
            if self._is_closed and not self._deadline_s:
                return  # nothing was ever kept
        heartbeat = self._store.heartbeat()
        next_poll = next_beat = beaten = 0.0
        while not self._is_closed:
            now = time.monotonic()
            if now >= next_beat or (self._has_changed and now >= beaten + _BEAT_INTERVAL_S):
                self._beat(heartbeat)
                beaten, next_beat = now, now + self._lease_s / BEATS_PER_LEASE
            if self._should_look or now >= next_poll:
                self._should_look = False
                self._poll()
                took_s = time.monotonic() - now
                next_poll = now + max(self._poll_s, took_s / _LOOK_SHARE)
            wake_at = min(next_beat, next_poll)
            if self._has_changed:
                wake_at = min(wake_at, beaten + _BEAT_INTERVAL_S)
            self._event.wait(max(0.0, wake_at - time.monotonic()))
            self._event.clear()
        self._leave(heartbeat)
        self._have_told()

    def _beat(self, heartbeat: Heartbeat, *, is_leaving: bool = False) -> None:
        self._has_changed = False
        began, telling = boot_time_s(), len(self._to_tell)
        # In place: the loop may be adding to them, or taking one back.
        for job_id in [j for j, (t, _) in list(self._offered.items()) if time.monotonic() - t >= _OFFERED_S]:
            self._offered.pop(job_id, None)
        sealed = {j: epoch for j, (_, epoch) in list(self._offered.items())}
        try:
            heartbeat.beat(
                list(self._kept), offered=sealed, sealed=sealed, blocked=self._blocked, is_leaving=is_leaving
            )
        except (RoutiluxError, OSError) as error:
            log.warning("heartbeat not written: %s", error)
        else:
            if self._deadline_s and began > self._deadline_s:
                self._is_doubtful = True
            self._deadline_s = began + self._lease_s
        self._have_told(telling)
        # Also when it failed: the loop looks at what is left of the lease.
        self._wake()

    def _have_told(self, count: int | None = None) -> None:
        """The first of those who wait to have been told need wait no longer, also when it could not be written."""
        for _ in range(len(self._to_tell) if count is None else count):
            self._to_tell.popleft().set()

    def _poll(self) -> None:
        while self._left:
            self._look(*self._left.popleft(), takes=False)
        for job_id, kept in list(self._kept.items()):
            self._look(job_id, kept, takes=True)

    def _look(self, job_id: str, kept: Kept, *, takes: bool) -> None:
        """Find new requests, and show answers that are durable."""
        try:
            control = self._controls.get(job_id) or self._controls.setdefault(job_id, self._store.control(job_id))
            # Of a job that is not ours any more only answers are left to be shown.
            for request_id in control.unanswered() if takes or kept.answers else ():
                if request_id <= kept.job.answered_low:
                    control.sweep(kept.job.answered_low)
                elif request_id in kept.answers:
                    reason = kept.answers[request_id]
                    control.put_answer(Answer(request_id, not reason, reason))
                elif takes and not kept.job.has_answered(request_id):
                    self._hear(job_id, request_id, control)
        except (RoutiluxError, OSError) as error:  # whatever it is: without this thread no job is kept
            log.debug("requests of job %s not read: %s", job_id, error)
        if not takes:
            self._controls.pop(job_id, None)
        try:
            self._watch_or_not(job_id, kept, takes)
        except (RoutiluxError, OSError) as error:
            log.debug("job %s is not watched, only looked at: %s", job_id, error)

    def _watch_or_not(self, job_id: str, kept: Kept, takes: bool) -> None:
        """A few jobs that last are watched; the others are looked at only."""
        if takes and self._watch is None and time.monotonic() - kept.since_s > _WATCH_AFTER_S:
            self._watch = Watch(self._store.path, self.look_now, self._poll_s)
        if self._watch is not None:
            paths = [self._store.view_paths(job_id).job, f"{self._store.view_paths(job_id).job}/control"]
            for path in paths:
                is_lasting = time.monotonic() - kept.since_s > _WATCH_AFTER_S
                if takes and is_lasting and len(self._kept) <= _WATCHED_JOBS_MAX:
                    self._watch.add(path)
                else:
                    self._watch.remove(path)

    def _hear(self, job_id: str, request_id: str, control: Control) -> None:
        try:
            heard = Heard(job_id, request_id, control.read(request_id))
        except FileNotFoundError:
            return
        except CheckpointDamaged as error:
            heard = Heard(job_id, request_id, None, str(error))
        self.heard.append(heard)
        self._wake()

    def _leave(self, heartbeat: Heartbeat) -> None:
        if self._watch is not None:
            self._watch.close()
        self._poll()
        if self._offered:
            # It stays, for those who do not see the SEALs yet; it is swept a day later.
            self._beat(heartbeat, is_leaving=True)
            return
        try:
            heartbeat.remove()
        except (RoutiluxError, OSError) as error:
            log.debug("heartbeat not removed: %s", error)
