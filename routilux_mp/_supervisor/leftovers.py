"""Blobs that were there before us, and those of our workers that died: who needs them is found in the log.

Not here: which of them nobody can ever name (``_storage.leftovers``), when others are given up (``blob_uses``). It
reads as much of the log as such blobs go back, so it runs beside the commits, and only where there are any.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._core.records import Completed
from .._storage.codec import decode_record
from .._storage.layout import BLOBS, epoch_name, parse_epoch
from .._storage.leftovers import Sweep
from .._storage.reader import LogRef
from .blob_uses import Ref, users_in

if TYPE_CHECKING:
    from .live import LiveJob
    from .loop import Loop

#: After a worker's death: what it wrote lies two rolls back when it can be judged.
ROLLS_AFTER_DEATH = 2


def sweep_after_roll(loop: Loop, live: LiveJob) -> Sweep | None:
    """What is to be looked through when the roll that is decided now is done; None: nothing, or not yet."""
    if not live.rolls_to_sweep:
        return None
    epoch, _ = live.tenure.next_position()
    slots = loop.placement.workers.values()
    if not all(slot.pid for slot in slots):
        return None  # who is that? at the next roll
    live.rolls_to_sweep -= 1
    return Sweep(epoch + 1, live.first_epoch, frozenset(slot.pid for slot in slots))


def worker_died(live: LiveJob, pid: int) -> None:
    """What a worker of ours had written and not reported: gone at once where nothing is kept, else to be swept."""
    live.rolls_to_sweep = ROLLS_AFTER_DEATH
    if live.memory is None or live.memory.shared_dir is None:
        return
    coming = (users_in(live.job.topology, record) for record in live.records if isinstance(record, Completed))
    named = {*live.blobs.names, *(name for users in coming for name in users)}
    folder = epoch_name(1)
    try:
        files = os.listdir(f"{live.memory.shared_dir}/{BLOBS}/{folder}")
    except FileNotFoundError:
        return  # most jobs have no blobs
    mine = {f"{folder}/{file}" for file in files if file.startswith(f"{pid}.")}
    live.memory.release_blobs(mine - named)


class Sweeping:
    """One look at the leftovers of a job; a task for the committer."""

    def __init__(self, loop: Loop, live: LiveJob, sweep: Sweep) -> None:
        self._loop = loop
        self._live = live
        self._sweep = sweep
        self._found: dict[str, list[Ref]] = {}
        self._results: set[str] = set()

    def __call__(self) -> None:
        live = self._live
        live.tenure.sweep_blobs(self._sweep, self._named, lambda: live.is_finished or live.lost is not None)
        found = {name: refs for name, refs in self._found.items() if name not in self._results}
        if found:
            self._loop.commands.append(lambda: live.blobs.inherit(found))  # heard at its next turn

    def _named(self, ref: LogRef, frame: bytes) -> None:
        record = decode_record(frame, (ref.epoch, ref.commit, ref.frame))
        if not isinstance(record, Completed):
            return
        for name, users in users_in(self._live.job.topology, record).items():
            if (parse_epoch(name.partition("/")[0]) or 0) >= self._sweep.first_epoch:
                continue  # one of ours, known since it was committed
            if None in users:
                self._results.add(name)
            else:
                self._found.setdefault(name, []).extend(b.ref for b in users if b is not None and b.ref is not None)
