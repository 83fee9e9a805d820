"""A power cut at every point of a life of 100 commits: nothing acknowledged is lost, nothing half is read.

The life has rolls, archives, collection, blobs, views and a hand-over to a second owner. After each
operation the states that the disk may be in are made as `support/power` says: of up to six changes of
directories that are not safe yet (mkdir, link, replace, unlink) every subset; of more, every subset of
the newest two with all, none and some of the older ones; unsynced data lost, half there and there.
Equal states are checked once, a few thousand of them. In each one a successor must read
everything that was acknowledged before the cut, no half batch, no torn view, and go on.
"""

from __future__ import annotations

from random import Random

import pytest

from routilux_mp._storage.blobs import map_blob
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.store import Store
from routilux_mp.errors import RoutiluxError
from tests.support.memory import MemoryFiles
from tests.support.power import Change, Mark, Medium, RecordingFiles, Sync
from tests.support.stores import JOB, ROOT, committed, make_store, truth

COMMITS = 100
#: Commits after which the epoch is rolled, the job handed over, a blob put, a blob given up.
ROLLS = set(range(9, COMMITS, 10))
HAND_OVER = 55
BLOB_PUT, BLOB_RELEASED = 12, 33


def live(fs: RecordingFiles, commits: int) -> None:
    """The life; each commit is two frames, marked when it has been acknowledged; the first goes with the OPEN."""
    store = make_store(fs, seed=1)
    tenure = store.create(JOB, b"{}", [b"0a", b"0b"])
    fs.mark(1)
    for number in range(1, commits):
        if number == BLOB_PUT:
            tenure.put_blob("one", [b"large" * 100])
        tenure.commit([b"%da" % number, b"%db" % number])
        fs.mark(number + 1)
        if number == BLOB_RELEASED:
            tenure.release_blobs(["e0000002/one"])
        if number in ROLLS:
            tenure.roll(b"state after %d" % number)
            tenure.write_views(None, b'{"done": %d}' % number)
            tenure.housekeep()
        if number == HAND_OVER:
            tenure = hand_over(fs, store, tenure)
    tenure.seal("ended")


def hand_over(fs: RecordingFiles, store: Store, tenure: Tenure) -> Tenure:
    tenure.seal("handover")
    store.close()
    log, tenure = make_store(fs, seed=2).take_over(JOB, log=None)
    tenure.inherit(log.released_blobs)
    return tenure


def check(disk: MemoryFiles, acknowledged: int | None) -> None:
    """What a successor finds; `acknowledged` None: not even the creation was."""
    with make_store(disk, seed=3) as store:
        try:
            log, tenure = store.take_over(JOB)
        except RoutiluxError:
            assert acknowledged is None, "an acknowledged job cannot be taken over"
            return
        found = committed(log)
        count = len(found) // 2
        assert found == expected(count), "half a batch, or another order"
        assert count in ((acknowledged or 0), (acknowledged or 0) + 1), "an acknowledged commit is lost"
        store.read_views(JOB)
        if BLOB_PUT < count <= BLOB_RELEASED:
            map_blob(f"{ROOT}/{JOB}/blobs/e0000002/one", fs=disk).release()
        tenure.commit([b"successor"])
        tenure.close()
    assert truth(disk) == [*found, b"successor"]


def expected(commits: int) -> list[bytes]:
    return [b"%d%c" % (number, letter) for number in range(commits) for letter in b"ab"]


def cut_everywhere(fs: RecordingFiles) -> int:
    """Checks every state of every moment; how many different ones there were."""
    medium, acknowledged, random = Medium(), None, Random("power cut")
    seen: set[object] = set()
    for event in fs.events:
        if isinstance(event, Mark):
            acknowledged = event.value
        else:
            medium.apply(event)
        for state in medium.states(random):
            key = (state.entries, acknowledged)
            if key not in seen:
                seen.add(key)
                check(state.disk(), acknowledged)
    return len(seen)


@pytest.mark.slow
def test_a_power_cut_at_every_point_of_a_hundred_commits() -> None:
    fs = RecordingFiles(MemoryFiles())
    live(fs, COMMITS)
    assert cut_everywhere(fs) > 4_000


def test_a_power_cut_at_every_point_of_a_few_commits() -> None:
    fs = RecordingFiles(MemoryFiles())
    live(fs, 14)
    assert cut_everywhere(fs) > 60


# -- negative controls --------------------------------------------------------------------------


def without_fsync(fs: RecordingFiles, *, of_directories: bool) -> None:
    """As if the store had not called it."""
    directories = {event.directory for event in fs.events if isinstance(event, Change)}
    fs.events = [
        event
        for event in fs.events
        # The root itself (0) is the operator's.
        if not (isinstance(event, Sync) and event.node > 0 and (event.node in directories) == of_directories)
    ]


@pytest.mark.parametrize("of_directories", [True, False], ids=["of directories", "of files"])
def test_a_store_without_fsync_is_found(of_directories: bool) -> None:
    fs = RecordingFiles(MemoryFiles())
    live(fs, 14)
    without_fsync(fs, of_directories=of_directories)
    with pytest.raises((AssertionError, RoutiluxError)):
        cut_everywhere(fs)
