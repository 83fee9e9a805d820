"""One owner per epoch, at every interleaving: a rival acts just before the k-th file operation, for all k."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

import pytest

from routilux_mp._storage import reader, takeover
from routilux_mp._storage.frames import OPEN, SEAL
from routilux_mp._storage.housekeeping import Housekeeper
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.put import Putter
from routilux_mp.errors import Fenced, RoutiluxError, UsageError
from tests.support.faulty import FaultyFiles
from tests.support.memory import MemoryFiles
from tests.support.stores import BASE, JOB, committed, make_store, truth

K_MAX = 500


def a_job(disk: MemoryFiles, *, rolls: int = 0) -> Tenure:
    tenure = make_store(disk, seed=1).create(JOB, b"{}")
    tenure.commit([b"1"])
    for _ in range(rolls):
        tenure.roll(b"state")
    return tenure


def at_every_operation(
    step: Callable[[MemoryFiles, FaultyFiles], None], rival: Callable[[MemoryFiles], Callable[[], None]], *, least: int
) -> None:
    """Run `step` once per k, with the rival's whole action just before its k-th operation."""
    for k in range(1, K_MAX):
        disk = MemoryFiles()
        fs = FaultyFiles(disk)
        act = rival(disk)
        fs.__init__(disk, k, action=act)  # type: ignore[misc]
        step(disk, fs)
        if fs.fired is None:
            assert k > least, f"only {k} operations"
            return
    raise AssertionError("it never ended")


def commit_against_take_over() -> None:
    """The owner commits while a rival takes over: acknowledged and seen by the rival, or Fenced."""
    outcomes = set()
    for k in range(1, K_MAX):
        disk = MemoryFiles()
        fs = FaultyFiles(disk)
        owner = make_store(fs, seed=1).create(JOB, b"{}")
        owner.commit([b"1"])
        seen: list[list[bytes]] = []

        def rival(disk: MemoryFiles = disk, seen: list[list[bytes]] = seen) -> None:
            log, tenure = make_store(disk, seed=2).take_over(JOB)
            seen.append(committed(log))
            tenure.commit([b"rival"])

        fs.__init__(disk, k, action=rival)  # type: ignore[misc]
        try:
            owner.commit([b"2"])
            acknowledged = True
        except Fenced:
            acknowledged = False
        if fs.fired is None:
            break
        outcomes.add(acknowledged)
        assert seen[0] == ([b"1", b"2"] if acknowledged else [b"1"])
        assert truth(disk) == [*seen[0], b"rival"]
        with pytest.raises(Fenced):
            owner.commit([b"3"])
    assert outcomes == {True, False}


def test_a_commit_against_a_take_over() -> None:
    commit_against_take_over()


def test_mutant_a_put_that_overwrites_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryFiles.link_unnamed

    def overwrite(self: MemoryFiles, handle: int, target: str, target_at: int) -> None:
        if target == "c00000003":  # the probe would find one that overwrites always
            self._add(target_at, target, self._file(handle))
        else:
            real(self, handle, target, target_at)

    monkeypatch.setattr(MemoryFiles, "link_unnamed", overwrite)
    with pytest.raises((AssertionError, RoutiluxError)):
        commit_against_take_over()


def test_mutant_a_take_over_without_a_seal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "_sealed", lambda place, writer, log, reason: log)
    monkeypatch.setattr(reader, "is_end_of", lambda last, following: True)
    with pytest.raises((AssertionError, RoutiluxError)):
        commit_against_take_over()


def test_mutant_ours_taken_for_granted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """EEXIST is success only when owner and nonce are ours."""
    monkeypatch.setattr(Putter, "_is_ours", lambda *args: True)
    with pytest.raises((AssertionError, RoutiluxError)):
        commit_against_take_over()


def test_a_take_over_against_a_commit_or_a_roll() -> None:
    """The living owner goes on at any moment of a take-over: nothing acknowledged is lost."""
    for act in ("commit", "roll", "commit twice"):
        for k in range(1, K_MAX):
            disk = MemoryFiles()
            owner = a_job(disk)
            acknowledged = [b"1"]

            def go_on(owner: Tenure = owner, acknowledged: list[bytes] = acknowledged, act: str = act) -> None:
                for data in (b"2", b"3")[: 2 if act == "commit twice" else 1]:
                    try:
                        owner.roll(b"state") if act == "roll" else None
                        owner.commit([data])
                        acknowledged.append(data)
                    except Fenced:
                        return

            fs = FaultyFiles(disk, k, action=go_on)
            try:
                log, tenure = make_store(fs, seed=2).take_over(JOB)
            except Fenced:
                assert act == "roll"  # it opened the next epoch first
            else:
                tenure.commit([b"new"])
                if committed(log) == acknowledged:
                    acknowledged.append(b"new")
                else:  # the owner acted after the reading was complete, in an epoch that was its own
                    raise AssertionError((k, act, committed(log), acknowledged))
            assert truth(disk) == acknowledged
            if fs.fired is None:
                break


def test_two_take_overs_have_one_winner() -> None:
    lost = 0
    for k in range(1, K_MAX):
        disk = MemoryFiles()
        old = a_job(disk)
        rivals: list[Tenure] = []

        def rival(disk: MemoryFiles = disk, rivals: list[Tenure] = rivals) -> None:
            rivals.append(make_store(disk, seed=3).take_over(JOB)[1])

        fs = FaultyFiles(disk, k, action=rival)
        store = make_store(fs, seed=2)
        try:
            tenure = store.take_over(JOB)[1]
        except Fenced:
            lost += 1
            rivals[0].commit([b"rival"])
            assert truth(disk) == [b"1", b"rival"]
        else:
            fired, _ = fs.fired, fs.heal()
            winner, *beaten = sorted((tenure, *rivals, old), key=lambda one: -one.epoch)
            winner.commit([b"2"])
            assert len({one.epoch for one in (tenure, *rivals)}) == 1 + len(rivals), "two owners of one epoch"
            for one in beaten:
                with pytest.raises(Fenced):
                    one.commit([b"late"])
            assert truth(disk) == [b"1", b"2"]
            if fired is None:
                break
    assert lost > 10


def test_a_take_over_based_on_an_old_reading_is_fenced() -> None:
    """The owner that was thought dead when the job was read may have a living successor by now."""
    disk = MemoryFiles()
    a_job(disk)
    store = make_store(disk, seed=2)
    reading = store.read(JOB)
    _, successor = make_store(disk, seed=3).take_over(JOB)
    with pytest.raises(Fenced, match="opened epoch 2 first"):
        store.take_over(JOB, log=reading)
    successor.commit([b"2"])
    assert truth(disk) == [b"1", b"2"]


def test_a_take_over_from_a_reading_adds_what_came_since() -> None:
    disk = MemoryFiles()
    owner = a_job(disk)
    store = make_store(disk, seed=2)
    reading = store.read(JOB)
    owner.commit([b"2"])
    log, tenure = store.take_over(JOB, log=reading)
    assert committed(log) == [b"1", b"2"]
    assert log.is_sealed
    assert log.seal_reason == "takeover"
    assert tenure.next_position() == (2, 2)


def test_the_fenced_owner_is_told_by_whom() -> None:
    disk = MemoryFiles()
    owner = a_job(disk)
    rival = make_store(disk, seed=2)
    rival.take_over(JOB)
    with pytest.raises(Fenced, match=rf"taken over by pid {rival.owner.pid} on .*\(takeover\)"):
        owner.commit([b"late"])
    for late in (lambda: owner.roll(b""), lambda: owner.seal("ended"), lambda: owner.commit([b"again"])):
        with pytest.raises(Fenced):
            late()
    assert truth(disk) == [b"1"]


def test_a_sealed_job_is_taken_over_without_another_seal() -> None:
    for reason in ("handover", "ended"):
        disk = MemoryFiles()
        owner = a_job(disk)
        owner.seal(reason)  # type: ignore[arg-type]
        with pytest.raises(Fenced, match="sealed by this process"):
            owner.commit([b"late"])
        log, tenure = make_store(disk, seed=2).take_over(JOB)
        assert log.seal_reason == reason
        assert log.commit == 3
        tenure.commit([b"2"])
        assert truth(disk) == [b"1", b"2"]


def test_creating_a_job_twice() -> None:
    """At every interleaving one creator gets it; the other is told, and has changed nothing."""
    for k in range(1, K_MAX):
        disk = MemoryFiles()
        winners: list[Tenure] = []

        def rival(disk: MemoryFiles = disk, winners: list[Tenure] = winners) -> None:
            try:
                winners.append(make_store(disk, seed=2).create(JOB, b'{"by": "rival"}'))
            except UsageError:
                pass

        fs = FaultyFiles(disk, k, action=rival)
        try:
            winners.append(make_store(fs, seed=1).create(JOB, b'{"by": "first"}'))
        except UsageError:
            pass  # the rival has it
        assert len(winners) == 1
        winners[0].commit([b"1"])
        assert truth(disk) == [b"1"]
        if fs.fired is None:
            break
    with pytest.raises(UsageError, match="resume it, or choose another id"):
        make_store(disk, seed=3).create(JOB, b"{}")


def test_a_sealer_that_slept_through_a_collection() -> None:
    """It can only make a file in a dead epoch; readers go on seeing the truth, and it loses at OPEN."""
    lost = 0
    for k in range(1, K_MAX):
        disk = MemoryFiles()
        owner = a_job(disk)
        owner.commit([b"2"])

        acknowledged = [b"1", b"2"]

        def live_on(owner: Tenure = owner, acknowledged: list[bytes] = acknowledged) -> None:
            for data in (b"3", b"4", b"5"):
                try:
                    owner.roll(b"state before " + data)
                    owner.commit([data])
                except Fenced:
                    return
                acknowledged.append(data)
                owner.housekeep()

        # The sealer read epoch 1, then slept: `log` fixes what it believes.
        sleeper = make_store(disk, seed=2)
        reading = sleeper.read(JOB)
        fs = FaultyFiles(disk, k, action=live_on)
        sleeper = make_store(fs, seed=2)
        sleeper.prepare()
        try:
            log, _ = sleeper.take_over(JOB, log=reading)
            assert committed(log) == acknowledged
        except Fenced:
            lost += 1
        final = make_store(disk, seed=4).read(JOB)
        assert committed(final) == acknowledged
        for ref, data in final.history():
            assert final.read(ref) == data
        if fs.fired is None:
            assert lost > 8
            return


def test_a_bogus_seal_among_collected_commits_is_not_read() -> None:
    disk = MemoryFiles()
    owner = a_job(disk)
    for data in (b"2", b"3"):
        owner.commit([data])
    raw = disk.files(BASE)[f"{BASE}/epochs/e0000001/c00000002"]
    refs = dict(make_store(disk).read(JOB).history())
    late_seal, _ = owner._writer.seal_file(1, 3, hashlib.sha256(raw).digest(), "takeover")
    for data in (b"4", b"5", b"6"):
        owner.roll(b"state")
        owner.commit([data])
        owner.housekeep()
    assert f"{BASE}/epochs/e0000001/c00000003" not in disk.files(BASE)
    disk.set(f"{BASE}/epochs/e0000001/c00000003", late_seal)
    log = make_store(disk, seed=2).read(JOB)
    assert [log.read(ref) for ref in refs] == list(refs.values()) == [b"1", b"2", b"3"]
    assert committed(log) == [b"1", b"2", b"3", b"4", b"5", b"6"]
    for name in ("e0000003", "e0000004"):
        del disk.node(f"{BASE}/snapshots").names[name]  # type: ignore[union-attr]
    assert truth(disk) == [b"1", b"2", b"3", b"4", b"5", b"6"]


# -- collection ---------------------------------------------------------------------------------


def kinds_deleted(disk: MemoryFiles, work: Callable[[], None]) -> dict[str, bytes]:
    before = disk.files(BASE)
    work()
    after = disk.files(BASE)
    return {path: raw for path, raw in before.items() if path not in after}


def collection_keeps_what_it_must() -> None:
    disk = MemoryFiles()
    tenure = a_job(disk)
    snapshots_seen: set[str] = set()
    for at in range(2, 8):
        for data in (b"x", b"y"):
            tenure.commit([data])
        tenure.roll(b"state %d" % at)
        deleted = kinds_deleted(disk, tenure.housekeep)
        snapshots_seen |= {path for path in disk.files(BASE) if "/snapshots/" in path}
        for path in deleted:
            if "/epochs/" in path:
                epoch = int(path.split("/")[-2][1:])
                assert deleted[path][4] not in (OPEN, SEAL), f"{path} is for the life of the job"
                assert epoch < tenure.epoch, f"{path} is of the living epoch"
                newer = [p for p in disk.files(BASE) if "/snapshots/" in p and int(p[-7:]) > epoch]
                assert len(newer) >= 2, f"{path} went with {len(newer)} newer snapshots"
                assert f"{BASE}/archive/e{epoch:07d}" in disk.files(BASE), f"{path} is not archived"
            assert "/archive/" not in path
        assert len([path for path in disk.files(BASE) if "/snapshots/" in path]) == min(2, at - 1)
    assert not any(path.endswith("e0000001/c00000002") for path in disk.files(BASE)), "nothing was collected"
    assert truth(disk) == [b"1", *[b"x", b"y"] * 6]


def test_collection_keeps_what_it_must() -> None:
    collection_keeps_what_it_must()


def test_mutant_a_collection_of_seals_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(self: Housekeeper, epoch: int) -> None:
        for name in self._place.names("epochs", f"e{epoch:07d}"):
            self._unlink(name, "epochs", f"e{epoch:07d}")

    monkeypatch.setattr(Housekeeper, "_delete_commits", too_much)
    with pytest.raises((AssertionError, RoutiluxError)):
        collection_keeps_what_it_must()


def test_mutant_a_collection_with_one_snapshot_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Housekeeper._kept_snapshots
    monkeypatch.setattr(Housekeeper, "_kept_snapshots", lambda self: real(self)[:1] * 2)
    with pytest.raises((AssertionError, RoutiluxError)):
        collection_keeps_what_it_must()


def test_no_collection_while_a_snapshot_is_damaged() -> None:
    """Two snapshots that can be used, not two names."""
    disk = MemoryFiles()
    tenure = a_job(disk)
    tenure.roll(b"2")
    tenure.housekeep()
    disk.set(f"{BASE}/snapshots/e0000002", b"garbage")
    successor = make_store(disk, seed=2).take_over(JOB)[1]
    successor.roll(b"4")
    assert kinds_deleted(disk, successor.housekeep) == {}
    successor.roll(b"5")
    assert f"{BASE}/epochs/e0000001/c00000002" in kinds_deleted(disk, successor.housekeep)


def test_no_collection_of_an_epoch_whose_archive_is_damaged() -> None:
    disk = MemoryFiles()
    tenure = a_job(disk)
    tenure.roll(b"2")
    tenure.housekeep()
    raw = disk.files(BASE)[f"{BASE}/archive/e0000001"]
    disk.set(f"{BASE}/archive/e0000001", raw[:-9] + b"\1" + raw[-8:])
    for state in (b"3", b"4", b"5"):
        tenure.roll(state)
        tenure.housekeep()
    assert f"{BASE}/epochs/e0000001/c00000002" in disk.files(BASE)
    assert truth(disk) == [b"1"]


def test_a_reader_while_everything_is_collected() -> None:
    """At every operation of a reading the owner rolls and collects: the reading is whole, or a longer one."""

    def step(disk: MemoryFiles, fs: FaultyFiles) -> None:
        log = make_store(fs, seed=5).read(JOB)
        found = committed(log)
        expected = [b"1", b"2", b"3", b"4"]
        assert found == expected[: len(found)]
        assert len(found) >= 1

    def rival(disk: MemoryFiles) -> Callable[[], None]:
        owner = a_job(disk)

        def act() -> None:
            for data in (b"2", b"3", b"4"):
                owner.roll(b"state before " + data)
                owner.commit([data])
                owner.housekeep()

        return act

    at_every_operation(step, rival, least=10)


def test_blobs_go_when_both_kept_snapshots_are_newer_than_their_release() -> None:
    disk = MemoryFiles()
    tenure = a_job(disk)
    ref = tenure.put_blob("n-1", [b"large"])
    kept = tenure.put_blob("n-2", [b"large"])
    assert ref.name == "e0000001/n-1"
    tenure.roll(b"2")
    tenure.release_blobs([ref.name])  # in epoch 2: its snapshot still names the blob
    tenure.housekeep()
    tenure.roll(b"3")
    tenure.housekeep()
    assert f"{BASE}/blobs/{ref.name}" in disk.files(BASE)
    successor = make_store(disk, seed=2).take_over(JOB)[1]  # a successor knows it from the snapshot
    successor.roll(b"5")
    successor.housekeep()
    assert f"{BASE}/blobs/{ref.name}" not in disk.files(BASE)
    assert f"{BASE}/blobs/{kept.name}" in disk.files(BASE)


def test_commits_beside_housekeeping() -> None:
    disk = MemoryFiles()
    tenure = a_job(disk)
    stop = threading.Event()

    def keep_house() -> None:
        while not stop.is_set():
            tenure.housekeep()

    thread = threading.Thread(target=keep_house)
    thread.start()
    try:
        expected = [b"1"]
        for at in range(200):
            tenure.commit([b"%d" % at])
            expected.append(b"%d" % at)
            if at % 20 == 19:
                tenure.roll(b"state")
    finally:
        stop.set()
        thread.join()
    for _ in range(2):
        tenure.roll(b"state")
        tenure.housekeep()
    assert truth(disk) == expected
    assert len([path for path in disk.files(BASE) if "/epochs/" in path]) < 100


def test_mutant_a_collection_without_an_archive_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_looking(self: Housekeeper, epoch: int) -> None:
        for number in range(2, 5):
            self._unlink(f"c{number:08d}", "epochs", f"e{epoch:07d}")

    monkeypatch.setattr(Housekeeper, "_archive", lambda self: None)
    monkeypatch.setattr(Housekeeper, "_is_archived", lambda self, epoch: True)
    monkeypatch.setattr(Housekeeper, "_delete_commits", without_looking)
    with pytest.raises((AssertionError, RoutiluxError)):
        collection_keeps_what_it_must()


def test_mutant_a_collection_in_the_living_epoch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def also_the_living(self: Housekeeper) -> None:
        self._unlink("c00000002", "epochs", f"e{self._epoch - 1:07d}")
        self._unlink("c00000002", "epochs", f"e{self._epoch:07d}")

    monkeypatch.setattr(Housekeeper, "_collect", also_the_living)
    with pytest.raises((AssertionError, RoutiluxError)):
        collection_keeps_what_it_must()
