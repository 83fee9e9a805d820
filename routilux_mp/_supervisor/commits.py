"""What goes to the disk, and what follows once it stands: commits, rolls, seals, views.

Not here: where it runs (``committer``), how it is written (``_storage``). The rule it owns: a job has at most
one commit or seal under way, and nothing of it is shown or closed before that has come back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Literal

from .._core.stimuli import Stands
from .._storage.codec import encode_snapshot
from .._storage.leftovers import Sweep
from .._worker.logs import LOG
from ..errors import Fenced, HandedOver, OutcomeUnknown, StorageBlocked, StorageError
from .clock import Clock
from .cut import take
from .leftovers import Sweeping, sweep_after_roll
from .live import LiveJob
from .outputs import outputs_of, put_in_place
from .unkept import NullTenure, Tenure

if TYPE_CHECKING:
    from .loop import Loop

log = logging.getLogger(__name__)

#: Makes (flow.json or None, job_state.json); called beside the loop, since it opens users' values.
MakeViews = Callable[[], tuple[bytes | None, bytes]]
#: Commits between two looks at the memory that queued payloads take.
SPILL_EVERY = 32
#: The views of a running job are written at most this often.
VIEWS_INTERVAL_NS = 5_000_000_000
_BLOCKED_AGAIN_NS = 200_000_000
#: A slow disk takes up to half a second for a commit. One that has not answered for so long may never do so, and what
#: is begun after it would be run again by whoever takes the job over: nothing more is given out before it stands.
SILENCE_NS = 1_000_000_000
#: And after so long whoever looks at the job is told why nothing moves.
SILENCE_TOLD_NS = 3_000_000_000
_SILENT = "the file system has not answered since a commit was begun (a hanging share, a stalled disk); it goes on then"
#: While a job keeps every core busy its commits are so far apart, at least.
GATHER_NS = 20_000_000
#: A worker with less work in front of it may be idle before a commit stands.
_COMMIT_TAKES_NS = 2_000_000
#: And also when so much was committed since the last one.
SPILL_EVERY_BYTES = 16 * 1024 * 1024
#: Making the views of a job holds the interpreter for milliseconds. Whoever waits for what they show has just been told
#: of it, and goes first.
_GO_FIRST_S = 0.0005
HOUSEKEEPING = "\0housekeeping"
LAST_VIEWS = "\0last views"


class Commits:
    """Called by the loop, in its thread."""

    def __init__(self, loop: Loop, documents: Callable[[LiveJob], MakeViews]) -> None:
        self._loop = loop
        self._documents = documents
        self.last_views = 0  # of jobs that were handed over, on their way
        #: Of which something is under way. One that was given up meanwhile is closed when that has come back; by then
        #: the same job may have come in again, so it is not told by its id.
        self._under_way: dict[str, LiveJob] = {}
        self._submitted = 0
        self._listened_ns = 0

    def settle(self, now: int) -> None:
        """Commit, publish and seal what can be."""
        loop = self._loop
        unsettled = loop.attention.unsettled
        for job_id in list(unsettled):
            live = loop.jobs.get(job_id)
            if live is not None:
                loop.alone(live, self._settle, live, now)
            if live is None or not live.is_unsettled:
                unsettled.pop(job_id, None)
        self._tell_of_silence(now)

    @property
    def are_under_way(self) -> bool:
        """The disk owes an answer, and may be silent by and by."""
        return bool(self._under_way)

    def is_silent(self, live: LiveJob) -> bool:
        """The disk owes this job an answer for so long that it may be gone."""
        return self._silence_ns(live) > SILENCE_NS

    def finished(self, key: str, error: BaseException | None, now: int) -> None:
        """Something that was submitted has come back."""
        loop = self._loop
        if key in (HOUSEKEEPING, LAST_VIEWS):
            if error is not None:
                log.warning("work beside the commits failed", exc_info=error)
            self.last_views -= key == LAST_VIEWS
            return
        live = self._under_way.pop(key)
        job_id = live.job.job_id
        if loop.jobs.get(job_id) is not live:
            live.tenure.close()
            return
        loop.attention.touch(job_id)
        if isinstance(error, StorageBlocked):
            live.retry_at_ns = now + _BLOCKED_AGAIN_NS
            self._show_blocked(live, str(error), now)
            return
        if error is not None and not _has_ended_anyway(live, error):
            live.has_come_back()
            loop.lose(live, error)
            return
        if isinstance(live.retry, Commit) and live.retry.has_rolled:
            self._begin_epoch(live, live.retry)
        if live.blocked is not None:
            live.show_blocked(None)
        live.retry = None
        if live.is_sealing:
            self._finish(live)
            return
        assert live.in_flight is not None
        number = live.in_flight
        for text in live.stands(number):
            loop.print(LOG, text)
        if number % SPILL_EVERY == 0 or live.unspilled_bytes > SPILL_EVERY_BYTES:
            live.spill(loop.settings.queue_memory_bytes_max)
        if live.is_confirming:
            live.is_doubted = live.is_confirming = False
        if loop.keeper is not None:
            loop.keeper.stands(live, number)
        if live.held_answers and not loop.is_ahead(live):
            loop.answer(live)
        loop.happen(live, Stands(number), now)

    def let_go(self, live: LiveJob) -> None:
        """The job has left the loop: its directory is closed, at the latest when nothing of it is under way."""
        if live.commit_key not in self._under_way:
            live.tenure.close()

    def close(self) -> None:
        """Nothing is under way any more."""
        for live in self._under_way.values():
            live.tenure.close()
        self._under_way.clear()

    # -- inside -------------------------------------------------------------------------------

    def _settle(self, live: LiveJob, now: int) -> None:
        committer = self._loop.committer
        if live.is_committing:
            if live.retry is not None and live.blocked is not None and now >= live.retry_at_ns > 0:
                live.retry_at_ns = 0
                self._submit(live, live.retry)
            return
        if live.records or live.is_doubted:
            if self._gathers(live, now):
                return
            # Where turns are far apart: with every second one.
            live.gathers_until_ns = now + max(GATHER_NS, self._loop.pace.distance_ns * 3 // 2)
            live.is_confirming = live.is_doubted
            is_awaited = live.is_urgent
            outputs = list(outputs_of(live.records))
            _, files = live.take_commit(now)
            tenure = live.tenure
            snapshot: bytes | None = None
            unused: list[str] = []
            sweep: Sweep | None = None
            if tenure.should_roll(64 * live.job.pending_count() + 1024, live.blobs.new_bytes):
                snapshot = encode_snapshot(live.job)
                unused, sweep = live.blobs.unused(live.job), sweep_after_roll(self._loop, live)
            folders = live.blobs.take_folders()
            commit = Commit(tenure, files, snapshot, outputs, unused, sweep, self._loop.clock, folders)
            self._submit(live, commit, is_awaited=is_awaited)
        elif live.publish_if_quiet(now):
            if live.job.is_terminal:
                self._seal(live, "ended", now)
            elif self._may_leave(live):
                live.is_leaving = True
                self._seal(live, "handover", now)
            elif live.memory is None and self._wants_views(live, now):
                views = Views(live, self._documents(live), self._loop.clock)
                committer.submit(HOUSEKEEPING, views, after_s=_GO_FIRST_S)

    def _submit(
        self, live: LiveJob, task: Callable[[], None], *, is_awaited: bool = True, after_s: float = 0.0
    ) -> None:
        """Have it done, now and again if it is blocked."""
        live.retry = task
        if not live.commit_key:
            self._submitted += 1
            live.commit_key = f"{live.job.job_id} {self._submitted}"
        is_awaited = is_awaited and not self._loop.pace.is_streaming
        self._loop.committer.submit(live.commit_key, task, is_awaited=is_awaited, after_s=after_s)
        self._under_way[live.commit_key] = live

    def _silence_ns(self, live: LiveJob) -> int:
        task = live.retry
        if live.in_flight is None or not isinstance(task, Commit) or live.retry_at_ns:
            return 0  # nothing is under way, or it has been told that it is blocked
        return self._loop.clock.monotonic_ns() - task.heard_ns

    def _tell_of_silence(self, now: int) -> None:
        """Once a second at most; while something is under way the loop turns so often, whatever happens."""
        ticks = self._loop.clock.monotonic_ns()  # the other clock stands still when it has been set back
        if not self._under_way or ticks - self._listened_ns < SILENCE_NS:
            return
        self._listened_ns = ticks
        for live in self._under_way.values():
            silence_ns = self._silence_ns(live)
            if silence_ns > SILENCE_TOLD_NS and self._loop.jobs.get(live.job.job_id) is live:
                self._show_blocked(live, _SILENT, now - silence_ns)

    def _show_blocked(self, live: LiveJob, reason: str, since_ns: int) -> None:
        """Say why the job does not move, and since when, unless that has been said."""
        if live.blocked is None or live.blocked[0] != reason:
            log.warning("job %s is blocked: %s", live.job.job_id, reason)
            live.show_blocked((reason, since_ns if live.blocked is None else live.blocked[1]))

    def _gathers(self, live: LiveJob, now: int) -> bool:
        """The records wait for company: nobody asked for them, and what they let run is nothing or finds no core."""
        job = live.job
        if now >= live.gathers_until_ns or live.is_urgent or live.is_doubted or job.closing or job.is_draining:
            return False
        if self._loop.is_ahead(live):
            return False
        if not live.lets_run and not all(d.is_held for d in job.dispatches.values()):
            return True  # the company is on its way
        # A generator that has committed a cursor goes on for as long as it likes, and may be waiting for the world.
        generators = {d.worker for d in job.dispatches.values() if d.special >= 0}
        workers = {d.worker for d in job.dispatches.values()} - generators
        return self._loop.placement.are_busy(workers, _COMMIT_TAKES_NS)

    def _seal(self, live: LiveJob, reason: Literal["handover", "ended"], now: int) -> None:
        live.is_sealing = True
        if reason == "ended" and live.memory is None:
            live.last_cut = take(live.job, live.version + 1, now)  # whoever describes it need not come back for that
        self._submit(live, Seal(live.tenure, self._documents(live), reason), after_s=_GO_FIRST_S)

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
        self._loop.attention.show_at(live.job.job_id, live.show_again_ns)
        return False

    def begin(self, live: LiveJob) -> None:
        """The job has come in. What its earlier owners have left behind is looked through."""
        if live.first_epoch:
            self._loop.committer.submit(
                HOUSEKEEPING, Sweeping(self._loop, live, Sweep(live.first_epoch, live.first_epoch))
            )

    def _begin_epoch(self, live: LiveJob, commit: Commit) -> None:
        """The job has rolled: its past is put away, and workers put blobs where this epoch keeps them."""
        self._loop.committer.submit(HOUSEKEEPING, live.tenure.housekeep)
        if commit.sweep is not None:
            self._loop.committer.submit(HOUSEKEEPING, Sweeping(self._loop, live, commit.sweep))
        self._loop.feeding.introduce_anew(live)

    def _finish(self, live: LiveJob) -> None:
        """It is sealed."""
        live.has_come_back()
        live.last_cut = None
        if live.is_leaving and not live.job.is_terminal:
            live.lose(HandedOver(f"job {live.job.job_id} was handed over; resume it to go on here"))
            # After the SEAL: whoever waits for the job need not wait for what people look at.
            self.last_views += 1
            self._loop.committer.submit(LAST_VIEWS, Views(live, self._documents(live), self._loop.clock))
        live.is_finished = True
        self._loop.remove(live)
        with live.changed:
            live.changed.notify_all()


def _has_ended_anyway(live: LiveJob, error: BaseException) -> bool:
    """Only the SEAL is missing, or another one has put it: the commit that says how the job ended stands."""
    return live.is_sealing and live.job.is_terminal and isinstance(error, (Fenced, OutcomeUnknown))


class Commit:
    """One commit, in as many files as it takes, and the roll that may go with it; until nothing blocks it."""

    def __init__(
        self, tenure: Tenure, files: list[list[bytes]], snapshot: bytes | None, outputs: list[tuple[str, str]],
        unused_blobs: list[str], sweep: Sweep | None, clock: Clock, blob_folders: Collection[str] = (),
    ) -> None:  # fmt: skip
        """``sweep``: what may be looked through once the roll is done; ``blob_folders``: of blobs that it names."""
        self._tenure = tenure
        self._clock = clock
        self.heard_ns = clock.monotonic_ns()  # when the disk answered last, or was not asked yet
        self._files = files
        self._outputs = outputs
        self._snapshot = snapshot
        self._unused_blobs = unused_blobs
        self._blob_folders = blob_folders
        self.sweep = sweep
        self.has_rolled = False

    def __call__(self) -> None:
        self.heard_ns = self._clock.monotonic_ns()
        if self._files:
            if self._blob_folders:
                self._tenure.secure_blobs(self._blob_folders)
                self.heard_ns = self._clock.monotonic_ns()
            while self._files:
                self._tenure.commit(self._files[0])
                del self._files[0]  # it stands: what is blocked after it must not commit it twice
                self.heard_ns = self._clock.monotonic_ns()
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
            self._tenure.show(self._make)
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
            live.tenure.show(self._make)
        except StorageError as error:
            log.warning("the views of job %s could not be written: %s", live.job.job_id, error)
        finally:
            took = self._clock.monotonic_ns() - begin
            live.show_again_ns = self._clock.now_ns() + max(VIEWS_INTERVAL_NS, 100 * took)
            live.is_writing_views = False
