"""What must hold on any file system and with any lock: one owner, none deposed in vain, nothing lost or doubled."""

from __future__ import annotations

import os
import signal
import time

from routilux_mp._storage.store import Store
from routilux_mp.demo.processes import seconds_until_gone
from routilux_mp.settings import Settings
from tests.failover.cluster import Cluster, eventually

LEASE_S = 1.0
#: The suite shares its machine; bench/failover.py measures.
SOON_S = 10.0

#: Several processes want the same jobs at the same moment; each prints those that it won.
RACE = """
import os, sys, time
from routilux_mp._storage.store import Store
from routilux_mp.errors import StorageError, LeaseError
from routilux_mp.settings import Settings
store = Store(sys.argv[1], Settings())
store.prepare_to_take_over()
logs = [store.read(job_id) for job_id in sys.argv[2:]]
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.001)
for log in logs:
    try:
        _, tenure = store.take_over(log.job_id, "takeover", log)
    except (StorageError, LeaseError) as error:
        print("lost", type(error).__name__, error)
    else:
        print("won", log.job_id, tenure.epoch)
        tenure.close()
store.close()
"""


def a_zombie_is_fenced(cluster: Cluster) -> None:
    """A host freezes, another goes on with its job, the first thaws: it commits nothing and says who has the job."""
    standby = cluster.standby(host="b")
    owner = cluster.owner(150, host="a")
    eventually(lambda: cluster.count() >= 30, "30 items", owner)
    family = owner.family()
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    frozen = time.time()
    eventually(lambda: "took over" in standby.said(), "the standby takes over", standby)
    eventually(lambda: cluster.marks()[-1].nursery in standby.family(), "the standby works", standby)
    before = cluster.epoch_files(1)
    late = [m for m in cluster.marks() if m.worker in family and m.time_s > frozen + LEASE_S]
    assert late == []
    thawed = time.time()
    for pid in family:
        os.kill(pid, signal.SIGCONT)
    assert owner.wait() == 3
    assert f"was taken over by pid {standby.pid}" in owner.said()
    assert seconds_until_gone(family, SOON_S) is not None
    assert cluster.epoch_files(1) <= before, "it committed after it was taken over"
    assert [m for m in cluster.marks() if m.worker in family and m.time_s > thawed] == []
    eventually(lambda: "completed" in standby.said(), "the job completes", standby)
    cluster.require_completed(150)


def of_two_standbys_one_wins(cluster: Cluster) -> None:
    """A host dies without a word; two others suspect it at nearly the same moment."""
    standbys = [cluster.standby(host="b"), cluster.standby(host="c")]
    owner = cluster.owner(120, host="a")
    eventually(lambda: cluster.count() >= 20, "20 items", owner)
    owner.signal(signal.SIGKILL)
    owner.wait()
    eventually(lambda: any("completed" in s.said() for s in standbys), "the job completes", *standbys)
    cluster.require_completed(120)
    assert sum(standby.said().count("took over") for standby in standbys) == 1


def a_hand_over_runs_nothing_twice(cluster: Cluster) -> None:
    standby = cluster.standby(host="b")
    owner = cluster.owner(120, host="a")
    eventually(lambda: cluster.count() >= 20, "20 items", owner)
    owner.signal(signal.SIGTERM)
    assert owner.wait() == 130
    eventually(lambda: "completed" in standby.said(), "the job completes", standby)
    cluster.require_completed(120)
    assert cluster.twice() == []


def of_many_takers_one_wins_each_job(cluster: Cluster) -> None:
    """Three hosts take over the same orphans at the same moment."""
    jobs = {f"job-{number}" for number in range(20)}
    with Store(str(cluster.root), Settings()) as store:
        for job_id in jobs:
            tenure = store.create(job_id, b"{}")
            tenure.commit([b"record"])
            tenure.close()
    (cluster.folder / "race.py").write_text(RACE)
    takers = [cluster.program("race.py", str(cluster.root_of(host)), *sorted(jobs)) for host in "abc"]
    for taker in takers:
        eventually(lambda taker=taker: "ready" in taker.said(), "it has read all jobs", taker)  # type: ignore[misc]
    (cluster.folder / "go").touch()
    assert [taker.wait() for taker in takers] == [0, 0, 0], "\n".join(taker.said() for taker in takers)
    lines = [line.split() for taker in takers for line in taker.said().splitlines()]
    won = [words[1] for words in lines if words[0] == "won"]
    lost = [words for words in lines if words[0] == "lost"]
    assert sorted(won) == sorted(jobs), "each job was won once"
    assert {words[1] for words in lost} == {"Fenced"}, lost
    assert len(lost) == 2 * len(jobs)
