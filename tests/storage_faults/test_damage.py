"""Every cut and every flipped bit, in every kind of file: found, by name, or made good from a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from routilux_mp._storage import blobs, frames, repair, snapshots, takeover, views
from routilux_mp._storage.archive import Archive
from routilux_mp._storage.reader import LogReader
from routilux_mp.errors import CheckpointDamaged, CheckpointFormat, StorageError
from tests.support.memory import File, MemoryFiles, Symlink
from tests.support.stores import BASE, JOB, committed, make_store, truth

#: The first of them with the OPEN.
COMMITTED = [b"one", b"two", b"", b"three" * 3, b"four", b"five"]


def a_job(*, housekeeping: bool = True) -> MemoryFiles:
    """Three ended epochs and a living one: all kinds of files. Without housekeeping nothing is archived."""
    disk = MemoryFiles()
    with make_store(disk) as store:
        tenure = store.create(JOB, b'{"flow": [1, 2]}', COMMITTED[:1])
        for at, data in ((2, COMMITTED[1:3]), (3, COMMITTED[3:4]), (4, COMMITTED[4:5])):
            tenure.commit(data)
            tenure.roll(b"state at %d" % at)
            if housekeeping:
                tenure.housekeep()
        tenure.commit(COMMITTED[5:])
        tenure.write_views(None, b'{"status": "running"}')
        tenure.close()
    return disk


def harmed(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Every cut and every flipped bit of `raw`, and something behind its end."""
    for size in range(len(raw)):
        yield f"cut to {size}", raw[:size]
    yield "one byte more", raw + b"\0"
    for at in range(len(raw)):
        for bit in range(8):
            yield f"bit {bit} of byte {at}", raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]


def not_found(raw: bytes, read: Callable[[bytes], object]) -> list[str]:
    """The harms of `raw` after which `read` does not say that it is damaged."""
    read(raw)
    missed = []
    for what, data in harmed(raw):
        try:
            read(data)
        except (CheckpointDamaged, CheckpointFormat):
            continue
        missed.append(what)
    return missed


def reader_of(kind: str) -> tuple[bytes, Callable[[bytes], object]]:
    """An undamaged file of that kind, and how such a file is read."""
    disk = a_job()
    store = make_store(disk)
    place = store.place(JOB)

    def through(path: str, read: Callable[[], object]) -> tuple[bytes, Callable[[bytes], object]]:
        def run(data: bytes) -> object:
            disk.set(path, data)
            return read()

        return disk.files(BASE)[path], run

    match kind:
        case "OPEN":
            return disk.files(BASE)[f"{BASE}/epochs/e0000002/c00000001"], lambda raw: frames.decode(raw, "OPEN")
        case "OPEN with records":
            return disk.files(BASE)[f"{BASE}/epochs/e0000001/c00000001"], lambda raw: frames.decode(raw, "OPEN")
        case "COMMIT":
            return disk.files(BASE)[f"{BASE}/epochs/e0000004/c00000002"], lambda raw: frames.decode(raw, "COMMIT")
        case "SEAL":
            return disk.files(BASE)[f"{BASE}/epochs/e0000001/c00000003"], lambda raw: frames.decode(raw, "SEAL")
        case "snapshot":
            return through(f"{BASE}/snapshots/e0000004", lambda: snapshots.read(place, 4))
        case "archive":
            return through(f"{BASE}/archive/e0000002", lambda: list(Archive(place, 2).files()))
        case "format.json":
            return through(f"{BASE}/format.json", lambda: takeover.refuse_unknown(place, takeover.read_format(place)))
        case "flow.json":
            return disk.files(BASE)[f"{BASE}/flow.json"], lambda raw: views.unwrap(raw, "flow.json")
        case "job_state.json":
            return disk.files(BASE)[f"{BASE}/job_state.json"], lambda raw: views.unwrap(raw, "job_state.json")
        case "blob":
            blob_dir = f"/{BASE}/blobs/e0000004"
            disk.open_root(blob_dir, create=True)
            ref = blobs.put_blob_file(blob_dir, "b-1", [b"large ", b"payload"], disk)
            return through(f"{BASE}/blobs/e0000004/b-1", lambda: blobs.map_blob(f"{blob_dir}/b-1", ref, disk))
    raise AssertionError(kind)


KINDS = [
    "OPEN", "OPEN with records", "COMMIT", "SEAL", "snapshot", "archive", "format.json", "flow.json", "job_state.json",
    "blob",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_and_every_flip_is_found(kind: str) -> None:
    raw, read = reader_of(kind)
    assert not_found(raw, read) == []


@pytest.mark.parametrize(
    ("kind", "module"), [("COMMIT", frames), ("snapshot", frames), ("job_state.json", views), ("flow.json", views)]
)
def test_without_the_checksum_flips_are_missed(kind: str, module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the test above."""
    monkeypatch.setattr(module, "crc32", lambda data, start=0: 0)
    raw, read = reader_of(kind)
    assert len(not_found(raw, read)) > 10


@pytest.mark.parametrize("housekeeping", [True, False], ids=["archived", "not archived"])
def test_a_job_with_one_damaged_file_is_the_same_or_parked(housekeeping: bool) -> None:
    """Through the whole store: the truth, or CheckpointDamaged; never less than the truth, never another error."""
    seen = {"same": 0, "parked": 0}
    paths = [path for path in a_job(housekeeping=housekeeping).files(BASE) if not path.endswith(".json")]
    for path in paths:
        disk = a_job(housekeeping=housekeeping)
        raw = disk.files(BASE)[path]
        flipped = (bytes([raw[0] ^ 1]) + raw[1:], raw[:-1] + bytes([raw[-1] ^ 4]))
        for data in (b"", raw[:-1], raw[: len(raw) // 2], *flipped):
            disk.set(path, data)
            before = disk.files()
            try:
                log = make_store(disk, seed=5).read(JOB)
                found = (log.epoch, committed(log))
            except CheckpointDamaged:
                seen["parked"] += 1
            else:
                assert found == (4, COMMITTED), path
                seen["same"] += 1
            assert disk.files() == before, "reading changed something"
    assert seen["parked"]
    assert bool(seen["same"]) is housekeeping, "only an archive or an older snapshot can make damage good"


def test_a_damaged_snapshot_falls_back_to_the_older_one() -> None:
    disk = a_job()
    assert make_store(disk).read(JOB).snapshot == b"state at 4"
    disk.set(f"{BASE}/snapshots/e0000004", b"garbage")
    log = make_store(disk).read(JOB)
    assert log.snapshot == b"state at 3"
    assert [data for _, data in log.frames()] == COMMITTED[4:]
    disk.set(f"{BASE}/snapshots/e0000003", b"garbage")
    log = make_store(disk).read(JOB)
    assert log.snapshot is None
    assert [data for _, data in log.frames()] == COMMITTED  # from the archives
    assert log.epoch == 4


def test_a_snapshot_of_another_history_is_not_used() -> None:
    disk, other = a_job(), MemoryFiles()
    with make_store(other, seed=77) as store:  # the same job id, another life
        tenure = store.create(JOB, b"{}")
        for state in (b"2", b"3", b"wrong"):
            tenure.roll(state)
        tenure.housekeep()
    disk.set(f"{BASE}/snapshots/e0000004", other.files()[f"{BASE}/snapshots/e0000004"])
    assert make_store(disk).read(JOB).snapshot == b"state at 3"


def test_a_commit_of_another_history_breaks_the_chain() -> None:
    disk, other = a_job(), MemoryFiles()
    with make_store(other, seed=77) as store:
        tenure = store.create(JOB, b"{}")
        for state in (b"2", b"3", b"4"):
            tenure.roll(state)
        tenure.commit([b"forged"])
    disk.set(f"{BASE}/epochs/e0000004/c00000002", other.files()[f"{BASE}/epochs/e0000004/c00000002"])
    with pytest.raises(CheckpointDamaged, match="does not follow"):
        make_store(disk).read(JOB)


def test_the_chain_is_what_finds_it() -> None:
    """Negative control of the test above: the same frames, linked to what stands before them, are believed."""
    disk, other = a_job(), MemoryFiles()
    with make_store(other, seed=77) as store:
        tenure = store.create(JOB, b"{}")
        for state in (b"2", b"3", b"4"):
            tenure.roll(state)
        tenure.commit([b"forged"])
    raw = other.files()[f"{BASE}/epochs/e0000004/c00000002"]
    original = frames.decode(disk.files()[f"{BASE}/epochs/e0000004/c00000001"], "OPEN").digest
    file = frames.decode(raw, "forged")
    relinked, _ = frames.encode(
        frames.COMMIT, 4, 2, owner=bytes(16), nonce=bytes(16), predecessor=original, frames=file.frames
    )
    disk.set(f"{BASE}/epochs/e0000004/c00000002", relinked)
    assert committed(make_store(disk).read(JOB)) == [*COMMITTED[:5], b"forged"]


@pytest.mark.parametrize("missing", ["c00000001", "c00000002", "c00000003"])
def test_a_hole_in_the_living_epoch_is_damage_not_the_end(missing: str) -> None:
    """Otherwise a successor would seal in the hole, and drop in silence what lies behind it."""
    disk = MemoryFiles()
    with make_store(disk) as store:
        tenure = store.create(JOB, b"{}")
        for data in (b"1", b"2", b"3"):
            tenure.commit([data])
    folder = disk.node(f"{BASE}/epochs/e0000001")
    del folder.names[missing]  # type: ignore[union-attr]
    before = disk.files(BASE)
    for use in (lambda s: s.read(JOB), lambda s: s.take_over(JOB)):
        with pytest.raises(CheckpointDamaged, match=f"{missing} is missing although later files are there"):
            use(make_store(disk, seed=3))
    assert disk.files(BASE) == before


def test_a_half_copied_directory_is_damaged() -> None:
    """Epochs, snapshots and archives must reach equally far."""
    for folder in ("epochs/e0000004", "epochs"):
        disk = a_job()
        parent, _, name = f"{BASE}/{folder}".rpartition("/")
        del disk.node(parent).names[name]  # type: ignore[union-attr]
        with pytest.raises(CheckpointDamaged, match=r"incomplete.*reached epoch 4"):
            make_store(disk).read(JOB)


def test_a_missing_format_file_is_damage() -> None:
    disk = a_job()
    del disk.node(BASE).names["format.json"]  # type: ignore[union-attr]
    with pytest.raises(CheckpointDamaged, match=r"format\.json is missing"):
        make_store(disk).read(JOB)


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 2, "min_reader": 1, "features": []}',
        '{"format": 2, "min_reader": 2, "features": []}',
        '{"format": 1, "min_reader": 1, "features": ["colour"]}',
        '{"format": 1, "min_reader": 1, "features": [], "also": 1}',
    ],
)
def test_a_newer_format_can_be_read_but_not_owned(text: str) -> None:
    disk = a_job()
    disk.set(f"{BASE}/format.json", text.encode())
    before = disk.files(BASE)
    store = make_store(disk, seed=4)
    log = store.read(JOB)
    assert committed(log) == COMMITTED
    assert log.unknown_format
    with pytest.raises(CheckpointFormat, match="must not be changed by this version"):
        store.take_over(JOB)
    assert disk.files(BASE) == before


def test_an_unknown_kind_of_commit_file_can_be_read_but_not_owned() -> None:
    disk = a_job()
    last = frames.decode(disk.files(BASE)[f"{BASE}/epochs/e0000004/c00000002"], "last").digest
    raw, _ = frames.encode(9, 4, 3, owner=bytes(16), nonce=bytes(16), predecessor=last, frames=[b"?"])
    disk.set(f"{BASE}/epochs/e0000004/c00000003", raw)
    assert truth(disk) == COMMITTED
    with pytest.raises(CheckpointFormat, match="unknown kind"):
        make_store(disk, seed=4).take_over(JOB)


@pytest.mark.parametrize("path", ["epochs/e0000004/c00000002", "format.json"])
def test_a_symbolic_link_in_a_files_place_is_not_followed(path: str) -> None:
    disk = a_job()
    folder, _, name = f"{BASE}/{path}".rpartition("/")
    disk.node(folder).names[name] = Symlink("/etc/passwd")  # type: ignore[union-attr]
    with pytest.raises(CheckpointDamaged, match="symbolic link"):
        make_store(disk).read(JOB)


def test_a_symlinked_job_directory_is_refused() -> None:
    disk = a_job()
    disk.node("root").names["other"] = Symlink(JOB)  # type: ignore[union-attr]
    with pytest.raises(StorageError, match="symbolic link"):
        make_store(disk).read("other")


def test_a_file_in_a_directorys_place_is_refused() -> None:
    disk = a_job()
    disk.node(BASE).names["epochs"] = File()  # type: ignore[union-attr]
    with pytest.raises(StorageError, match="no directory"):
        make_store(disk).read(JOB)


def test_a_file_above_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = a_job()
    monkeypatch.setattr("routilux_mp._storage.reader.COMMIT_FILE_BYTES_MAX", 50)
    with pytest.raises(CheckpointDamaged, match="too large"):
        make_store(disk).read(JOB)


def test_an_archive_is_used_for_a_damaged_file_of_an_ended_epoch() -> None:
    disk = a_job()
    for name in ("e0000003", "e0000004"):
        del disk.node(f"{BASE}/snapshots").names[name]  # type: ignore[union-attr]
    disk.set(f"{BASE}/epochs/e0000003/c00000002", b"garbage")
    assert truth(disk) == COMMITTED


def test_reading_a_single_frame_goes_to_the_archive() -> None:
    disk = a_job()
    with make_store(disk) as store:
        log = store.read(JOB)
        refs = dict(log.history())
        assert [log.read(ref) for ref in refs] == list(refs.values()) == COMMITTED
        with pytest.raises(CheckpointDamaged, match="no frame 7"):
            log.read(next(iter(refs))._replace(frame=7))
        with pytest.raises(CheckpointDamaged, match="missing or damaged"):
            log.read(next(iter(refs))._replace(epoch=4, commit=77))


def test_an_io_error_is_neither_absence_nor_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = a_job()

    def fails(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk, "read", fails)
    with pytest.raises(StorageError, match="cannot be read: Input/output error") as caught:
        make_store(disk).read(JOB)
    assert not isinstance(caught.value, CheckpointDamaged)


def test_mutant_a_reader_that_ignores_holes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogReader, "_missed", lambda *args, **after: None)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_a_hole_in_the_living_epoch_is_damage_not_the_end("c00000002")


LOG_FILES = sorted(
    path.removeprefix(f"{BASE}/")
    for path in a_job().files(BASE)
    if path.split("/")[2] in ("epochs", "archive", "snapshots")
)


@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "flipped"])
@pytest.mark.parametrize("name", LOG_FILES)
def test_repair_keeps_everything_before_the_damage(name: str, is_gone: bool) -> None:
    disk = a_job()
    path = f"{BASE}/{name}"
    raw = disk.files(BASE)[path]
    with make_store(disk) as store:
        place = store.place(JOB)
        if is_gone:
            with place.dir(*name.split("/")[:-1]) as at:
                disk.unlink(name.split("/")[-1], at)
        else:
            disk.set(path, raw[:-1] + bytes([raw[-1] ^ 1]))
        reach = repair.reach_of(place)
        repair.cut(place, reach)
        folder, *rest = name.split("/")
        if folder == "archive":  # only history can miss it: the job goes on from a snapshot
            assert reach == (4, 2)
            assert list(store.read(JOB).frames())[-1][1] == COMMITTED[-1]
            return
        read = committed(store.read(JOB))
        if folder == "snapshots":
            assert read == COMMITTED, "the commit files say all that there is to say"
        else:
            known = epoch_starts(int(rest[0][1:]))
            assert read == COMMITTED[: len(read)]
            assert len(read) >= known
        _, tenure = store.take_over(JOB)
        tenure.commit([b"and on"])
        assert committed(store.read(JOB)) == [*read, b"and on"]
        tenure.close()


def epoch_starts(epoch: int) -> int:
    """How much was committed before an epoch of :func:`a_job` began."""
    return {1: 0, 2: 3, 3: 4, 4: 5}[epoch]
