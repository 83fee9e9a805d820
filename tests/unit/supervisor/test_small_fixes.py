"""Rules of the supervisor's smaller parts: what is kept in memory, what survives trouble, what is forgotten."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.job import Job, RoutineState, Run
from routilux_mp._core.records import Completed, Submitted
from routilux_mp._core.stimuli import Emit
from routilux_mp._core.topology import ConnectionSpec, Topology
from routilux_mp._serialization.packing import pack, unpack
from routilux_mp._storage.store import Store
from routilux_mp._supervisor import vigil as vigil_module
from routilux_mp._supervisor.committer import InstantCommitter, ThreadCommitter
from routilux_mp._supervisor.live import LiveJob
from routilux_mp._supervisor.printing import _Backlog
from routilux_mp._supervisor.relay import Relay
from routilux_mp._supervisor.supervisor import Supervisor
from routilux_mp._supervisor.unkept import NullTenure
from routilux_mp._supervisor.vigil import Vigil
from routilux_mp._worker.logs import as_text
from routilux_mp.errors import SettingInvalid
from routilux_mp.settings import Settings
from tests.unit.core.core_bench import routine


def _job() -> Job:
    job = Job("j")
    job.topology = Topology("f", "concurrent", (routine("a"), routine("b")), (ConnectionSpec(0, 0, 1, 0),))
    return job


def test_without_durability_only_the_newest_history_is_kept() -> None:
    job, tenure = _job(), NullTenure(history_max=4)
    first = Submitted(1, "f", job.topology.to_plain(), 0, 0, None)
    tenure.keep(job, [first])
    result = Completed(1, 1, 1, (Emit(0, Batch(1, b"result")),))
    for number in range(50):
        tenure.keep(job, [Completed(number, 0, 1, (Emit(0, Batch(1, b"on its way")),))])
        if number == 10:
            tenure.keep(job, [result])
    kept = tenure.records()
    assert kept[:2] == [first, result], "in their order, and for good"
    assert len(kept) == 4


def test_payloads_that_wait_for_a_policy_or_for_their_turn_are_spilled_too() -> None:
    live = LiveJob(Job("j"), NullTenure(1), "code")
    live.memory = None
    batches = [Batch(1, b"x" * 100, (1, 2, n, 0)) for n in range(4)]
    in_slot, held, ready, on_its_way = batches
    routines = live.job.routines = [RoutineState(1)]
    routines[0].ready.append(Run(0, 0, 0, ready, 0, 1, 1))
    routines[0].slots[0].append(Run(0, 0, 0, in_slot, 0, 1, 1))
    routines[0].held_emits[3] = (1, (Emit(0, held), Emit(0, on_its_way)))
    on_its_way.ref = None  # not in the log yet
    live.spill(50)
    assert [batch.data is None for batch in (ready, in_slot, held, on_its_way)] == [True, True, True, False]


def _wrong() -> None:
    raise RecursionError("whatever")


def test_a_committer_reports_every_error_and_works_on() -> None:
    woken, awaited = threading.Event(), []

    def wake(*, is_awaited: bool = True) -> None:
        awaited.append(is_awaited)
        woken.set()

    threads, instant = ThreadCommitter(wake, threads_max=1), InstantCommitter()
    instant.submit("j", _wrong)
    assert isinstance(instant.finished()[0][1], RecursionError)
    for is_awaited in (True, False):
        woken.clear()
        threads.submit("j", _wrong, is_awaited=is_awaited)
        assert woken.wait(5.0)
        assert isinstance(threads.finished()[0][1], RecursionError)
    begun: list[float] = []
    before = time.monotonic()
    threads.submit("j", lambda: begun.append(time.monotonic()), after_s=0.02)
    threads.close()
    assert begun[0] - before > 0.019
    assert awaited == [True, False, True]


def test_a_committer_works_with_the_threads_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the interpreter ends there may be no new ones, and on a full system neither."""
    done: list[int] = []
    committer = ThreadCommitter(lambda *, is_awaited=True: None, threads_max=8)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        for n in range(20):
            committer.submit(str(n), partial(done.append, n))
        committer.close()
        assert sorted(done) == list(range(20))
        with pytest.raises(RuntimeError, match="no new thread"):
            ThreadCommitter(lambda *, is_awaited=True: None)


def test_what_handlers_print_and_log_arrives_without_a_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    with open(read, "rb") as reading, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        backlog = _Backlog(write, b"printed\n")
        assert not backlog.add(b"later\n"), "nothing waits any more"
        backlog.close()
        os.close(write)
        assert reading.read() == b"printed\n"
        relay = Relay()
        for n in range(3):
            relay(as_text(logging.makeLogRecord({"name": "user", "levelno": 30, "msg": f"logged {n}"})))
        relay.close()
    assert [record.getMessage() for record in caplog.records] == ["logged 0", "logged 1", "logged 2"]


def test_a_vigil_that_keeps_nothing_touches_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    settings = Settings(checkpoint_dir=str(root))
    store = Store(str(root), settings)
    vigil = Vigil(store, settings, lambda: None)
    vigil.tell()()
    vigil.close()
    store.close()
    assert not root.exists()


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("no new thread")


def test_who_waits_for_a_view_is_woken_by_no_other() -> None:
    live = LiveJob(Job("j"), NullTenure(1), "code")
    looked: list[int] = []
    is_waiting = threading.Event()

    def is_third(view: Any) -> bool:
        looked.append(threading.get_ident())
        return bool(view.version == 3)

    def wait() -> None:
        with live.changed, live.waiting_for(is_third):
            is_waiting.set()
            live.changed.wait_for(lambda: is_third(live.view))

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert is_waiting.wait(5.0)
    for version in (1, 2, 3):
        live._publish(live.view._replace(version=version))
    waiter.join(5.0)
    assert not waiter.is_alive()
    live._publish(live.view._replace(version=3))
    assert looked.count(waiter.ident or 0) == 2, "before it waited, and when it was woken"
    assert len(looked) == 5, "nobody waits any more"


def test_a_thread_that_waits_for_the_next_commit_keeps_nothing_of_the_last() -> None:
    class Task:
        def __call__(self) -> None: ...

    woken = threading.Event()
    committer = ThreadCommitter(lambda is_awaited: woken.set())
    task = Task()
    owner = weakref.ref(task)
    committer.submit("j", task)
    del task
    assert woken.wait(5.0)
    deadline = time.monotonic() + 5.0
    while owner() is not None:
        assert time.monotonic() < deadline, "it is kept"
        time.sleep(0.001)
    committer.close()


def test_the_vigil_outlives_any_trouble_with_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(checkpoint_dir=str(tmp_path), lease_s=0.3, poll_s=0.01)
    store = Store(str(tmp_path), settings)
    store.prepare()
    asked = threading.Semaphore(0)

    def control(job_id: str) -> Any:
        asked.release()
        raise SettingInvalid("neither a storage error nor an OSError")

    monkeypatch.setattr(store, "control", control)
    vigil = Vigil(store, settings, lambda: None)
    vigil.keep(Job("j"))
    assert asked.acquire(timeout=5.0)
    assert asked.acquire(timeout=5.0), "it looks again"
    vigil.close()
    store.close()


def test_who_leaves_waits_until_the_heartbeat_says_what_was_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil_module, "_TOLD_S", 60.0)
    settings = Settings(checkpoint_dir=str(tmp_path), lease_s=600.0)
    store = Store(str(tmp_path), settings)
    store.prepare()
    heartbeats = store.heartbeats()
    vigil = Vigil(store, settings, lambda: None)
    vigil.tell()()  # nobody has to be told anything
    vigil.keep(Job("j"))
    vigil.tell()()
    (sign,) = heartbeats.look()
    assert (sign.jobs, sign.offered) == ({"j"}, set())
    vigil.let_go("j", is_offered=True)
    vigil.tell()()
    (sign,) = heartbeats.look()
    assert (sign.jobs, sign.offered) == (set(), {"j"})
    vigil.close()
    vigil.tell()()
    (sign,) = heartbeats.look()
    assert sign.is_leaving
    store.close()


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 2**2000, "a\udcffb", {"\ud800": [1]}])
def test_our_own_messages_carry_wide_numbers_and_lone_surrogates(value: object) -> None:
    assert unpack(pack((1, value))) in ((1, value), (1, {"\ud800": (1,)}))


def test_our_own_messages_carry_nothing_else() -> None:
    with pytest.raises(TypeError):
        pack({1, 2})
    with pytest.raises(ValueError, match="none of ours"):
        unpack(b"\xd4\x07\x00")


def test_everybody_is_waited_for_within_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handle:
        def wait_sealed(self, timeout_s: float) -> bool:
            waited.append(timeout_s)
            time.sleep(timeout_s)
            return False

    waited: list[float] = []
    supervisor = Supervisor(Settings(durability="none", backend="inline", grace_s=0.05))
    supervisor.start()
    monkeypatch.setattr(supervisor, "handles", lambda: [Handle()] * 5)
    supervisor.leave()
    monkeypatch.undo()
    supervisor.close(wait=False)
    assert sum(waited) < 0.2
