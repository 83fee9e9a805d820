"""Keeping the right to one's jobs, as the loop sees it: leases, doubts, requests, handing over.

Not here: touching the directory (``vigil``), committing (``committer``). The rules it owns: after a
silence longer than the lease nothing is dispatched for a job before a commit of it has stood; and a
job is handed over only when nothing of it runs and everything of it is durable.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .._core.stimuli import Ask, Yield
from ..errors import HandedOver, RoutiluxError
from .vigil import Heard, Vigil
from .wishes import Encode, ask_of

if TYPE_CHECKING:
    from .live import LiveJob
    from .loop import Loop
    from .unkept import Tenure

log = logging.getLogger(__name__)

#: The heartbeat learns of blocked jobs at most this often: there may be many jobs, and many turns a second.
_LOOK_NS = 200_000_000


class Keeper:
    """Called by the loop, in its thread, at its turns."""

    def __init__(self, loop: Loop, vigil: Vigil, encode: Encode, token: str) -> None:
        self._loop = loop
        self._vigil = vigil
        self._encode = encode
        self._token = token
        self._lease_ns = 0
        self._looked_ns = 0
        #: job id -> (number of the commit that carries the answer, request id), in order
        self._owed: dict[str, deque[tuple[int, str]]] = {}
        self._durable: dict[str, dict[str, str]] = {}

    # -- called by the loop -------------------------------------------------------------------

    def keep(self, live: LiveJob) -> None:
        """The job has come in."""
        if live.memory is None:
            self._owed[live.job.job_id] = deque()
            self._durable[live.job.job_id] = self._vigil.keep(live.job)

    def let_go(self, live: LiveJob) -> None:
        """The job has left the loop, for whatever reason."""
        job_id = live.job.job_id
        if self._owed.pop(job_id, None) is not None:
            del self._durable[job_id]
            is_offered = isinstance(live.lost, HandedOver)
            self._vigil.let_go(job_id, is_offered=is_offered, epoch=live.tenure.next_position()[0])

    def stands(self, live: LiveJob, number: int) -> None:
        """Everything up to this commit is durable: answers may be shown."""
        owed = self._owed.get(live.job.job_id)
        while owed and owed[0][0] <= number:
            request_id = owed.popleft()[1]
            if request_id in live.job.answered:
                self._durable[live.job.job_id][request_id] = live.job.answered[request_id]
            self._vigil.look_now()

    def turn(self, now: int) -> None:
        """What has come up since the last turn."""
        if self._vigil.take_doubt():
            self._doubt()
        self._extend_leases()
        heard = self._vigil.heard
        while heard:
            found = heard.popleft()
            live = self._loop.jobs.get(found.job_id)
            if live is not None:
                self.ask(live, found, now)
        if self._owed and now - self._looked_ns > _LOOK_NS:
            self._looked_ns = now
            self._vigil.blocked({live.job.job_id: live.blocked[0] for live in self._loop.jobs.values() if live.blocked})

    def ask(self, live: LiveJob, heard: Heard, now: int) -> None:
        """Let a request happen, unless it has."""
        if live.job.has_answered(heard.request_id) or live.is_sealing:
            return
        if heard.request is None:
            ask = Ask(heard.request_id, None, heard.reason)
        else:
            ask = ask_of(heard.request, live.job, self._encode, self._token)
        number = live.filling
        self._loop.happen(live, ask, now)
        if live.job.has_answered(heard.request_id):
            self._owed[live.job.job_id].append((number, heard.request_id))
            if isinstance(ask.wish, Yield) and not live.job.answered.get(heard.request_id):
                self.hand_over(live, "another supervisor asked for it")

    def hand_over(self, live: LiveJob, reason: str) -> None:
        """Start nothing more of this job, and seal it for whoever takes it once what runs has ended."""
        if not live.is_leaving:
            log.info("job %s is handed over: %s", live.job.job_id, reason)
            live.is_leaving = True
            live.job.is_draining = True
            self._loop.revoke((live.job.job_id,))

    # -- inside -------------------------------------------------------------------------------

    def _doubt(self) -> None:
        """This process was silent for longer than its lease: the file system says whose the jobs are."""
        doubted = [live for live in self._loop.jobs.values() if live.memory is None]
        if doubted:
            log.warning("silent for longer than the lease; trying whether %d jobs are still ours", len(doubted))
        for live in doubted:
            live.is_doubted = True
        self._loop.revoke([live.job.job_id for live in doubted])

    def _extend_leases(self) -> None:
        """Workers start nothing after the lease is over. What a doubted job had given out is revoked."""
        left_ns = self._vigil.left_ns
        if left_ns:
            deadline_ns = time.monotonic_ns() + left_ns
            # A write into every worker's page: not for the microseconds by which two readings differ.
            if abs(deadline_ns - self._lease_ns) > 50_000_000:
                self._lease_ns = deadline_ns
                self._loop.set_lease(deadline_ns)


@contextmanager
def given_back_on_error(tenure: Tenure) -> Iterator[None]:
    """What goes wrong before the job is in the loop must not leave it owned by a process that does not run it."""
    try:
        yield
    except BaseException:
        with suppress(RoutiluxError):
            tenure.seal("handover")
        tenure.close()
        raise
