"""Another process goes on with the job, once: after a kill, a hand-over, a freeze."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from routilux_mp.demo.processes import seconds_until_gone
from tests.failover.cluster import Cluster, eventually

LEASE_S = 1.0
#: What is promised is far less (see bench/failover.py); the suite shares its machine.
SOON_S = 5.0


def took_over(*standbys) -> list:
    return [standby for standby in standbys if "took over" in standby.said()]


def test_a_killed_owner_is_succeeded_at_once(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        standby = cluster.standby()
        owner = cluster.owner(150)
        eventually(lambda: cluster.count() >= 30, "30 items", owner)
        family = owner.family()
        killed = time.time()
        owner.signal(signal.SIGKILL)
        eventually(lambda: cluster.marks()[-1].time_s > killed + 0.2, "work goes on", standby)
        assert seconds_until_gone(family[1:], SOON_S) is not None
        theirs = [mark for mark in cluster.marks() if mark.worker not in family]
        assert theirs[0].time_s - killed < SOON_S
        eventually(lambda: "completed" in standby.said(), "the job completes", standby)
        cluster.require_completed(150)
        assert len(cluster.twice()) <= 3, "more ran twice than was in flight"
        assert "is gone" in standby.said()
        owner.wait()


@pytest.mark.slow
@pytest.mark.parametrize("who", ["the owner", "every process"])
def test_sigterm_hands_over_and_nothing_runs_twice(tmp_path: Path, who: str) -> None:
    """Every process gets it from systemd, unless told otherwise, and from some batch systems."""
    with Cluster(tmp_path) as cluster:
        standby = cluster.standby()
        owner = cluster.owner(150)
        eventually(lambda: cluster.count() >= 30, "30 items", owner)
        told = time.time()
        for pid in owner.family() if who == "every process" else owner.family()[:1]:
            os.kill(pid, signal.SIGTERM)
        assert owner.wait() == 130
        assert "routilux-mp resume" in owner.said()
        eventually(lambda: "completed" in standby.said(), "the job completes", standby)
        cluster.require_completed(150)
        assert cluster.twice() == []
        first = next(mark for mark in cluster.marks() if mark.nursery in standby.family())
        assert first.time_s - told < SOON_S
        assert "handed over" in standby.said()


@pytest.mark.slow
def test_a_standby_that_is_told_to_leave_hands_over_in_turn(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        first = cluster.standby()
        owner = cluster.owner(150)
        eventually(lambda: cluster.count() >= 20, "20 items", owner)
        owner.signal(signal.SIGKILL)
        owner.wait()
        eventually(lambda: took_over(first), "the first standby takes over", first)
        second = cluster.standby()
        count = cluster.count()
        eventually(lambda: cluster.count() >= count + 10, "10 more items", first)
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        eventually(lambda: "completed" in second.said(), "the job completes", second)
        cluster.require_completed(150)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["b", ""], ids=["another host", "the same host"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole host frozen", "only its supervisor"])
def test_a_frozen_owner_is_fenced_when_it_thaws(tmp_path: Path, host: str, whole: bool) -> None:
    # Its worker has a minute of work in front of it when the freeze comes: only the lease keeps it from that.
    with Cluster(tmp_path, lease_s=LEASE_S, worker_ahead_ms=60_000) as cluster:
        standby = cluster.standby(host=host)
        owner = cluster.owner(250, host="a" if host else "")
        eventually(lambda: cluster.count() >= 40, "40 items", owner)
        family = owner.family()
        frozen = time.time()
        for pid in family if whole else family[:1]:
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: took_over(standby), "the standby takes over", standby)
        taken = time.time()
        assert taken - frozen < 1.4 * LEASE_S + SOON_S
        eventually(lambda: cluster.marks()[-1].nursery in standby.family(), "the standby works", standby)
        before = cluster.epoch_files(1)
        late = [m for m in cluster.marks() if m.worker in family and m.time_s > frozen + LEASE_S + 0.5]
        assert late == [], "a worker of a supervisor without a lease began something"
        for pid in family:
            os.kill(pid, signal.SIGCONT)
        thawed = time.time()
        assert owner.wait() == 3
        assert "was taken over by" in owner.said()
        assert f"pid {standby.pid}" in owner.said()
        assert seconds_until_gone(family, SOON_S) is not None
        assert cluster.epoch_files(1) == before, "it committed after it was taken over"
        assert [m for m in cluster.marks() if m.worker in family and m.time_s > thawed] == []
        eventually(lambda: "completed" in standby.said(), "the job completes", standby)
        cluster.require_completed(250)


@pytest.mark.slow
def test_of_two_standbys_one_wins_and_the_other_is_silent(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        standbys = [cluster.standby(), cluster.standby()]
        owner = cluster.owner(120)
        eventually(lambda: cluster.count() >= 20, "20 items", owner)
        owner.signal(signal.SIGKILL)
        owner.wait()
        eventually(lambda: took_over(*standbys), "one of them takes over", *standbys)
        (winner,) = took_over(*standbys)
        eventually(lambda: "completed" in winner.said(), "the job completes", *standbys)
        cluster.require_completed(120)
        (loser,) = [standby for standby in standbys if standby is not winner]
        assert cluster.job_id() not in loser.said()


@pytest.mark.slow
def test_a_standby_takes_no_more_than_its_capacity(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        owners = [cluster.owner(60, pause_s=0.02) for _ in range(2)]
        eventually(lambda: len({mark.nursery for mark in cluster.marks()}) == 2, "both work", *owners)
        for owner in owners:
            owner.signal(signal.SIGKILL)
            owner.wait()
        standby = cluster.standby("--capacity", "1")
        eventually(lambda: took_over(standby), "it takes one", standby)
        eventually(lambda: "at capacity" in standby.said(), "it says so", standby)
        assert standby.said().count("took over") == 1
        eventually(lambda: standby.said().count("completed") == 2, "both complete, one after the other", standby)
        assert standby.said().count("at capacity") == 1


@pytest.mark.slow
def test_a_paused_job_stays_where_it_is(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        standby = cluster.standby()
        owner = cluster.owner(600)
        eventually(lambda: cluster.count() >= 20, "20 items", owner)
        assert cluster.ask("pause", cluster.job())["status"] == "paused"
        assert owner.wait() == 4
        done = cluster.count()
        # The standby has looked at it more than once by the time that it takes the next orphan.
        other = cluster.owner(30)
        eventually(lambda: cluster.count() >= done + 10, "the second job works", other)
        other.signal(signal.SIGKILL)
        other.wait()
        eventually(lambda: "completed" in standby.said(), "the second job completes", standby)
        assert standby.said().count("took over") == 1


@pytest.mark.slow
def test_a_job_that_is_offered_goes_on_elsewhere(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        standby = cluster.standby()
        owner = cluster.owner(400)
        eventually(lambda: cluster.count() >= 20, "20 items", owner)
        assert cluster.ask("pause", cluster.job(), "--handover")["answer"] == "accepted"
        owner.wait()
        eventually(lambda: "completed" in standby.said(), "the job completes", standby)
        cluster.require_completed(400)
        assert cluster.twice() == []


@pytest.mark.slow
def test_what_keeps_a_job_from_running_here_is_said_once_and_keeps_no_other(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        owner = cluster.owner(100)
        eventually(lambda: cluster.count() >= 10, "10 items", owner)
        job = cluster.job_id()
        owner.signal(signal.SIGKILL)
        owner.wait()
        keyless = cluster.standby(ROUTILUX_MP_KEY_FILE=str(tmp_path / "no-key"))
        eventually(lambda: "cannot be run here" in keyless.said(), "it says what it lacks", keyless)
        assert "no-key" in keyless.said()
        assert not (tmp_path / "no-key").exists(), "a standby made a key of its own"
        damaged = cluster.root / "damaged" / "epochs" / "e0000001"
        damaged.mkdir(parents=True)
        (damaged / "c00000001").write_bytes(b"no commit file")
        keyed = cluster.standby()
        eventually(lambda: "completed" in keyed.said(), "one that has the key goes on", keyed)
        assert "job damaged" in keyed.said()
        assert keyless.said().count(job) == 1
        assert keyed.said().count("job damaged") == 1


@pytest.mark.slow
def test_a_frozen_owner_that_nobody_replaced_goes_on(tmp_path: Path) -> None:
    with Cluster(tmp_path, lease_s=0.4) as cluster:
        owner = cluster.owner(80)
        eventually(lambda: cluster.count() >= 20, "20 items", owner)
        family = owner.family()
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        frozen = time.monotonic()
        eventually(lambda: time.monotonic() - frozen > 1.0, "more than two leases are over")
        for pid in family:
            os.kill(pid, signal.SIGCONT)
        assert owner.wait() == 0
        assert "silent for longer than the lease" in owner.said()
        cluster.require_completed(80)
        assert cluster.twice() == []
        assert not (cluster.root / cluster.job_id() / "epochs" / "e0000002").exists()


LIBRARY = """
import sys
from pathlib import Path
from routilux_mp import Runtime, hand_over_on_sigterm
from failover_flow import flow

hand_over_on_sigterm()
with Runtime(2, checkpoint_dir=sys.argv[1]) as runtime:
    flow.execute("source", {"n": 150, "log": sys.argv[2]})
"""


@pytest.mark.slow
@pytest.mark.parametrize("host", ["", "another"])
def test_a_library_can_opt_in_to_hand_over_on_sigterm(tmp_path: Path, host: str) -> None:
    """Also told to another machine, before the process is gone: else it would wait for the lease to be over."""
    with Cluster(tmp_path) as cluster:
        (tmp_path / "program.py").write_text(LIBRARY)
        standby = cluster.standby()
        lease = {"ROUTILUX_MP_LEASE_S": "600"} if host else {}
        owner = cluster.program("program.py", str(cluster.root), str(cluster.log), host=host, **lease)
        eventually(lambda: cluster.count() >= 30, "30 items", owner)
        owner.signal(signal.SIGTERM)
        assert owner.wait() == -signal.SIGTERM, owner.said()
        eventually(lambda: "completed" in standby.said(), "the job completes", standby)
        assert "handed over" in standby.said()
        cluster.require_completed(150)
        assert cluster.twice() == []
