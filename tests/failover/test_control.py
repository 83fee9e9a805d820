"""Asking for something from another process: obeyed exactly once, by whoever owns the job, and answered."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from routilux_mp import Flow, JobState, Runtime
from routilux_mp._storage.control import Request, new_request_id
from routilux_mp._storage.store import Store
from routilux_mp._supervisor import remote
from routilux_mp._supervisor.supervisor import Supervisor
from routilux_mp.errors import Fenced, HandedOver, JobOwned
from routilux_mp.settings import Settings
from tests.failover.cluster import Cluster, eventually


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, lease_s=1.0) as made:
        yield made


@pytest.fixture
def here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process uses the cluster's key and settings."""
    for name, value in cluster.environment.items():
        if name.startswith("ROUTILUX_MP_"):
            monkeypatch.setenv(name, value)


RARE = """
import sys, threading, time
from routilux_mp import Standby
from routilux_mp._supervisor import standby as engine
engine._PARKED_POLLS = 36_000
with Standby(sys.argv[1]) as waiting:
    thread = threading.Thread(target=waiting.run, daemon=True)
    thread.start()
    while not (waiting._watcher and waiting._watcher._parked):
        time.sleep(0.01)
    print("looked", flush=True)
    thread.join()
"""


def killed_owner(cluster: Cluster, n: int, at: int, **params: object) -> None:
    owner = cluster.owner(n, **params)
    eventually(lambda: cluster.count() >= at, f"{at} items", owner)
    owner.signal(signal.SIGKILL)
    owner.wait()


def test_cancel_from_another_process(cluster: Cluster) -> None:
    owner = cluster.owner(500)
    eventually(lambda: cluster.count() >= 10, "10 items", owner)
    answer = cluster.ask("cancel", cluster.job(), "--reason", "enough")
    assert (answer["answer"], answer["status"], answer["code"]) == ("accepted", "cancelled", 0)
    assert owner.wait() == 4
    job = cluster.job_folded()
    assert (job.status, job.reason) == ("cancelled", "enough")
    refused = cluster.ask("pause", cluster.job())
    assert (refused["answer"], refused["code"]) == ("the job has ended", 1)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["", "elsewhere"], ids=["the same host", "another host"])
def test_a_living_owner_goes_on_with_a_job_that_it_has_paused(cluster: Cluster, host: str) -> None:
    killed_owner(cluster, 100, at=20)
    standby = cluster.standby()
    eventually(lambda: "took over" in standby.said(), "the standby takes over", standby)
    assert cluster.ask("pause", cluster.job())["status"] == "paused"
    code, said = cluster.command("resume", cluster.job(), "--json", host=host)
    assert (code, json.loads(said)["answer"]) == (0, "accepted"), said
    eventually(lambda: "completed" in standby.said(), "the job completes where it was", standby)
    cluster.require_completed(100)
    assert cluster.job_folded().pause_points
    assert cluster.epoch_files(2)
    assert not (cluster.root / cluster.job_id() / "epochs" / "e0000003").exists(), "it changed hands"


def test_resuming_what_runs_elsewhere_is_refused(cluster: Cluster) -> None:
    owner = cluster.owner(500)
    eventually(lambda: cluster.count() >= 10, "10 items", owner)
    code, said = cluster.command("resume", cluster.job())
    assert code == 3
    assert f"owned by process {owner.pid}" in said
    assert owner.popen.poll() is None


@pytest.mark.slow
def test_a_paused_job_that_nobody_owns_is_cancelled_by_a_standby_soon(cluster: Cluster) -> None:
    owner = cluster.owner(600)
    eventually(lambda: cluster.count() >= 10, "10 items", owner)
    assert cluster.ask("pause", cluster.job())["status"] == "paused"
    assert owner.wait() == 4
    # Its turn comes in an hour, unless it is asked for something.
    standby = cluster.program("-c", RARE, str(cluster.root))
    eventually(lambda: "looked" in standby.said(), "the standby has looked at it", standby)
    answer = cluster.ask("cancel", cluster.job())
    assert (answer["answer"], answer["status"]) == ("accepted", "cancelled")
    standby.signal(signal.SIGTERM)
    standby.wait()


@pytest.mark.slow
def test_a_request_to_a_job_that_nobody_owns_is_obeyed_before_anything_is_dispatched(cluster: Cluster) -> None:
    killed_owner(cluster, 100, at=20)
    done = cluster.count()
    job_id = cluster.job_id()
    with Store(str(cluster.root), Settings()) as store:
        request = Request(new_request_id(), "pause", {"reason": "lunch"}, "a test")
        store.control(job_id).put(request)
        store.control(job_id).put(request)  # asked again: the same request
        assert remote.wait_answer(store, job_id, request.request_id, 0.0) is None
        standby = cluster.standby()
        answer = remote.wait_answer(store, job_id, request.request_id, 20.0)
        assert answer is not None
        assert answer.is_accepted
        store.control(job_id).put(request)  # and again, after it was answered
        eventually(lambda: cluster.job_folded().status == "paused", "it is paused", standby)
        # A later request is answered behind it: by then the repeated one has been looked at.
        assert remote.ask(store, job_id, "resume", timeout_s=20.0).is_accepted
        eventually(lambda: "completed" in standby.said(), "the job completes", standby)
        assert remote.wait_answer(store, job_id, request.request_id, 0.0) == answer
    job = cluster.job_folded()
    assert [point["reason"] for point in job.pause_points] == ["lunch"]
    assert list(job.answered.values()) == ["", ""]
    assert cluster.count() >= done
    cluster.require_completed(100)


@pytest.mark.slow
def test_a_request_survives_its_owner(cluster: Cluster) -> None:
    """The owner obeys and is killed, perhaps before it can say so: its successor says so, and does not pause again."""
    owner = cluster.owner(120)
    eventually(lambda: cluster.count() >= 20, "20 items", owner)
    job_id = cluster.job_id()
    with Store(str(cluster.root), Settings()) as store:
        request_id = remote.send(store, job_id, "pause", {"reason": "once"})
        eventually(lambda: cluster.job_folded().answered, "the answer is in the log", deadline_s=20)
        owner.signal(signal.SIGKILL)
        owner.wait()
        (cluster.root / job_id / "control" / f"{request_id}.answer").unlink(missing_ok=True)
        code, said = cluster.command("resume", cluster.job(), "--plain")
        assert code == 0, said
        assert remote.wait_answer(store, job_id, request_id, 0.0).is_accepted
    job = cluster.job_folded()
    assert job.answered == {request_id: ""}
    assert len(job.pause_points) <= 1, "killed before it had paused, or after; never twice"
    cluster.require_completed(120)


@pytest.mark.slow
def test_what_cannot_be_done_is_refused_with_the_reason(cluster: Cluster) -> None:
    owner = cluster.owner(400)
    eventually(lambda: cluster.count() >= 5, "5 items", owner)
    job_id = cluster.job_id()
    with Store(str(cluster.root), Settings()) as store:
        control = store.control(job_id)
        garbage = new_request_id()
        control._put(garbage, b"\x00 no request")
        refusals = {
            "not paused": remote.ask(store, job_id, "resume"),
            "Routine 'nobody' not found": remote.ask(store, job_id, "retry", {"activation": "nobody/3"}),
            "no dead letters": remote.ask(store, job_id, "skip"),
            "Slot 'x' not found": remote.ask(store, job_id, "post", {"routine": "work", "slot": "x", "data": {}}),
            "damaged": remote.wait_answer(store, job_id, garbage, 10.0),
        }
    for words, answer in refusals.items():
        assert answer is not None, words
        assert not answer.is_accepted
        assert words in answer.reason
    assert owner.popen.poll() is None
    assert cluster.job_folded().status == "running"


@pytest.mark.slow
def test_dead_letters_are_retried_and_skipped_by_hand(cluster: Cluster) -> None:
    cluster.environment["ROUTILUX_MP_MAX_CRASHES"] = "1"
    owner = cluster.owner(400, poison=7)
    eventually(lambda: cluster.count() > 7 and cluster.job_folded().dead_letters, "a dead letter", owner)
    assert cluster.ask("retry", cluster.job(), "work/7")["answer"] == "accepted"
    eventually(lambda: sum(mark.item == 7 for mark in cluster.marks()) == 2, "it is tried again", owner)
    eventually(lambda: cluster.job_folded().dead_letters, "and is a dead letter again", owner)
    (cluster.folder / "antidote").touch()
    assert cluster.ask("retry", cluster.job())["answer"] == "accepted"
    assert owner.wait() == 0, owner.said()
    assert cluster.job_folded().dead_letters == []
    cluster.require_completed(400)


@pytest.mark.slow
def test_a_dead_letter_that_is_skipped_is_no_dead_letter_any_more(cluster: Cluster) -> None:
    cluster.environment["ROUTILUX_MP_MAX_CRASHES"] = "1"
    owner = cluster.owner(200, poison=7)
    eventually(lambda: cluster.count() > 7 and cluster.job_folded().dead_letters, "a dead letter", owner)
    assert cluster.ask("skip", cluster.job(), "work/7")["answer"] == "accepted"
    assert owner.wait() == 0, owner.said()
    job = cluster.job_folded()
    assert job.dead_letters == []
    assert job.results == {(1, 0): 199}


@pytest.mark.slow
def test_posting_to_a_job_of_another_process(cluster: Cluster) -> None:
    owner = cluster.owner(200)
    eventually(lambda: cluster.count() >= 5, "5 items", owner)
    data = {"i": 1000, "pause_s": 0, "log": str(cluster.log), "poison": -1}
    with Store(str(cluster.root), Settings()) as store:
        arguments = {"routine": "work", "slot": "inp", "data": data}
        assert remote.ask(store, cluster.job_id(), "post", arguments).is_accepted
    assert owner.wait() == 0, owner.said()
    assert [mark.item for mark in cluster.marks()].count(1000) == 1
    assert cluster.job_folded().results == {(1, 0): 201}


@pytest.mark.slow
@pytest.mark.parametrize("host", ["", "elsewhere"], ids=["the same host", "another host"])
@pytest.mark.usefixtures("here")
def test_a_job_of_a_living_owner_is_refused_and_can_be_asked_for(cluster: Cluster, host: str) -> None:
    owner = cluster.owner(300, host=host)
    eventually(lambda: cluster.count() >= 10, "10 items", owner)
    job_id = cluster.job_id()
    with Runtime(2, checkpoint_dir=str(cluster.root), settle_s=0) as runtime:
        with pytest.raises(JobOwned, match=f"process {owner.pid} on host '{host or os.uname().nodename}'"):
            runtime.resume_job(job_id)
        assert owner.popen.poll() is None
        state = runtime.resume_job(job_id, takeover=True)
        assert owner.wait() == 3
        assert "was handed over" in owner.said()
        assert JobState.wait_for_completion(Flow("failover"), state, timeout=30)
    cluster.require_completed(300)
    assert cluster.twice() == []


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_an_owner_that_does_not_answer_is_taken_over_all_the_same(cluster: Cluster) -> None:
    owner = cluster.owner(200, host="elsewhere")
    eventually(lambda: cluster.count() >= 10, "10 items", owner)
    owner.signal(signal.SIGSTOP)
    begin = time.monotonic()
    with Runtime(2, checkpoint_dir=str(cluster.root), settle_s=0, grace_s=0.5) as runtime:
        state = runtime.resume_job(cluster.job_id(), takeover=True)
        assert time.monotonic() - begin < 10
        owner.signal(signal.SIGCONT)
        assert owner.wait() == 3
        assert f"pid {os.getpid()}" in owner.said()
        assert JobState.wait_for_completion(Flow("failover"), state, timeout=30)
    cluster.require_completed(200)


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_job_handed_over_by_the_library_can_be_had_back(cluster: Cluster) -> None:
    owner = cluster.owner(400)
    eventually(lambda: cluster.count() >= 10, "10 items", owner)
    with Runtime(2, checkpoint_dir=str(cluster.root), settle_s=0) as runtime:
        state = runtime.resume_job(cluster.job_id(), takeover=True)
        runtime.pause(state, "elsewhere, please", handover=True)
        handle = state._live_or_fail().handle
        eventually(lambda: isinstance(handle.lost, HandedOver), "it is handed over")
        again = runtime.resume_job(cluster.job_id())
        assert JobState.wait_for_completion(Flow("failover"), again, timeout=30)
    cluster.require_completed(400)


def test_a_standby_that_was_slow_does_not_depose_who_was_quicker(cluster: Cluster, here: None) -> None:
    killed_owner(cluster, 60, at=10)
    job_id = cluster.job_id()
    supervisor = Supervisor(Settings(checkpoint_dir=str(cluster.root), backend="inline"))
    glance = supervisor.store.glance(job_id)
    assert glance is not None
    with Store(str(cluster.root), Settings()) as quicker:
        tenure = quicker.take_over(job_id)[1]
        try:
            with pytest.raises(Fenced, match="meanwhile"):
                supervisor.adopt(job_id, lambda flow_id: None, glance.epoch)
        finally:
            supervisor.close()
        tenure.seal("handover")  # it still could: nobody has fenced it
        tenure.close()
