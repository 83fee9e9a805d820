"""A disk for the simulation: an in-memory log of encoded frames per job, and commits that end when chance says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from random import Random
from typing import Literal, Protocol

from routilux_mp._core.batch import Batch
from routilux_mp._core.job import Job
from routilux_mp._core.step import replay
from routilux_mp._storage.codec import batches_of, decode_record, decode_snapshot
from routilux_mp._storage.leftovers import Sweep, may_be_left, names_in
from routilux_mp._storage.reader import LogRef
from routilux_mp._supervisor.committer import Finished, Task
from routilux_mp.errors import Fenced, OutcomeUnknown, RoutiluxError, StorageBlocked


class SupervisorGone(BaseException):
    """The supervisor died at this very instant."""


class Watcher(Protocol):
    """Who wants to know what stands."""

    def stood(self, job_id: str, place: tuple[int, int], frames: Sequence[bytes]) -> None: ...

    def rolled(self, job_id: str, snapshot: bytes) -> None: ...

    def released(self, job_id: str, blobs: Iterable[str]) -> None: ...

    def swept(self, job_id: str, blobs: Iterable[str]) -> None: ...


class Disk:
    """What survives a supervisor. Every put asks :meth:`gate` first, which may refuse, or end the supervisor."""

    def __init__(self, rng: Random, watcher: Watcher) -> None:
        self.rng = rng
        self.watcher = watcher
        self.logs: dict[str, Log] = {}
        self.is_blocked = False
        self.room: int | None = None  # puts until it is full
        self.unknown_next = 0  # outcomes to lose
        self.puts_left: int | None = None  # before the supervisor dies; None: it lives
        self.rolls = 0
        self.roll_chance = 0.0
        self.blobs: dict[str, set[str]] = {}
        self._blob_numbers = count(1)

    def write_blob(self, job_id: str, folder: str, pid: int) -> str:
        """A name is never used twice, also not by workers of the next supervisor, though they have the same pids."""
        name = f"{folder}/{pid}.x-{next(self._blob_numbers)}"
        self.blobs.setdefault(job_id, set()).add(name)
        return name

    def gate(self, put: Callable[[], None]) -> None:
        """Let ``put`` happen, or not, and say what the caller is told about it."""
        if self.puts_left is not None:
            if self.puts_left <= 0:
                raise SupervisorGone
            self.puts_left -= 1
        if self.room is not None:
            self.room -= 1
            if self.room < 0:
                self.room, self.is_blocked = None, True
        if self.is_blocked:
            raise StorageBlocked("the disk of the simulation is full")
        if self.unknown_next:
            self.unknown_next -= 1
            if self.rng.random() < 0.5:
                put()
            raise OutcomeUnknown("the disk of the simulation did not answer")
        put()

    def recover(self, job: Job) -> int:
        """Fold everything that stands into a fresh ``job``; the epoch that its new owner has."""
        log = self.logs.setdefault(job.job_id, Log())
        epoch = max(log.snapshots, default=0)
        if epoch:
            decode_snapshot(log.snapshots[epoch], job)
        replay(job, [record for place in sorted(log.commits) if place[0] >= epoch for record in log.records(place)])
        log.epoch += 1
        return log.epoch


class Log:
    """All that stands of one job."""

    def __init__(self) -> None:
        self.epoch = 0
        self.commits: dict[tuple[int, int], list[bytes]] = {}
        self.snapshots: dict[int, bytes] = {}

    def records(self, place: tuple[int, int]) -> list:  # type: ignore[type-arg]
        return [decode_record(data, (*place, index)) for index, data in enumerate(self.commits[place])]

    def read(self, batch: Batch) -> bytes:
        """The bytes that a batch refers to."""
        assert batch.ref is not None
        epoch, commit, frame, number = batch.ref
        record = decode_record(self.commits[(epoch, commit)][frame])
        data = list(batches_of(record))[number].data
        assert data is not None
        return data


class SimTenure:
    """The right to commit in one epoch of one job."""

    def __init__(self, disk: Disk, job_id: str, epoch: int) -> None:
        self.disk = disk
        self.job_id = job_id
        self.log = disk.logs[job_id]
        self.epoch = epoch
        self.number = 1
        self.is_over = False
        self.is_sealed = False
        self._rolling: bytes | None = None
        self._snapshot: tuple[int, bytes] | None = None

    def next_position(self) -> tuple[int, int]:
        return (self.epoch + 1, 2) if self._rolling is not None else (self.epoch, self.number + 1)

    def commit(self, data: Sequence[bytes]) -> None:
        self._open_if_rolling()
        place = (self.epoch, self.number + 1)

        def put() -> None:
            assert place not in self.log.commits, "two commits at one place"
            self.log.commits[place] = list(data)
            self.disk.watcher.stood(self.job_id, place, data)

        self._gate(put)
        self.number += 1

    def should_roll(self, snapshot_bytes_estimate: int, blob_bytes: int = 0) -> bool:
        return self.disk.rng.random() < self.disk.roll_chance

    def roll(self, snapshot: bytes) -> None:
        if self._rolling is None:
            self.disk.watcher.rolled(self.job_id, snapshot)
            self._gate(lambda: None)
            self.number += 1
            self._rolling = snapshot
        self._open_if_rolling()

    def secure_blobs(self, folders: Iterable[str]) -> None:
        pass

    def release_blobs(self, names: Iterable[str]) -> None:
        self.disk.watcher.released(self.job_id, names)

    def sweep_blobs(
        self, sweep: Sweep, named: Callable[[LogRef, bytes], None], is_over: Callable[[], bool] = bool
    ) -> None:
        if is_over():
            return
        left = {name for name in self.disk.blobs.get(self.job_id, ()) if may_be_left(name, sweep)}
        unnamed = set(left)
        for place, frames in sorted(self.log.commits.items()):
            for index, frame in enumerate(frames if place[0] < sweep.epoch else ()):
                found = names_in(frame) & left
                if found:
                    unnamed -= found
                    named(LogRef(*place, index), frame)
        self.disk.blobs.setdefault(self.job_id, set()).difference_update(unnamed)
        self.disk.watcher.swept(self.job_id, unnamed)

    def housekeep(self) -> None:
        if self._snapshot is not None and self.disk.puts_left is None:
            epoch, data = self._snapshot
            self.log.snapshots[epoch] = data

    def seal(self, reason: Literal["handover", "ended"]) -> None:
        self._open_if_rolling()
        self._gate(lambda: None)
        self.is_over = self.is_sealed = True

    def show(self, make: Callable[[], tuple[bytes | None, bytes]]) -> None:
        pass

    def close(self) -> None:
        self.is_over = True

    def _open_if_rolling(self) -> None:
        if self._rolling is None:
            return

        def put() -> None:
            self.log.epoch = self.epoch + 1

        self._gate(put)
        self.disk.rolls += 1
        self.epoch, self.number = self.epoch + 1, 1
        self._snapshot, self._rolling = (self.epoch, self._rolling), None

    def _gate(self, put: Callable[[], None]) -> None:
        if self.is_over or self.log.epoch != self.epoch:
            raise Fenced(f"the tenure of {self.job_id} is over")  # its successor has sealed the epoch
        try:
            self.disk.gate(put)
        except OutcomeUnknown:
            self.is_over = True
            raise


class SimCommitter:
    """Commits are under way until :meth:`work` ends one; those of different jobs in any order."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.pending: list[tuple[str, Task]] = []
        self._finished: deque[Finished] = deque()

    def submit(self, key: str, task: Task, *, is_awaited: bool = True, after_s: float = 0.0) -> None:
        assert key.startswith("\0") or all(key != other for other, _ in self.pending), "two puts of one job at once"
        self.pending.append((key, task))

    def finished(self) -> list[Finished]:
        done = list(self._finished)
        self._finished.clear()
        return done

    @property
    def has_news(self) -> bool:
        return bool(self._finished)

    def work(self) -> None:
        """One task runs to its end."""
        key, task = self.pending.pop(self.rng.randrange(len(self.pending)))
        error: BaseException | None = None
        try:
            task()
        except RoutiluxError as caught:
            error = caught
        self._finished.append((key, error))

    def close(self) -> None:
        pass
