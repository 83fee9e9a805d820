"""What a standby looks at: everything once, then only what can have changed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from routilux_mp._storage.control import Control
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.store import Store
from routilux_mp._supervisor import remote
from routilux_mp._supervisor import standby as standby_module
from routilux_mp._supervisor.standby import Found, Standby
from routilux_mp.errors import Fenced, NeverBegan, NotShippable, RoutiluxError, StorageError
from routilux_mp.settings import Settings


class Supervisor:
    """Stands for the supervisor: notes what it is asked to adopt, and refuses as it is told to."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(checkpoint_dir=str(root), poll_s=0.0, lease_s=1000.0)
        self.store = Store(str(root), self.settings)
        self.store.prepare()
        self.loop = self
        self.jobs: dict[str, object] = {}
        self.asked: list[str] = []
        self.glances: list[str] = []
        self.answer: object = "paused"
        glance = self.store.glance

        def noted(job_id: str) -> object:
            self.glances.append(job_id)
            return glance(job_id)

        self.store.glance = noted  # type: ignore[method-assign,assignment]

    def adopt(self, job_id: str, flow_of: object, epoch: int) -> object:
        self.asked.append(job_id)
        if isinstance(self.answer, RoutiluxError):
            raise self.answer
        return self.answer

    def preload(self, job_id: str, flow_of: object) -> None:
        pass


class Bench:
    def __init__(self, root: Path) -> None:
        self.supervisor = Supervisor(root)
        self.said: list[str] = []
        self.standby = Standby(self.supervisor, capacity=0, flow_of=lambda flow_id: None, say=self.said.append)  # type: ignore[arg-type]
        self.owner = Store(str(root), Settings(lease_s=1000.0))
        self.other = Store(str(root), Settings(lease_s=1000.0, host_id="another host"))
        #: Requests are looked for at every look, however long that took on this machine.
        self.ask_again_s = 0.0

    def job(self, job_id: str, seal: str = "", by: Store | None = None) -> Tenure:
        tenure = (by or self.owner).create(job_id, b"{}")
        tenure.commit([b"record"])
        if seal:
            tenure.seal(seal)  # type: ignore[arg-type]
        return tenure

    def look(self) -> list[str]:
        """One look, and the end of what it began; the jobs that were glanced at."""
        self.supervisor.glances.clear()
        self.standby._ask_again_s = min(self.standby._ask_again_s, self.ask_again_s)
        self.standby.look()
        for thread in list(self.standby._taking.values()):
            thread.join()
        self.standby._collect()
        return sorted(self.supervisor.glances)

    def close(self) -> None:
        self.standby._wakeup.close()
        for store in (self.supervisor.store, self.owner, self.other):
            store.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "root")
    yield made
    made.close()


def test_an_ended_job_is_looked_at_once(bench: Bench) -> None:
    for number in range(5):
        bench.job(f"ended{number}", "ended").close()
    assert len(bench.look()) == 5
    assert bench.look() == []
    assert bench.supervisor.asked == []


def test_a_job_that_a_living_owner_lists_is_not_looked_at(bench: Bench) -> None:
    tenure = bench.job("running", by=bench.other)
    heartbeat = bench.other.heartbeat()
    heartbeat.beat(["running"])
    assert bench.look() == []
    heartbeat.beat([])  # it has given it up
    assert bench.look() == ["running"]
    assert bench.supervisor.asked == [], "its owner is not silent, and has not sealed it"
    tenure.close()


def test_a_job_that_is_handed_over_is_taken_whatever_its_owner_does(bench: Bench) -> None:
    bench.job("offered", "handover", by=bench.other).close()
    bench.other.heartbeat().beat([], offered=["offered"])
    bench.look()
    assert bench.supervisor.asked == ["offered"]


def test_a_hand_over_is_known_from_the_heartbeat_where_the_seal_is_not_seen_yet(bench: Bench) -> None:
    """A network client lists for half a minute what was there; its owner may be busy with other jobs for as long."""
    tenure = bench.job("offered", by=bench.other)
    someone = Store(bench.supervisor.store.path, Settings(lease_s=1000.0, host_id="a third host"))
    bench.other.heartbeat().beat([])
    someone.heartbeat().beat([], offered=["offered"], sealed={"offered": 1})
    bench.look()
    assert bench.supervisor.asked == [], "it was somebody else's before"
    bench.other.heartbeat().beat(["another"], offered=["offered"], sealed={"offered": 1})
    bench.look()
    assert bench.supervisor.asked == ["offered"]
    someone.close()
    tenure.close()


def test_a_job_that_its_owner_took_again_is_not_taken_for_what_its_last_heartbeat_said(bench: Bench) -> None:
    bench.job("back", "handover", by=bench.other).close()
    heartbeat = bench.other.heartbeat()
    heartbeat.beat([], offered=["back"], sealed={"back": 1})
    tenure = bench.other.take_over("back")[1]  # the next heartbeat is on its way
    bench.look()
    assert bench.supervisor.asked == [], "its owner lives, and is not to be deposed"
    tenure.close()


def test_what_cannot_be_read_is_tried_again_soon_and_then_less_often(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(standby_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    bench.standby._poll_s = 0.5
    bench.job("job", "handover").close()
    bench.supervisor.answer = StorageError("it cannot be read")
    tried: list[float] = []
    while now[0] < 1030.0:
        before = len(bench.supervisor.asked)
        bench.look()
        if len(bench.supervisor.asked) > before:
            tried.append(now[0] - 1000.0)
        now[0] += 0.5
    assert tried[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert {late - early for early, late in pairwise(tried[6:])} == {5.0}
    bench.supervisor.answer = SimpleNamespace(view=SimpleNamespace(is_terminal=False), lost=None)
    now[0] += 5.0
    bench.look()
    assert bench.said[-1].startswith("took over job job")
    assert "job" not in bench.standby._parked, "the next trouble is a new one"


def test_an_owner_that_left_without_sealing_is_gone(bench: Bench) -> None:
    bench.job("left", by=bench.other).close()
    bench.look()
    assert bench.supervisor.asked == []
    bench.other.heartbeat().beat([], is_leaving=True)
    bench.look()
    assert bench.supervisor.asked == ["left"]


def test_a_living_process_of_this_host_is_not_suspected_for_having_no_heartbeat(bench: Bench) -> None:
    tenure = bench.job("mine")  # by this very process, under another token
    bench.standby._owners.heartbeats._clock = lambda: 1e9
    bench.look()
    assert bench.supervisor.asked == []
    tenure.close()


def test_a_roll_invites_nobody(bench: Bench) -> None:
    tenure = bench.job("rolling", "roll", by=bench.other)
    bench.look()
    assert bench.supervisor.asked == []
    tenure.close()


def test_a_paused_job_is_left_alone_until_something_of_it_changes(bench: Bench) -> None:
    bench.job("paused", "handover").close()
    bench.look()
    bench.look()
    bench.look()
    assert bench.supervisor.asked == ["paused"]
    _, tenure = bench.other.take_over("paused")
    tenure.seal("handover")
    bench.look()
    assert bench.supervisor.asked == ["paused", "paused"]
    bench.look()
    assert bench.supervisor.asked == ["paused", "paused"]
    remote.send(bench.other, "paused", "cancel")
    bench.look()
    assert bench.supervisor.asked == ["paused", "paused", "paused"]


def test_a_job_that_had_not_begun_is_looked_at_again_once_it_has(bench: Bench) -> None:
    """Its maker was silent, so it was looked at, and was only slow. Found by `scripts/torture`."""
    tenure = bench.owner.create("j-slow", b"{}")
    bench.supervisor.answer = NeverBegan("it never began")
    found = Found("j-slow", bench.owner.glance("j-slow"), "silent")  # type: ignore[arg-type]
    bench.standby._take(found)
    bench.standby._collect()
    assert bench.said == []
    tenure.commit([b"record"])
    tenure.seal("handover")
    bench.supervisor.answer = "paused"
    bench.look()
    assert bench.supervisor.asked == ["j-slow", "j-slow"]


def test_a_request_to_a_paused_job_is_seen_at_the_next_look(bench: Bench) -> None:
    bench.job("paused", "handover").close()
    bench.standby._poll_s = 1000.0
    bench.look()
    assert bench.look() == [], "its turn comes in some thousand seconds"
    remote.send(bench.other, "paused", "cancel")
    bench.look()
    assert bench.supervisor.asked == ["paused", "paused"]
    assert bench.look() == [], "the request has led to nothing: it is not tried again and again"
    remote.send(bench.other, "paused", "resume")
    bench.look()
    assert bench.supervisor.asked == ["paused", "paused", "paused"]


def test_a_request_that_led_to_nothing_is_tried_again_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.job("paused", "handover").close()
    remote.send(bench.other, "paused", "cancel")
    bench.look()
    bench.look()
    assert bench.supervisor.asked == ["paused"]
    later = time.monotonic() + standby_module._RETRY_S
    monkeypatch.setattr(standby_module, "time", SimpleNamespace(monotonic=lambda: later))
    bench.look()
    assert bench.supervisor.asked == ["paused", "paused"]


def test_many_paused_jobs_are_looked_after_in_a_small_share_of_the_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        bench.job(f"paused{number}", "handover").close()
    bench.standby._poll_s = 1e6
    for _ in range(3):  # a few side by side
        bench.look()
    assert len(bench.supervisor.asked) == 5
    now = [time.monotonic()]
    seen: list[float] = []
    control = bench.supervisor.store.control

    def slow(job_id: str) -> Control:
        now[0] += 0.1
        seen.append(now[0])
        return control(job_id)

    monkeypatch.setattr(bench.supervisor.store, "control", slow)
    monkeypatch.setattr(standby_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    bench.ask_again_s = float("inf")
    bench.standby._ask_again_s = 0.0
    begin = now[0]
    while now[0] < begin + 100.0:
        bench.look()
        now[0] += 0.5
    assert 2 * 5 <= len(seen) <= 4 * 5, "half a second of looking in 50 seconds"


def test_what_it_lacks_is_said_once_and_a_lost_race_not_at_all(bench: Bench) -> None:
    bench.job("job", "handover").close()
    bench.supervisor.answer = Fenced("somebody was quicker")
    bench.look()
    assert bench.said == []
    bench.supervisor.answer = NotShippable("no module named 'lost'")
    for _ in range(3):
        bench.look()
        bench.standby._parked.clear()
    assert len(bench.supervisor.asked) == 4
    (line,) = bench.said
    assert "no module named 'lost'" in line


def test_a_damaged_job_is_named_and_keeps_no_other_from_being_taken(bench: Bench) -> None:
    broken = Path(bench.supervisor.store.path, "broken", "epochs", "e0000001")
    broken.mkdir(parents=True)
    (broken / "c00000001").write_bytes(b"rubbish")
    bench.job("whole", "handover").close()
    bench.look()
    bench.look()
    assert bench.supervisor.asked == ["whole"]
    (line,) = bench.said
    assert "broken" in line


def test_capacity_counts_what_runs_and_not_what_is_paused(bench: Bench) -> None:
    class Live:
        def __init__(self, status: str) -> None:
            self.job = self
            self.status = status

    bench.standby._capacity = 1
    bench.supervisor.jobs = {"a": Live("paused")}
    assert bench.standby._has_room()
    bench.supervisor.jobs = {"a": Live("paused"), "b": Live("running")}
    assert not bench.standby._has_room()


def test_what_is_known_of_a_deleted_job_is_forgotten(bench: Bench) -> None:
    bench.job("ended", seal="ended").close()
    bench.look()
    assert bench.standby._ended == {"ended"}
    bench.standby._preloaded.add("ended")
    shutil.rmtree(Path(bench.supervisor.store.path, "ended"))
    bench.look()
    assert not bench.standby._ended
    assert not bench.standby._preloaded
