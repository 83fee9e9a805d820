"""The real store under 2,000 seeds of delays, crashes, stale caches, lost replies and full disks.

And under the same with one rule of the store taken away, which must be seen: otherwise it proves nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import pytest

from routilux_mp._storage import housekeeping, reader, takeover, views
from routilux_mp._storage.housekeeping import Housekeeper
from routilux_mp._storage.layout import EPOCHS, commit_name, epoch_name
from routilux_mp._storage.log import Tenure, Writer
from routilux_mp._storage.place import Place
from routilux_mp._storage.put import Putter, blocked, outcome_unknown
from routilux_mp._storage.replay import JobLog
from routilux_mp.errors import CheckpointDamaged, Fenced
from tests.simulation.store_sim import Broken, simulate

SEEDS = 2_000
SHARES = 8
MUTANT_SEEDS_MAX = 400


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Put-off housekeeping is logged; a few thousand lines of it help nobody."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_the_store_is_safe(share: int) -> None:
    for seed in range(share * SEEDS // SHARES, (share + 1) * SEEDS // SHARES):
        simulate(seed)


def test_a_few_seeds() -> None:
    """What is left of the above where slow tests are left out; and the seeds reach what they are for."""
    seen = Counter[str]()
    for seed in range(SEEDS, SEEDS + 100):
        seen.update(simulate(seed).met())
    missing = [what for what, count in seen.items() if not count and not what.startswith("SEALs of sleepers")]
    assert not missing, f"never met in 100 seeds: {missing}"


def test_a_seed_replays_alone() -> None:
    first, second = simulate(77), simulate(77)
    assert (first.calls, first.history(), first.acknowledged) == (second.calls, second.history(), second.acknowledged)
    assert first.disk.files() == second.disk.files()


# -- mutants ------------------------------------------------------------------------------------


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """A commit file is renamed into place, over whatever is there."""

    def put(
        self: Putter, tmp: int, at: int, name: str, data: Sequence[bytes], *,
        where: str, is_synced: bool = True, above: Sequence[int] = (), rest: Iterable[bytes] = (),
    ) -> bool:  # fmt: skip
        private = self.private_name()
        with outcome_unknown(where):
            for directory in above:
                self.fs.fsync(directory)
            handle = self.fs.create(private, tmp)
            for part in (*data, *rest):
                self.fs.write(handle, part)
            self.fs.fsync(handle)
            self.fs.close(handle)
            self.fs.replace(private, tmp, name, at)
            self.fs.fsync(at)
        return True

    patch.setattr(Putter, "put", put)


def seal_deleted(patch: pytest.MonkeyPatch) -> None:
    """Collection takes the SEAL of an ended epoch as well."""
    rest = Housekeeper._delete_commits

    def delete(self: Housekeeper, epoch: int) -> None:
        rest(self, epoch)
        last = len(reader.LogReader(self._place).archive(epoch))
        self._unlink(commit_name(last), EPOCHS, epoch_name(epoch))

    patch.setattr(Housekeeper, "_delete_commits", delete)


def collection_in_a_live_epoch(patch: pytest.MonkeyPatch) -> None:
    """An epoch's COMMITs are deleted once they are copied, although it goes on."""
    rest = Housekeeper._collect

    def collect(self: Housekeeper) -> None:
        rest(self)
        names = sorted(self._place.names(EPOCHS, epoch_name(self._epoch)))
        for name in names[1:-1]:
            self._unlink(name, EPOCHS, epoch_name(self._epoch))

    patch.setattr(Housekeeper, "_collect", collect)


def listing_trusted(patch: pytest.MonkeyPatch) -> None:
    """Nothing later is listed, so the log ends here: no SEAL is put before the next OPEN."""

    def ends(last: Any, following: Any) -> bool:
        return last is not None and following.header.predecessor == last.digest

    patch.setattr(takeover, "_sealed", lambda place, writer, log, reason: log)
    for module in (reader, housekeeping):
        patch.setattr(module, "is_end_of", ends)


def lock_trusted(patch: pytest.MonkeyPatch) -> None:
    """Who gets the lock (it lies) goes on in the same epoch, and need not ask whether a place is free."""
    proper = takeover.take_over

    def take_over(
        place: Place, writer: Writer, log: JobLog, reason: Literal["takeover", "handover"]
    ) -> tuple[JobLog, Tenure]:
        if log.epoch == 0 or log.is_sealed:
            return proper(place, writer, log, reason)
        tenure = Tenure(place, writer, epoch=log.epoch, digest=log.digest)
        tenure.number = log.commit
        return log, tenure

    patch.setattr(takeover, "take_over", take_over)
    no_fence(patch)


def lost_reply_taken_as_success(patch: pytest.MonkeyPatch) -> None:
    """EEXIST is always taken for a repeated request of our own."""
    patch.setattr(Putter, "_is_ours", lambda self, at, name, data: True)


def private_views_that_stay(patch: pytest.MonkeyPatch) -> None:
    """A successor leaves what earlier owners are about to show."""
    patch.setattr(views.Views, "_take_away", lambda *args, **kwargs: None)


def views_renamed_where_none_is_seen(patch: pytest.MonkeyPatch) -> None:
    """What is not seen is taken to be absent."""

    def put(self: views.Views, tmp: int, job: int, name: str, raw: bytes) -> bool:
        private = self._place.root.putter.private_name()
        with blocked(name):
            self._create(tmp, private, raw)
            self._place.fs.replace(private, tmp, name, job)
        return True

    patch.setattr(views.Views, "_put", put)


MUTANTS = [
    no_fence,
    seal_deleted,
    collection_in_a_live_epoch,
    listing_trusted,
    lock_trusted,
    lost_reply_taken_as_success,
    private_views_that_stay,
    views_renamed_where_none_is_seen,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_store_is_found(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    for seed in range(MUTANT_SEEDS_MAX):
        try:
            simulate(seed)
        except (Broken, CheckpointDamaged, Fenced):
            return
    raise AssertionError(f"{mutant.__name__} passed {MUTANT_SEEDS_MAX} seeds")
