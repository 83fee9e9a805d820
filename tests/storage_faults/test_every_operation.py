"""Fail the k-th file operation, k = 1, 2, ... until everything works: nothing acknowledged is ever lost."""

from __future__ import annotations

import errno

import pytest

from routilux_mp._storage import put
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.store import Store
from routilux_mp.errors import Fenced, OutcomeUnknown, RoutiluxError, StorageBlocked, StorageError, UsageError
from tests.support.faulty import Crashed, FaultyFiles
from tests.support.memory import MemoryFiles
from tests.support.stores import BASE, JOB, committed, make_store, truth

FAULTS = [
    pytest.param(errno.EIO, "before", id="EIO before"),
    pytest.param(errno.EIO, "after", id="EIO after", marks=pytest.mark.slow),
    pytest.param(errno.ENOSPC, "before", id="ENOSPC before", marks=pytest.mark.slow),
    pytest.param(None, "before", id="killed before", marks=pytest.mark.slow),
    pytest.param(None, "after", id="killed after"),
]
K_MAX = 2_000


class Life:
    """A job from creation to seal; `acknowledged` is what its owner was told is safe."""

    def __init__(self) -> None:
        self.acknowledged: list[bytes] = []
        self.attempted: list[bytes] = []
        self.was_created = False

    def live(self, store: Store) -> None:
        self.attempted.append(b"first")
        tenure = store.create(JOB, b'{"flow": 1}', [b"first"])
        self.acknowledged.append(b"first")
        self.was_created = True
        for round_number in range(4):
            self._commit(tenure, b"a%d" % round_number, b"b%d" % round_number)
            self._commit(tenure, b"c%d" % round_number)
            tenure.roll(b"state %d" % round_number)
            tenure.housekeep()
        self._commit(tenure, b"last")
        tenure.write_views(None, b'{"state": 1}')
        tenure.seal("ended")

    def _commit(self, tenure: Tenure, *data: bytes) -> None:
        self.attempted += data
        tenure.commit(data)
        self.acknowledged += data


def lives_through(fs: FaultyFiles, life: Life) -> bool:
    """Whether the whole life passed; what ends it early is a named error or the process's death."""
    store = make_store(fs)
    try:
        life.live(store)
    except (RoutiluxError, Crashed):
        return False
    return True


def check(disk: MemoryFiles, life: Life) -> None:
    """A successor reads all that was acknowledged, nothing half, and can go on."""
    with make_store(disk, seed=1) as store:
        if not life.was_created and JOB not in store.jobs():
            return
        try:
            log, tenure = store.take_over(JOB)
        except RoutiluxError:
            assert not life.was_created, "an acknowledged job cannot be taken over"
            return
        found = committed(log)
        assert found[: len(life.acknowledged)] == life.acknowledged
        assert found in (life.acknowledged, life.attempted), "half a commit was read"
        tenure.commit([b"successor"])
        tenure.close()
    assert truth(disk) == [*found, b"successor"]


@pytest.mark.parametrize(("error", "when"), FAULTS)
def test_a_life_with_one_fault(error: int | None, when: str) -> None:
    for k in range(1, K_MAX):
        disk, life = MemoryFiles(), Life()
        fs = FaultyFiles(disk, k, error=error, when=when)  # type: ignore[arg-type]
        passed = lives_through(fs, life)
        check(disk, life)
        if fs.fired is None:
            assert passed, "nothing failed, but the life was cut short"
            assert k > 150, f"only {k} operations were tried"
            return
    raise AssertionError(f"still failing after {K_MAX} operations")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_life_with_a_power_cut(when: str) -> None:
    """As above, and everything that was not fsynced is gone."""
    for k in range(1, K_MAX):
        disk, life = MemoryFiles(), Life()
        fs = FaultyFiles(disk, k, error=None, when=when)  # type: ignore[arg-type]
        lives_through(fs, life)
        check(disk.after_power_cut(), life)
        if fs.fired is None:
            return
    raise AssertionError(f"still failing after {K_MAX} operations")


def test_the_power_cut_checker_sees_a_missing_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the fsync of directories an acknowledged commit is lost."""
    real = MemoryFiles.fsync

    def only_files(self: MemoryFiles, handle: int) -> None:
        if not hasattr(self.handles[handle], "names"):
            real(self, handle)

    disk, life = MemoryFiles(), Life()
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFiles, "fsync", only_files)
        assert lives_through(FaultyFiles(disk), life)
    with pytest.raises((AssertionError, RoutiluxError)):
        check(disk.after_power_cut(), life)


# -- what each error of a commit means ----------------------------------------------------------


def commit_with_fault(k: int, error: int, when: str, *, unnamed: bool) -> tuple[FaultyFiles, Tenure, Exception | None]:
    disk = MemoryFiles()
    disk.can_unnamed = unnamed
    fs = FaultyFiles(disk)
    tenure = make_store(fs).create(JOB, b"{}")
    tenure.commit([b"first"])
    fs.__init__(disk, k, error=error, when=when)  # type: ignore[misc]
    try:
        tenure.commit([b"second"])
    except StorageError as caught:
        return fs, tenure, caught
    return fs, tenure, None


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EROFS])
@pytest.mark.parametrize("when", ["before", "after"])
def test_before_link_blocked_from_link_on_unknown(error: int, when: str, unnamed: bool) -> None:
    seen = []
    for k in range(1, 20):
        fs, tenure, caught = commit_with_fault(k, error, when, unnamed=unnamed)
        if fs.fired is None:
            break
        linked = any(name in ("link", "link_unnamed") for name in fs.journal)
        disk = fs.inner
        seen.append(type(caught).__name__)
        fs.heal()
        if not linked:
            assert isinstance(caught, StorageBlocked)
            assert truth(disk) == [b"first"]
            tenure.commit([b"second"])  # the same again
            assert truth(disk) == [b"first", b"second"]
        elif caught is not None:
            assert type(caught) is OutcomeUnknown
            assert truth(disk) in ([b"first"], [b"first", b"second"])
            with pytest.raises(OutcomeUnknown):  # its tenure is over
                tenure.commit([b"third"])
        else:
            assert fs.fired in ("close", "unlink"), "an error was swallowed"
            assert truth(disk) == [b"first", b"second"]
    assert seen.count("OutcomeUnknown") == 2  # link, and the fsync of the directory
    assert seen.count("StorageBlocked") == 3  # create, write, fsync


def test_a_failed_fsync_of_the_private_file_starts_a_new_one() -> None:
    """After a failed fsync the same file is never fsynced again: the kernel may have dropped its pages."""
    disk = MemoryFiles()
    fs = FaultyFiles(disk)
    tenure = make_store(fs).create(JOB, b"{}")
    fs.__init__(disk, 1, error=errno.EIO, only=lambda name, args: name == "fsync")  # type: ignore[misc]
    with pytest.raises(StorageBlocked):
        tenure.commit([b"x"])
    tenure.commit([b"x"])
    assert fs.journal.count("create_unnamed") == 2
    assert truth(disk) == [b"x"]


def test_a_lost_reply_of_link_is_success() -> None:
    """EEXIST, and the file there is our own: a network client repeated the request."""
    disk = MemoryFiles()
    fs = FaultyFiles(disk)
    tenure = make_store(fs).create(JOB, b"{}")
    fs.__init__(disk, 1, error=errno.EEXIST, when="after", only=lambda name, args: name.startswith("link"))  # type: ignore[misc]
    tenure.commit([b"x"])
    assert fs.fired == "link_unnamed"
    tenure.commit([b"y"])
    assert truth(disk) == [b"x", b"y"]


def test_a_full_disk_blocks_and_goes_on() -> None:
    disk = MemoryFiles()
    fs = FaultyFiles(disk)
    tenure = make_store(fs).create(JOB, b"{}")
    tenure.commit([b"1"])
    fs.__init__(disk, 1, error=errno.ENOSPC, lasts=True, only=lambda name, args: name == "write")  # type: ignore[misc]
    for _ in range(3):
        with pytest.raises(StorageBlocked, match=r"c00000003 cannot be written: No space left"):
            tenure.commit([b"2"])
    with pytest.raises(StorageBlocked):
        tenure.roll(b"state")
    with pytest.raises(StorageBlocked):
        tenure.write_views(None, b"{}")
    tenure.housekeep()
    assert truth(disk) == [b"1"]
    fs.heal()
    tenure.commit([b"2"])
    assert truth(disk) == [b"1", b"2"]


def test_sealing_on_a_full_disk_uses_the_ballast() -> None:
    disk = MemoryFiles()
    fs = FaultyFiles(disk)
    store = make_store(fs)
    tenure = store.create(JOB, b"{}")

    def is_full(name: str, args: tuple[object, ...]) -> bool:
        return name == "write" and any(len(data) > 60_000 for data in disk.files("root/tmp").values())

    fs.__init__(disk, 1, error=errno.ENOSPC, lasts=True, only=is_full)  # type: ignore[misc]
    with pytest.raises(StorageBlocked):
        tenure.commit([b"x"])
    tenure.seal("handover")
    assert make_store(disk).read(JOB).seal_reason == "handover"


def test_a_roll_that_was_blocked_in_the_middle_goes_on() -> None:
    """The SEAL stands, the OPEN did not fit: the next roll or commit opens the epoch."""
    disk = MemoryFiles()
    fs = FaultyFiles(disk)
    tenure = make_store(fs).create(JOB, b"{}")
    tenure.commit([b"1"])
    fs.__init__(disk, 2, error=errno.ENOSPC, only=lambda name, args: name == "create_unnamed")  # type: ignore[misc]
    with pytest.raises(StorageBlocked):
        tenure.roll(b"state")
    assert tenure.next_position() == (2, 2)
    tenure.roll(b"state")
    assert tenure.next_position() == (2, 2)
    tenure.commit([b"2"])
    tenure.housekeep()
    assert make_store(disk).read(JOB).snapshot == b"state"
    assert truth(disk) == [b"1", b"2"]


@pytest.mark.parametrize(("error", "when"), FAULTS)
def test_a_take_over_with_one_fault(error: int | None, when: str) -> None:
    """It fails by name or works; afterwards another try works, and nothing is lost."""
    for k in range(1, 500):
        disk = MemoryFiles()
        old = make_store(disk, seed=1).create(JOB, b"{}")
        old.commit([b"1"])
        old.roll(b"state")
        old.commit([b"2"])
        old.housekeep()
        fs = FaultyFiles(disk, k, error=error, when=when)  # type: ignore[arg-type]
        try:
            make_store(fs, seed=2).take_over(JOB)
        except (RoutiluxError, Crashed):
            assert fs.fired is not None
        _, tenure = make_store(disk, seed=3).take_over(JOB)
        tenure.commit([b"3"])
        assert truth(disk) == [b"1", b"2", b"3"]
        with pytest.raises(RoutiluxError):
            old.commit([b"late"])
        if fs.fired is None:
            assert k > 25
            return
    raise AssertionError("still failing after 500 operations")


def test_housekeeping_gives_up_after_a_failed_directory_fsync() -> None:
    """It can no longer know what is durable, so it deletes nothing any more."""
    disk = MemoryFiles()
    fs = FaultyFiles(disk)
    tenure = make_store(fs).create(JOB, b"{}")
    for state in (b"s2", b"s3", b"s4"):
        tenure.commit([b"x"])
        tenure.roll(state)
    handles = disk.handles
    archive_syncs = lambda name, args: name == "fsync" and hasattr(handles[args[0]], "names")  # noqa: E731
    fs.__init__(disk, 1, error=errno.EIO, only=archive_syncs)  # type: ignore[misc]
    tenure.housekeep()
    assert fs.fired == "fsync"
    before = disk.files(BASE)
    fs.heal()
    tenure.roll(b"s5")
    tenure.housekeep()
    assert set(before) <= set(disk.files(BASE))
    assert truth(disk) == [b"x"] * 3


def test_mutant_an_unknown_outcome_taken_for_blocked_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put, "outcome_unknown", put.blocked)
    with pytest.raises((AssertionError, RoutiluxError)):
        test_before_link_blocked_from_link_on_unknown(errno.EIO, "after", True)


def test_a_commit_goes_on_with_a_blocked_roll() -> None:
    disk = MemoryFiles()
    fs = FaultyFiles(disk)
    tenure = make_store(fs).create(JOB, b"{}")
    fs.__init__(disk, 2, error=errno.ENOSPC, only=lambda name, args: name == "create_unnamed")  # type: ignore[misc]
    with pytest.raises(StorageBlocked):
        tenure.roll(b"state")
    tenure.commit([b"1"])
    assert (tenure.epoch, tenure.number) == (2, 2)
    assert make_store(disk).read(JOB).commit == 2


def test_a_seal_goes_on_with_a_blocked_roll() -> None:
    disk = MemoryFiles()
    fs = FaultyFiles(disk)
    tenure = make_store(fs).create(JOB, b"{}")
    fs.__init__(disk, 2, error=errno.ENOSPC, only=lambda name, args: name == "create_unnamed")  # type: ignore[misc]
    with pytest.raises(StorageBlocked):
        tenure.roll(b"state")
    tenure.seal("ended")
    log = make_store(disk).read(JOB)
    assert (log.epoch, log.seal_reason) == (2, "ended")


def test_a_roll_that_lost_its_next_epoch_is_fenced() -> None:
    """A rival opened the epoch between this owner's SEAL and its OPEN."""
    disk = MemoryFiles()
    fs = FaultyFiles(disk)
    tenure = make_store(fs, seed=1).create(JOB, b"{}")
    fs.__init__(  # type: ignore[misc]
        disk,
        2,
        action=lambda: make_store(disk, seed=2).take_over(JOB)[1].commit([b"rival"]),
        only=lambda name, args: name == "link_unnamed",
    )
    with pytest.raises(Fenced, match="opened epoch 2 while this one rolled"):
        tenure.roll(b"state")
    with pytest.raises(Fenced):
        tenure.commit([b"late"])
    assert truth(disk) == [b"rival"]


def test_a_commit_above_the_limit_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryFiles()
    tenure = make_store(disk).create(JOB, b"{}")
    monkeypatch.setattr("routilux_mp._storage.log.COMMIT_FILE_BYTES_MAX", 1_000)
    with pytest.raises(UsageError, match="put large data into blobs"):
        tenure.commit([bytes(1_000)])
    tenure.commit([b"small"])
    assert truth(disk) == [b"small"]
