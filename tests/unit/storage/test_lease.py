"""Heartbeats: silence is timed by the reader's own clock, on content it has read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from routilux_mp._storage.lease import Heartbeat, Heartbeats
from routilux_mp._storage.owner import OwnerInfo, this_process
from routilux_mp._storage.place import Root
from routilux_mp._storage.put import Putter
from routilux_mp._storage.store import Store
from routilux_mp.cli.jobs import list_jobs
from routilux_mp.settings import Settings
from tests.support.memory import MemoryFiles

LEASE_S = 10.0


class Reader:
    """A root, an owner's heartbeat on it, and a reader with a clock that is moved by hand."""

    def __init__(self, absence_s: float = 0.0) -> None:
        self.disk = MemoryFiles()
        self.root = Root(self.disk, Putter(self.disk, b"\1" * 16), "/root")
        self.root.handle(create=True)
        self.owner = this_process(bytes(range(16)), LEASE_S)
        self.heartbeat = Heartbeat(self.root, self.owner)
        self.now = 1000.0
        self.heartbeats = Heartbeats(self.root, clock=lambda: self.now, chance=lambda: 0.0, absence_s=absence_s)

    def path(self) -> str:
        return f"root/.owners/{self.owner.token}"


def test_what_is_written_is_read() -> None:
    r = Reader()
    r.heartbeat.beat(["j1", "j2"], offered=["j3"], blocked={"j2": "disk full"})
    (sign,) = r.heartbeats.look()
    assert sign.owner == r.owner
    assert (sign.jobs, sign.offered, sign.blocked, sign.is_leaving) == (
        frozenset({"j1", "j2"}), frozenset({"j3"}), {"j2": "disk full"}, False,
    )  # fmt: skip
    r.heartbeat.beat([], is_leaving=True)
    (sign,) = r.heartbeats.look()
    assert (sign.jobs, sign.is_leaving) == (frozenset(), True)


def test_an_owner_is_suspected_after_one_and_a_quarter_leases_of_unchanged_content() -> None:
    r = Reader()
    r.heartbeat.beat(["j"])
    r.heartbeats.look()
    r.now += 1.24 * LEASE_S
    r.heartbeats.look()
    assert not r.heartbeats.is_suspect(r.owner)
    r.now += 0.02 * LEASE_S
    r.heartbeats.look()
    assert r.heartbeats.is_suspect(r.owner)
    r.heartbeat.beat(["j"])  # the same jobs: the counter alone is a sign of life
    r.heartbeats.look()
    assert not r.heartbeats.is_suspect(r.owner)
    assert r.heartbeats.silent_s(r.owner) == 0


def test_a_reader_that_was_itself_stopped_suspects_nobody_who_went_on() -> None:
    r = Reader()
    r.heartbeat.beat(["j"])
    r.heartbeats.look()
    r.now += 100 * LEASE_S
    r.heartbeat.beat(["j"])
    r.heartbeats.look()
    assert not r.heartbeats.is_suspect(r.owner)


def test_jitter_only_ever_waits_longer() -> None:
    r = Reader()
    r.heartbeats = Heartbeats(r.root, clock=lambda: r.now, chance=lambda: 1.0)
    r.heartbeat.beat(["j"])
    r.heartbeats.look()
    r.now += 1.25 * LEASE_S + 0.19
    assert not r.heartbeats.is_suspect(r.owner)
    r.now += 0.02
    assert r.heartbeats.is_suspect(r.owner), "the promise is 1.25 leases + 1 s, however long the lease"


def test_a_torn_heartbeat_is_a_sign_of_life_and_changes_nothing_else() -> None:
    r = Reader()
    r.heartbeat.beat(["j"])
    r.heartbeats.look()
    r.now += 2 * LEASE_S
    r.disk.set(r.path(), b'{"token": "half of a new o')
    (sign,) = r.heartbeats.look()
    assert sign.jobs == {"j"}
    assert not r.heartbeats.is_suspect(r.owner)


@pytest.mark.parametrize("raw", [b"", b"\n", b"{}\n00000000\n", b"\xff\xfe", b"[1]\n5d2b0ae9\n"])
def test_what_is_no_heartbeat_says_nothing(raw: bytes) -> None:
    r = Reader()
    r.heartbeat.beat(["j"])
    r.disk.set(r.path(), raw)
    assert r.heartbeats.look() == []


def test_a_heartbeat_in_another_owners_name_says_nothing() -> None:
    r = Reader()
    r.heartbeat.beat(["j"])
    node = r.disk.files("root")[r.path()]
    r.disk.set(f"root/.owners/{'f' * 32}", node)
    assert [sign.owner.token for sign in r.heartbeats.look()] == [r.owner.token]


def test_nothing_is_learned_from_a_read_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    r = Reader()
    r.heartbeat.beat(["j"])
    r.heartbeats.look()
    real = r.disk.read

    def fail(name: str, at: int, limit_bytes: int) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(r.disk, "read", fail)
    r.now += 5 * LEASE_S
    r.heartbeats.look()
    assert not r.heartbeats.is_suspect(r.owner)
    monkeypatch.setattr(r.disk, "read", real)
    r.now += 1.3 * LEASE_S
    r.heartbeats.look()
    assert r.heartbeats.is_suspect(r.owner)


@pytest.mark.parametrize(("absence_s", "suspected_after_s"), [(0.0, 12.6), (30.0, 30.1)])
def test_absence_may_be_stale(absence_s: float, suspected_after_s: float) -> None:
    r = Reader(absence_s)
    r.heartbeats.look()
    assert not r.heartbeats.is_suspect(r.owner)
    r.now += suspected_after_s - 0.2
    assert not r.heartbeats.is_suspect(r.owner)
    r.now += 0.2
    assert r.heartbeats.is_suspect(r.owner)


def test_a_removed_heartbeat_is_found_missing_and_one_that_vanished_is_made_again() -> None:
    r = Reader()
    r.heartbeat.beat(["j"])
    r.heartbeat.remove()
    assert r.heartbeats.look() == []
    r.heartbeat.beat(["j"])
    assert len(r.heartbeats.look()) == 1
    r.heartbeats.remove(r.owner)
    assert r.heartbeats.look() == []


def test_names_that_are_no_tokens_are_not_read() -> None:
    r = Reader()
    r.heartbeat.beat(["j"])
    for name in ("README", "..", "a" * 31, "A" * 32):
        r.disk.set(f"root/.owners/{name}", b"whatever")
    assert len(r.heartbeats.look()) == 1


def test_an_owner_from_another_boot_is_not_on_this_host() -> None:
    here = this_process(b"", LEASE_S)
    assert here.is_on_this_host(this_process(b"x", 1.0))
    assert not here.is_on_this_host(this_process(b"x", 1.0, host_id="another"))
    assert not OwnerInfo.from_document({**here.to_document(), "boot_id": "b"}).is_on_this_host(here)


def test_a_listing_says_which_job_its_owner_cannot_write(tmp_path: Path) -> None:
    with Store(str(tmp_path), Settings()) as store:
        tenures = [store.create(job_id, b"{}") for job_id in ("free", "stuck")]
        store.heartbeat().beat(["free", "stuck"], blocked={"stuck": "disk full"})
        assert {job.job_id: job.blocked for job in list_jobs(str(tmp_path))} == {"free": "", "stuck": "disk full"}
        for tenure in tenures:
            tenure.close()
