"""Stores that are broken on purpose, each by one rule: a torture that does not find them proves nothing.

Every mutant comes with the plan that leads to the moment at which its rule is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import filelock

from routilux_mp._storage.frames import COMMIT
from routilux_mp._storage.housekeeping import Housekeeper
from routilux_mp._storage.layout import EPOCHS, commit_name, epoch_name, parse_commit
from routilux_mp._storage.put import Putter
from routilux_mp._storage.reader import LogReader
from tests.torture.plan import Plan, plan_of
from tests.torture.points import Fault


class Mutant(NamedTuple):
    """What is broken, in every process of a run, and how it is provoked."""

    break_it: Callable[[], None]
    fault: Fault
    #: As in ``Plan``.
    wakes_after: int = 1

    def plan_of(self, seed: int) -> Plan:
        """A run that aims at this mutant: an owner that rolls often, stopped or killed a little later each time."""
        plan = plan_of(seed)
        fault = self.fault._replace(nth=self.fault.nth + (seed % 5 if self.fault.nth > 1 else 0))
        settings = plan.settings | {"log_bytes_max": 1}
        return plan._replace(
            faults=(fault,), standbys=2, items=16, settings=settings, requests=(), hosts_differ=False, term_after_s=0.0,
            wakes_after=self.wakes_after, is_named=False, has_litter=False,
        )  # fmt: skip


def nothing() -> None:
    """The store as it is: what the plans aim at must not be wrong by itself."""


def no_fence() -> None:
    """An owner takes whatever stands in the place of its commit for its own."""
    plain = Putter.put

    def put(self: Putter, tmp: int, at: int, name: str, data: Sequence[bytes], **more: Any) -> bool:
        return plain(self, tmp, at, name, data, **more) or _kind(data) == COMMIT

    Putter.put = put  # type: ignore[method-assign]


def seal_deleted() -> None:
    """With the COMMITs of an ended epoch its SEAL goes."""
    plain = Housekeeper._delete_commits

    def delete(self: Housekeeper, epoch: int) -> None:
        last = len(LogReader(self._place).archive(epoch))
        plain(self, epoch)
        self._unlink(commit_name(last), EPOCHS, epoch_name(epoch))

    Housekeeper._delete_commits = delete  # type: ignore[method-assign]


def live_epoch_collected() -> None:
    """COMMITs of the epoch that is being written are deleted, too."""
    plain = Housekeeper._collect

    def collect(self: Housekeeper) -> None:
        plain(self)
        for name in self._place.names(EPOCHS, epoch_name(self._epoch)):
            if (parse_commit(name) or 0) > 1:
                self._unlink(name, EPOCHS, epoch_name(self._epoch))

    Housekeeper._collect = collect  # type: ignore[method-assign]


def listing_trusted() -> None:
    """What a listing does not show is not there: no need for put-if-absent."""

    def put(self: Putter, tmp: int, at: int, name: str, data: Sequence[bytes], **more: Any) -> bool:
        if name in self.fs.names(at):
            return False
        _replace(self, tmp, at, name, (*data, *more.get("rest", ())), more["where"])
        return True

    Putter.put = put  # type: ignore[method-assign]


def lock_trusted() -> None:
    """Who has the lock is alone: no need for put-if-absent. And the lock lies, as on NFS without lockd."""
    plain = Putter.put

    def put(self: Putter, tmp: int, at: int, name: str, data: Sequence[bytes], **more: Any) -> bool:
        if _kind(data) != COMMIT:
            return plain(self, tmp, at, name, data, **more)
        with filelock.FileLock("lies"):
            _replace(self, tmp, at, name, data, more["where"])
        return True

    for operation in ("acquire", "release", "__enter__"):
        setattr(filelock.FileLock, operation, lambda *_, **__: None)
    Putter.put = put  # type: ignore[method-assign]


def _kind(data: Sequence[bytes]) -> int:
    return data[0][4] if data[0].startswith(b"RMP1") else 0


def _replace(putter: Putter, tmp: int, at: int, name: str, data: Sequence[bytes], where: str) -> None:
    private = putter.private_name()
    handle = putter._write_private(tmp, at, private, data, where)
    putter.fs.close(handle)  # where the plans stop it: nothing has been done yet, and everything was decided
    putter.fs.replace(private, tmp, name, at)
    putter.fs.fsync(at)


_STOPPED: Final = Fault("commit.link_unnamed", "STOP", 4)
_STOPPED_LATER: Final = Fault("commit.close", "STOP", 4)

MUTANTS: Final[dict[str, Mutant]] = {
    made.break_it.__name__: made
    for made in (
        Mutant(nothing, _STOPPED, wakes_after=0),
        Mutant(no_fence, _STOPPED),
        Mutant(seal_deleted, _STOPPED, wakes_after=0),
        Mutant(live_epoch_collected, Fault("seal-ended.link_unnamed", "KILL", 1, is_after=True)),
        Mutant(listing_trusted, _STOPPED_LATER),
        Mutant(lock_trusted, _STOPPED_LATER),
    )
}
