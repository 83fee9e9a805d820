"""Results of a job that another process runs: each once, while it runs, across its death, and afterwards."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from routilux_mp import remote
from tests.failover.cluster import Cluster, eventually


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    # An epoch is rolled and archived again and again: a reader must not lose its place over that.
    with Cluster(tmp_path, log_bytes_max=2000, roll_interval_s=0.05) as made:
        for name, value in made.environment.items():
            if name.startswith("ROUTILUX_MP_"):
                monkeypatch.setenv(name, value)
        yield made


@pytest.mark.slow
def test_a_follower_sees_every_result_once_although_the_owner_is_killed(cluster: Cluster) -> None:
    standby = cluster.standby()
    owner = cluster.owner(200)
    eventually(lambda: cluster.count() >= 1, "it works", owner)
    seen: list[int] = []
    failed: list[BaseException] = []

    def follow() -> None:
        try:
            found = remote.results(cluster.job_id(), "work", "done", root=str(cluster.root), follow=True)
            seen.extend(value["i"] for value in found)
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=follow)
    thread.start()
    eventually(lambda: len(seen) >= 20 or failed, "results come while the job runs", owner)
    owner.signal(signal.SIGKILL)
    owner.wait()
    eventually(lambda: "completed" in standby.said(), "the job completes", standby)
    thread.join(30.0)
    assert not thread.is_alive()
    assert failed == []
    assert seen == list(range(200))
    assert len(list(Path(cluster.job(), "archive").iterdir())) > 3, "epochs were to be archived meanwhile"
    code, said = cluster.command("results", cluster.job(), "work", "done")
    assert code == 0
    assert [json.loads(line)["i"] for line in said.splitlines()] == seen


def test_what_is_not_there_is_named(cluster: Cluster) -> None:
    cluster.owner(1).wait()
    assert cluster.command("results", cluster.job(), "work", "nothing")[0] == 2
    code, said = cluster.command("results", cluster.job(), "nobody", "done")
    assert code == 2
    assert "Routine 'nobody' not found in flow" in said
    with pytest.raises(ValueError, match="no job"):
        list(remote.results("nothing", "work", "done", root=str(cluster.root)))
