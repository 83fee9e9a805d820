"""How far apart the turns of the loop are.

A turn costs something whatever it finds, and finds more when it comes less often. The rule it owns: nobody waits for
a pause. Where a worker would be idle, or somebody waits for one of the jobs, a turn follows as soon as there is
something to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import islice

from .clock import Clock
from .live import LiveJob
from .placement import Placement

#: A turn takes a core from a worker. While all are busy turns are so far apart, at most, and at most this share of the
#: time for which work waits in front of each.
TURN_NS, TURN_SHARE = 20_000_000, 0.5
#: The same where several jobs run, or more workers than cores: those that keep the cores busy are not to slow down a
#: small job beside them, nor others that sleep in what they do.
TURN_OF_MANY_NS = 5_000_000
#: A turn takes the interpreter from whoever begins jobs, a step of each at a time. While so many come within such a
#: time, turns are so far apart.
STREAM_JOBS, STREAM_NS, TURN_OF_STREAM_NS = 4, 40_000_000, 5_000_000
#: Whoever waits for one of more jobs than these waits for the others before it.
_LOOKED_AT = 64


class Pace:
    """Belongs to the loop's thread, but for :attr:`is_streaming`."""

    def __init__(self, jobs: Mapping[str, LiveJob], placement: Placement, clock: Clock) -> None:
        self._jobs = jobs
        self._placement = placement
        self._clock = clock
        self._turned_ns = 0
        self._came_ns: deque[int] = deque(maxlen=STREAM_JOBS)  # when the last jobs came in
        #: How far apart turns are now, at least.
        self.distance_ns = 0
        #: Jobs come one after another, and nobody waits for any: what becomes of them need not end a pause.
        self.is_streaming = False

    def came(self) -> None:
        """A job has come in."""
        self._came_ns.append(self._clock.monotonic_ns())

    def turned(self) -> None:
        """A turn has begun."""
        self._turned_ns = self._clock.monotonic_ns()

    def pause_s(self) -> float:
        """How long to let happen what happens before the next turn."""
        now = self._clock.monotonic_ns()
        distance_ns = min(TURN_NS, int(TURN_SHARE * self._placement.busy_ns()))
        if distance_ns > TURN_OF_MANY_NS and not self._is_alone:
            distance_ns = TURN_OF_MANY_NS
        self.is_streaming = self._streams(now)
        if self.is_streaming:
            distance_ns = max(distance_ns, TURN_OF_STREAM_NS)
        self.distance_ns = distance_ns
        return max(0, self._turned_ns + distance_ns - now) / 1e9 if distance_ns else 0.0

    @property
    def _is_alone(self) -> bool:
        """One job, no worker waits for a core, and nothing lies in shared memory that a turn would release."""
        if len(self._jobs) != 1 or not self._placement.have_cores_of_their_own:
            return False
        return not any(live.memory is not None and len(live.blobs) for live in self._jobs.values())

    def _streams(self, now_ns: int) -> bool:
        came = self._came_ns
        if len(came) < STREAM_JOBS or now_ns - came[0] > STREAM_NS:
            return False
        return not any(live.is_awaited for live in islice(self._jobs.values(), _LOOKED_AT))
