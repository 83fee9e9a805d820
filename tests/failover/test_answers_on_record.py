"""An answer is part of a commit; its file is a copy that the owner may not live to make. Found by `scripts/torture`."""

from __future__ import annotations

from pathlib import Path

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._storage.store import Store
from routilux_mp._supervisor import remote
from routilux_mp._supervisor.supervisor import Supervisor
from routilux_mp.settings import Settings
from tests.failover.cluster import eventually


class Inbox(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in", handler=self.take)

    def take(self, n: int) -> None:
        """Nothing."""


def asked(root: Path, kind: str) -> tuple[str, str]:
    """A job that has obeyed one request, and whose owner has left without a copy of its answer."""
    flow = Flow(flow_id="inbox")
    flow.add_routine(Inbox(), "inbox")
    with Runtime(1, checkpoint_dir=str(root), backend="inline", settle_s=0) as runtime:
        state = JobState("inbox")
        runtime.exec(flow, None, state)
        job_id = state.job_id
        with Store(str(root), Settings()) as store:
            request_id = remote.send(store, job_id, kind)
            eventually(lambda: store.control(job_id).answer(request_id), f"{kind} is answered")
        runtime.shutdown(wait=False)
    (root / job_id / "control" / f"{request_id}.answer").unlink()
    return job_id, request_id


def test_of_a_paused_job_whoever_looks_at_it_shows_the_answer(tmp_path: Path) -> None:
    job_id, request_id = asked(tmp_path, "pause")
    supervisor = Supervisor(Settings(checkpoint_dir=str(tmp_path), backend="inline"))
    try:
        glance = supervisor.store.glance(job_id)
        assert glance is not None
        assert remote.wait_answer(supervisor.store, job_id, request_id, 0.0) is None
        assert supervisor.adopt(job_id, lambda flow_id: None, glance.epoch) == "paused"
        answer = remote.wait_answer(supervisor.store, job_id, request_id, 0.0)
    finally:
        supervisor.close()
    assert answer is not None
    assert answer.is_accepted


def test_of_an_ended_job_the_log_answers(tmp_path: Path) -> None:
    job_id, request_id = asked(tmp_path, "cancel")
    with Store(str(tmp_path), Settings()) as store:
        answer = remote.wait_answer(store, job_id, request_id, 0.0)
        later = remote.wait_answer(store, job_id, remote.send(store, job_id, "pause"), 0.0)
    assert answer is not None
    assert answer.is_accepted
    assert later is not None
    assert (later.is_accepted, later.reason) == (False, "the job has ended")
