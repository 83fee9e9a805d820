"""The small parts of the storage: names, costs, handles, owners, views."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from routilux_mp._storage import layout, views
from routilux_mp._storage.handles import Handles
from routilux_mp._storage.owner import OwnerInfo, start_ticks, this_process
from routilux_mp._storage.replay_cost import ReplayCost
from routilux_mp.errors import CheckpointDamaged, UsageError

# -- layout -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", ["a", "A1", "0", "job-1.2_3", "x" * 64, "tmp2", "a..b"])
def test_job_ids(good: str) -> None:
    assert layout.check_job_id(good) == good


@pytest.mark.parametrize(
    "bad", ["", ".", "..", ".hidden", "-x", "_x", "a/b", "../a", "a\n", "a b", "x" * 65, "ä", "tmp", "TMP", "a\0"]
)
def test_no_job_ids(bad: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        layout.check_job_id(bad)


def test_names_have_one_spelling() -> None:
    for number in (1, 9_999_999, 10_000_000, 99_999_999, 100_000_000):
        assert layout.parse_epoch(layout.epoch_name(number)) == number
        assert layout.parse_commit(layout.commit_name(number)) == number
    for name in ("e1", "e00000001", "e000000x", "E0000001", "e0000001 ", "e0000001\n", "c00000001"):
        assert layout.parse_epoch(name) is None
    for name in ("c1", "c000000001", "c0000000x", "c00000001.tmp", "e0000001"):
        assert layout.parse_commit(name) is None


@pytest.mark.parametrize("bad", ["", "a", "e0000001/", "e0000001/../x", "/e0000001/a", "e0000001/a/b", "e0000001/.a"])
def test_blob_names_from_the_log_are_checked(bad: str) -> None:
    with pytest.raises(CheckpointDamaged):
        layout.check_blob_name(bad)


def test_the_written_version_is_the_packages() -> None:
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    assert tomllib.loads(pyproject.read_text())["project"]["version"] == layout.WRITER_VERSION


# -- when to roll -----------------------------------------------------------------------------------


def asks(cost: ReplayCost, **changes: float) -> bool:
    values = {"files": 10, "log_bytes": 1_000_000, "snapshot_bytes": 1_000, "since_roll_s": 60.0} | changes
    return cost.asks_for_roll(**values)  # type: ignore[arg-type]


def test_a_short_log_is_not_rolled() -> None:
    assert not asks(ReplayCost())


def test_a_log_that_takes_too_long_to_replay_is_rolled_at_once() -> None:
    assert asks(ReplayCost(), files=30_000, since_roll_s=0.0)


def test_a_large_log_waits_for_the_interval() -> None:
    assert not asks(ReplayCost(), log_bytes=65 * 1024**2, since_roll_s=4.9)
    assert asks(ReplayCost(), log_bytes=65 * 1024**2, since_roll_s=5.0)


def test_a_log_lighter_than_the_snapshot_is_not_rolled() -> None:
    assert not asks(ReplayCost(), files=30_000, snapshot_bytes=10**9)


def test_slow_reads_mean_fewer_files() -> None:
    """The budget is time: on a network file system it is reached after far fewer files."""
    cost = ReplayCost()
    assert not asks(cost, files=2_000)
    for _ in range(20):
        cost.observe(1_000, 100_000, 1.0)
    assert asks(cost, files=2_000)


def test_a_tiny_reading_says_nothing_about_the_disk() -> None:
    cost = ReplayCost()
    before = cost.file_s
    cost.observe(3, 100, 5.0)
    assert cost.file_s == before


# -- handles ---------------------------------------------------------------------------------------


def test_only_so_many_directories_stay_open() -> None:
    opened: list[int] = []
    closed: list[int] = []

    def open_() -> int:
        opened.append(len(opened))
        return opened[-1]

    handles = Handles(limit=2)
    slots = [handles.slot(open_, closed.append) for _ in range(4)]
    for slot in slots:
        slot.acquire()
        slot.release()
    assert closed == [0, 1]
    slots[0].acquire()  # again, anew
    assert len(opened) == 5
    slots[1].acquire(), slots[1].release(), slots[2].acquire(), slots[2].release()
    assert 4 not in closed, "closed under its user"
    slots[0].release()
    for slot in slots:
        slot.close()
    assert sorted(closed) == opened


# -- owners ----------------------------------------------------------------------------------------


def test_this_process_names_itself() -> None:
    info = this_process(b"\x01" * 16, 15.0)
    assert info.pid == os.getpid()
    assert info.token == "01" * 16
    assert info.start_ticks == start_ticks(os.getpid()) > 0
    assert re.fullmatch(r"[0-9a-f-]{36}", info.boot_id)
    assert info.pid_namespace.startswith("pid:[")
    assert OwnerInfo.from_document(info.to_document()) == info
    assert info.is_on_this_host(info)


def test_an_owner_with_strange_fields_is_read() -> None:
    """OPEN may come from another version: nothing in it can break a reader."""
    info = OwnerInfo.from_document({"pid": "7", "host": 3, "lease_s": None, "start_ticks": True, "colour": "red"})
    assert (info.pid, info.host, info.lease_s, info.start_ticks) == (0, "", 0.0, 0)
    assert not info.is_on_this_host(info), "unknown is not the same"


def test_no_such_process_has_no_start_time() -> None:
    assert start_ticks(2**22 + 1) == 0


# -- views -----------------------------------------------------------------------------------------


def test_a_view_must_be_an_object() -> None:
    with pytest.raises(ValueError, match="JSON object"):
        views.wrap(b"[1]", (1, 1))


def test_an_empty_view() -> None:
    raw = views.wrap(b" {} ", (3, 4))
    assert raw.startswith(b'{"checkpoint": {"epoch": 3, "commit": 4}, "crc32": "')
    assert views.unwrap(raw, "v") == ((3, 4), b"{}")


def test_a_view_edited_by_hand_says_what_to_do() -> None:
    raw = views.wrap(b'{"a": 1}', (3, 4)).replace(b'"a": 1', b'"a": 2')
    with pytest.raises(CheckpointDamaged, match="take its keys 'checkpoint' and 'crc32' out"):
        views.unwrap(raw, "v")
