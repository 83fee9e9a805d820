"""Processes that stand still (SIGSTOP), and when each is woken: an owner when others have gone on without it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.torture.checker import Frozen
from tests.torture.plan import Plan

#: An owner that nobody succeeds for so long, beyond its lease, is woken all the same.
_TAKEN_OVER_S: Final = 1.5
#: Somebody who said that it would stop has, after so long.
_FALLS_S: Final = 5.0


@dataclass
class _Sleeper:
    pid: int
    family: int
    since_s: float
    epochs: int
    is_owner: bool
    stands_still: bool = False


class Sleepers:
    """Those of one run."""

    def __init__(self, plan: Plan, patience_s: float) -> None:
        """``patience_s``: an owner sleeps no longer, however many epochs it was to miss."""
        self._plan = plan
        self._patience_s = patience_s
        self._all: dict[int, _Sleeper] = {}
        #: When which supervisor stood still.
        self.frozen: list[Frozen] = []

    def add(self, pid: int, family: int, epochs: int, *, is_owner: bool) -> None:
        """It is about to stop itself. ``epochs``: how many have been opened by now."""
        self._all[pid] = _Sleeper(pid, family, time.monotonic(), epochs, is_owner)

    def has(self, pid: int) -> bool:
        return pid in self._all

    def wake(self, epochs: int, *, is_over: bool) -> None:
        """Let those go on whose time has come."""
        for still in list(self._all.values()):
            state = _state(still.pid)
            if state == "T" and not still.stands_still:
                still.stands_still, still.since_s = True, time.monotonic()
            is_lost = state in ("", "Z", "X") or (
                not still.stands_still and time.monotonic() - still.since_s > _FALLS_S
            )
            if is_lost or (still.stands_still and (is_over or self._is_due(still, epochs))):
                self._continue(still)

    def wake_all(self) -> None:
        """Let everybody go on."""
        for still in list(self._all.values()):
            self._continue(still)

    def _is_due(self, still: _Sleeper, epochs: int) -> bool:
        plan, asleep_s, missed = self._plan, time.monotonic() - still.since_s, epochs - still.epochs
        if not still.is_owner and asleep_s > plan.nap_s:
            return True
        if plan.wakes_after and missed >= plan.wakes_after:
            return True
        return asleep_s > (self._patience_s if missed else _TAKEN_OVER_S + plan.lease_s)

    def _continue(self, still: _Sleeper) -> None:
        del self._all[still.pid]
        self.frozen.append(Frozen(still.family, int(still.since_s * 1e9), time.monotonic_ns()))
        try:
            os.kill(still.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # it was killed meanwhile


def _state(pid: int) -> str:
    """What /proc says that the process does; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
