"""What every backend does, over all of them: the same work gives the same reports."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import GoOn, Part, Revoke, Work
from routilux_mp._core.topology import ConnectionSpec
from routilux_mp._serialization.batch import encode_batch, encode_value
from routilux_mp._serialization.places import cursor_place, emission_place, slot_place
from routilux_mp._storage.blobs import TRAILER_BYTES
from routilux_mp._worker.spill import is_reference
from routilux_mp.backends.base import Backend, Code, CodeReady, CodeRefused, Forget, Started
from routilux_mp.backends.local import LocalBackend
from routilux_mp.errors import BackendError
from routilux_mp.routine import Routine
from tests.support.workers import Driver, make_backend


@pytest.fixture(params=["local", "inline"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    made = make_backend(request.param)
    yield made
    made.close()


class Thing:
    """An object that is not plain data."""

    def __init__(self, n: int) -> None:
        self.n = n


def routine(handler: Callable[..., Any], *events: str, **options: Any) -> Routine:
    """A routine with one slot; ``handler`` gets the routine first."""
    made = Routine()
    made.add_slot("in", lambda **data: handler(made, **data), **options)
    for event in events or ("out",):
        made.add_event(event)
    return made


def double(self: Routine, n: int) -> None:
    self.emit("out", n=2 * n)


def numbers(count: int, start: int = 0) -> list[dict[str, int]]:
    return [{"n": n} for n in range(start, start + count)]


# -- workers come and go ------------------------------------------------------------------------


def test_code_and_worker_are_announced(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    assert driver.answered() == CodeReady(driver.code_id)
    assert driver.started().pid > 0
    assert backend.running(1) == (0, -1, 0)


def test_code_that_is_missing_is_refused(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)})
    backend.load(Code("nothing", None))
    answer = driver.answered()
    assert isinstance(answer, CodeRefused)
    assert answer.code_id == "nothing"


def test_a_worker_of_unknown_code_dies_without_blame(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)})
    backend.start(1, "unknown")
    end = driver.died().exit
    assert end.is_blameless
    assert "unknown" in end.detail


def test_a_worker_number_is_used_once(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    driver.started()
    backend.kill(1)
    assert driver.died().exit.is_blameless
    with pytest.raises(BackendError, match="number 1"):
        backend.start(1, driver.code_id)


def test_messages_to_a_dead_worker_are_dropped(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    driver.started()
    backend.kill(1)
    driver.died()
    driver.work(1, numbers(1))
    driver.quiet(0.05)
    assert driver.reports(1) == []


def test_a_stopped_worker_does_first_what_it_was_sent(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    for dispatch in range(1, 21):
        driver.work(dispatch, numbers(50))
    backend.stop(1)
    end = driver.died().exit
    assert end.is_blameless
    assert end.exit_code == 0
    assert sum(c.done for d in range(1, 21) for c in driver.reports(d)) == 1000


def test_wake_ends_a_poll_from_another_thread(backend: Backend) -> None:
    timer = threading.Timer(0.05, backend.wake)
    timer.start()
    before = time.monotonic()
    backend.poll(10)
    assert time.monotonic() - before < 5
    timer.join()


def test_poll_returns_when_its_time_is_over(backend: Backend) -> None:
    before = time.monotonic()
    assert backend.poll(0.02) == []
    assert 0.015 < time.monotonic() - before < 5


def test_whoever_waits_for_an_answer_ends_a_pause(backend: Backend) -> None:
    waker = threading.Timer(0.05, backend.wake)
    waker.start()
    before = time.monotonic()
    assert backend.poll(None, pause_s=60) == []
    assert time.monotonic() - before < 30
    waker.join()


def test_a_pause_goes_on_when_nobody_waits() -> None:
    backend = LocalBackend()
    try:
        backend.wake(is_awaited=False)
        before = time.monotonic()
        assert backend.poll(None, pause_s=0.05) == []
        assert time.monotonic() - before > 0.045
        backend.wake()
        assert backend.poll(None, pause_s=60) == []
        assert time.monotonic() - before < 30
    finally:
        backend.close()


def test_a_closed_backend_says_so(backend: Backend) -> None:
    backend.close()
    backend.close()
    backend.wake()
    with pytest.raises(BackendError, match="closed"):
        backend.poll(0)


def test_several_workers_have_work_of_their_own(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin(1, 2, 3)
    for worker in (1, 2, 3):
        driver.work(worker, numbers(1, start=worker), worker=worker)
    for worker in (1, 2, 3):
        assert driver.emitted(driver.finish(worker)) == [{"n": 2 * worker}]
    assert {e.worker for e in driver.all(Started)} == {1, 2, 3}


# -- activations and reports --------------------------------------------------------------------


def test_a_batch_is_run_in_order_and_reported(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    driver.work(1, numbers(1000))
    reports = driver.finish(1)
    assert sum(c.done for c in reports) == 1000
    assert [c.is_last for c in reports] == [False] * (len(reports) - 1) + [True]
    assert driver.emitted(reports) == [{"n": 2 * n} for n in range(1000)]
    assert all(emit.batch.count <= driver.info.batch_count_max for c in reports for emit in c.emits)
    assert all(c.busy_ns > 0 for c in reports if c.done)


def test_each_event_has_batches_of_its_own(backend: Backend) -> None:
    def sort(self: Routine, n: int) -> None:
        self.emit("odd" if n % 2 else "even", n=n)

    driver = Driver(backend, {"r": routine(sort, "even", "odd")}).begin()
    driver.work(1, numbers(9))
    reports = driver.finish(1)
    assert driver.emitted(reports, "even") == [{"n": n} for n in (0, 2, 4, 6, 8)]
    assert driver.emitted(reports, "odd") == [{"n": n} for n in (1, 3, 5, 7)]


def test_parts_are_run_one_after_another_with_their_own_numbers(backend: Backend) -> None:
    def who(self: Routine, n: int) -> None:
        self.emit("out", n=n, key=self.idempotency_key, attempt=self.attempt, cursor=self.resume_cursor)

    driver = Driver(backend, {"r": routine(who)}).begin()
    data = encode_batch(numbers(10), None, slot_place("job", "r", "in")).data
    batch = Batch(10, data)
    driver.send(Work(1, 1, 0, (7, 20), (Part(0, -1, batch, 2, 2), Part(0, -1, batch, 9, 1)), attempt=3))
    assert driver.emitted(driver.finish(1)) == [
        {"n": 2, "key": "job/r/7", "attempt": 3, "cursor": None},
        {"n": 3, "key": "job/r/8", "attempt": 1, "cursor": None},
        {"n": 9, "key": "job/r/20", "attempt": 1, "cursor": None},
    ]


def test_an_emission_is_what_it_was_when_it_was_emitted(backend: Backend) -> None:
    def reuse(self: Routine, n: int) -> None:
        box = [n]
        self.emit("out", box=box)
        box.append("later")

    driver = Driver(backend, {"r": routine(reuse)}).begin()
    driver.work(1, numbers(2))
    assert driver.emitted(driver.finish(1)) == [{"box": [0]}, {"box": [1]}]


def test_a_batch_is_cut_by_size_too(backend: Backend) -> None:
    def grow(self: Routine, n: int) -> None:
        self.emit("out", text="x" * 1000)

    driver = Driver(backend, {"r": routine(grow)}, batch_bytes_max=5000, flush_ms=10_000.0).begin()
    driver.work(1, numbers(20))
    reports = driver.finish(1)
    assert len(driver.emitted(reports)) == 20
    assert all(emit.batch.size < 8000 for c in reports for emit in c.emits)


def test_a_connection_renames_keys(backend: Backend) -> None:
    target = routine(lambda self, **data: self.emit("out", **data))
    target._incoming = {0: {"n": "value"}}  # type: ignore[attr-defined]
    driver = Driver(backend, {"s": routine(double), "t": target}, connections=[ConnectionSpec(0, 0, 1, 0)]).begin()
    data = encode_batch([{"n": 1, "value": 2, "z": 3}], None, emission_place("job", "s", "out")).data
    driver.send(Work(1, 1, 1, (0,), (Part(0, 0, Batch(1, data), 0, 1),)))
    assert driver.emitted(driver.finish(1), routine=1) == [{"value": 1, "z": 3}]


def test_objects_travel_signed(backend: Backend) -> None:
    def unwrap(self: Routine, thing: Thing) -> None:
        self.emit("out", n=thing.n, is_thing=isinstance(thing, Thing), again=Thing(thing.n + 1))

    driver = Driver(backend, {"r": routine(unwrap)}).begin()
    driver.work(1, [{"thing": Thing(4)}])
    [value] = driver.emitted(driver.finish(1))
    assert (value["n"], value["is_thing"], value["again"].n) == (4, True, 5)


def test_an_object_signed_for_another_place_is_not_loaded(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    data = encode_batch([{"n": Thing(1)}], driver.signer, slot_place("other job", "r", "in")).data
    driver.send(Work(1, 1, 0, (0,), (Part(0, -1, Batch(1, data), 0, 1),)))
    [report] = driver.finish(1)
    assert report.failure is not None
    assert "SignatureInvalid" in report.failure.type_name


def test_a_forgotten_job_is_unknown(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    driver.work(1, numbers(1))
    driver.finish(1)
    driver.send(Forget("job"))
    driver.work(2, numbers(1))
    driver.quiet(0.05)
    assert driver.reports(2) == []
    driver.send(driver.info)
    driver.work(3, numbers(1))
    assert driver.finish(3)


# -- failures -----------------------------------------------------------------------------------


def fail_at_three(self: Routine, n: int) -> None:
    self.emit("out", n=n)
    self.emit("out", n=-n)
    if n == 3:
        raise ValueError("three is not wanted")


def test_a_failure_ends_the_dispatch_after_its_good_prefix(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(fail_at_three)}).begin()
    driver.work(1, numbers(6))
    reports = driver.finish(1)
    assert sum(c.done for c in reports) == 3
    assert driver.emitted(reports) == [{"n": v} for n in range(3) for v in (n, -n)]  # nothing of the failed one
    failure = reports[-1].failure
    assert failure is not None
    assert failure.kind == "error"
    assert failure.is_retryable
    assert (failure.type_name, failure.message) == ("ValueError", "three is not wanted")
    assert "fail_at_three" in failure.traceback
    assert "_worker" not in failure.traceback


def test_where_failures_are_tolerated_the_next_one_runs(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(fail_at_three)}).begin()
    driver.work(1, numbers(6), is_tolerant=True)
    driver.work(2, numbers(2), is_tolerant=True)
    reports = driver.finish(1)
    assert driver.emitted(reports) == [{"n": v} for n in (0, 1, 2, 4, 5) for v in (n, -n)]
    [told] = [number for number, report in enumerate(reports) if report.failure is not None]
    assert sum(report.done for report in reports[: told + 1]) == 3
    assert sum(report.done for report in reports) == 5
    assert [report.is_last for report in reports[told:]] == [False] + [True] * (len(reports) - told - 1)
    assert driver.finish(2)[-1].done == 2, "what was sent behind it is not dropped"


def test_where_failures_are_tolerated_the_last_one_ends_its_dispatch(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(fail_at_three)}).begin()
    driver.work(1, [{"n": 3}, {"n": 3}], is_tolerant=True)
    driver.work(2, [{"n": 1}, {"n": 3}], is_tolerant=True)
    driver.work(3, numbers(2), is_tolerant=True)
    failed = [(c.done, c.failure is not None, c.is_last) for c in driver.finish(1)]
    assert failed == [(0, True, False), (0, True, False), (0, False, True)]
    failed = [(c.done, c.failure is not None, c.is_last) for c in driver.finish(2)]
    assert failed == [(1, True, False), (0, False, True)]
    assert driver.finish(3)[-1].done == 2


@pytest.mark.parametrize("error", [SystemExit(3), MemoryError()])
def test_what_is_no_ordinary_error_is_never_gone_on_after(backend: Backend, error: BaseException) -> None:
    def raise_it(self: Routine, n: int) -> None:
        if n == 1:
            raise error

    driver = Driver(backend, {"r": routine(raise_it)}).begin()
    driver.work(1, numbers(4), is_tolerant=True)
    driver.work(2, numbers(1), is_tolerant=True)
    reports = driver.finish(1)
    assert sum(report.done for report in reports) == 1
    assert reports[-1].failure is not None
    driver.quiet(0.05)
    assert driver.reports(2) == []


def test_a_retried_one_that_fails_again_does_not_count_as_the_next_ones_attempt(backend: Backend) -> None:
    def fail_at_first(self: Routine, n: int) -> None:
        self.emit("out", n=n, attempt=self.attempt, cursor=self.resume_cursor)
        if n == 0:
            raise ValueError

    driver = Driver(backend, {"r": routine(fail_at_first)}).begin()
    driver.work(1, numbers(2), is_tolerant=True, attempt=3)
    assert driver.emitted(driver.finish(1)) == [{"n": 1, "attempt": 1, "cursor": None}]


def test_after_a_failure_queued_work_is_dropped_until_it_is_revoked(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(fail_at_three)}).begin()
    driver.work(1, [{"n": 3}])
    driver.work(2, numbers(2))
    driver.finish(1)
    driver.work(3, numbers(2))
    driver.quiet(0.05)
    assert driver.reports(2) == driver.reports(3) == []
    driver.send(Revoke(1, 3))
    driver.work(4, numbers(2))
    assert driver.finish(4)[-1].done == 2
    assert driver.reports(2) == driver.reports(3) == []


def test_an_older_revocation_does_not_end_the_dropping(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(fail_at_three)}).begin()
    driver.work(5, [{"n": 3}])
    driver.finish(5)
    driver.send(Revoke(1, 4))
    driver.work(6, numbers(1))
    driver.quiet(0.05)
    assert driver.reports(6) == []


@pytest.mark.parametrize("error", [SystemExit(3), KeyError("k"), RuntimeError()])
def test_whatever_a_handler_raises_is_its_failure(backend: Backend, error: BaseException) -> None:
    def raise_it(self: Routine, n: int) -> None:
        raise error

    driver = Driver(backend, {"r": routine(raise_it)}).begin()
    driver.work(1, numbers(1))
    [report] = driver.finish(1)
    assert report.failure is not None
    assert report.failure.type_name == type(error).__name__


def test_an_emission_that_cannot_be_encoded_fails_even_if_the_handler_catches_it(backend: Backend) -> None:
    def careless(self: Routine, n: int) -> None:
        self.emit("out", n=n)
        try:
            self.emit("out", deep={"lock": threading.Lock()})
        except TypeError:
            pass

    driver = Driver(backend, {"r": routine(careless)}).begin()
    driver.work(1, numbers(1))
    [report] = driver.finish(1)
    assert report.failure is not None
    assert not report.emits
    for word in ("Routine 'r'", "event 'out'", "['deep']", "['lock']"):
        assert word in report.failure.message


def test_a_coroutine_handler_is_refused_with_the_cure(backend: Backend) -> None:
    async def later(n: int) -> None: ...

    made = Routine()
    made.add_slot("in", later)
    driver = Driver(backend, {"r": made}).begin()
    driver.work(1, numbers(1))
    [report] = driver.finish(1)
    assert report.failure is not None
    assert "asyncio.run" in report.failure.message


def test_damaged_input_is_nobodys_failure(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    driver.send(Work(1, 1, 0, (0,), (Part(0, -1, Batch(1, b"\xff\xff"), 0, 1),)))
    [report] = driver.finish(1)
    assert report.failure is not None
    assert (report.failure.kind, report.failure.is_retryable) == ("storage", False)
    assert "CheckpointDamaged" in report.failure.type_name
    driver.until(lambda: backend.running(1)[1] == -1)  # a death from here on is nobody's either
    driver.send(Revoke(1, 1))
    driver.work(2, numbers(1))
    assert driver.finish(2)[-1].done == 1


def test_damaged_input_later_in_a_dispatch_is_nobodys_failure(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    good = encode_batch([{"n": 1}], None, b"")
    driver.send(Work(1, 1, 0, (0, 1), (Part(0, -1, Batch(1, good.data), 0, 1), Part(0, -1, Batch(1, b"\xff"), 0, 1))))
    reports = driver.finish(1)
    assert sum(report.done for report in reports) == 1
    assert reports[-1].failure is not None
    assert reports[-1].failure.kind == "storage"


# -- generators and cursors ---------------------------------------------------------------------


def count_up(self: Routine, n: int) -> Iterator[Any]:
    for i in range((self.resume_cursor or 0), n):
        self.emit("out", i=i)
        yield i + 1
    self.emit("out", i="end")


def test_a_generator_commits_at_every_cursor(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(count_up)}).begin()
    driver.work(1, [{"n": 3}])
    reports = driver.finish(1)
    assert driver.emitted(reports) == [{"i": i} for i in (0, 1, 2, "end")]
    assert sum(c.done for c in reports) == 1


def test_a_generator_waits_for_the_supervisor(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(count_up)}, flush_ms=0.0).begin()
    driver.work(1, [{"n": 1000}])
    driver.until(lambda: len(driver.reports(1)) >= 4)
    driver.quiet(0.1)
    assert [driver.cursor(c) for c in driver.reports(1)] == [1, 2, 3, 4]
    assert backend.running(1) == (0, -1, 0)  # it waits: no time-out can strike
    driver.send(GoOn(1, 1))
    driver.until(lambda: len(driver.reports(1)) >= 5)
    driver.quiet(0.05)
    assert [driver.cursor(c) for c in driver.reports(1)] == [1, 2, 3, 4, 5]


def test_a_generator_resumes_from_its_cursor(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(count_up)}).begin()
    driver.work(1, [{"n": 10}], cursor=encode_value(8, None, cursor_place("job", "r")), attempt=2)
    assert driver.emitted(driver.finish(1)) == [{"i": i} for i in (8, 9, "end")]


def test_a_revoked_generator_stops_at_its_next_cursor(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(count_up)}, flush_ms=0.0).begin()
    driver.work(1, [{"n": 1_000_000}])
    driver.until(lambda: len(driver.reports(1)) >= 2)
    driver.send(Revoke(1, 1))
    reports = driver.finish(1)
    cursors = [driver.cursor(c) for c in reports if c.cursor is not None]
    assert sum(c.done for c in reports) == 0
    assert driver.emitted(reports) == [{"i": i} for i in range(cursors[-1])]


def test_a_generator_that_fails_keeps_what_it_committed(backend: Backend) -> None:
    def fail_late(self: Routine, n: int) -> Iterator[Any]:
        self.emit("out", i=1)
        yield "safe"
        self.emit("out", i=2)
        raise ValueError("late")

    driver = Driver(backend, {"r": routine(fail_late)}).begin()
    driver.work(1, numbers(1))
    reports = driver.finish(1)
    assert driver.emitted(reports) == [{"i": 1}]
    assert reports[-1].failure is not None
    assert [driver.cursor(c) for c in reports if c.cursor is not None] == ["safe"]


def test_a_bare_yield_is_an_error(backend: Backend) -> None:
    def bare(self: Routine, n: int) -> Iterator[Any]:
        self.emit("out", i=1)
        yield

    driver = Driver(backend, {"r": routine(bare)}).begin()
    driver.work(1, numbers(1))
    [report] = driver.finish(1)
    assert report.failure is not None
    assert "BareYield" in report.failure.type_name
    assert not report.emits


@pytest.mark.parametrize("kind", ["coroutine", "asynchronous generator"])
def test_what_is_asynchronous_fails(backend: Backend, kind: str) -> None:
    async def coroutine() -> None: ...

    async def generator() -> AsyncIterator[int]:
        yield 1

    def hidden(self: Routine, n: int) -> Any:
        self.emit("out", i=1)
        return coroutine() if kind == "coroutine" else generator()

    driver = Driver(backend, {"r": routine(hidden)}).begin()
    driver.work(1, numbers(1))
    [report] = driver.finish(1)
    assert report.failure is not None
    assert "must be an ordinary function or generator, not `async def`" in report.failure.message
    assert not report.emits


def test_a_plain_handler_commits_cursors_too(backend: Backend) -> None:
    def plain(self: Routine, n: int) -> None:
        self.emit("out", i=1)
        self.commit("one")
        self.emit("out", i=2)
        raise ValueError("after the commit")

    driver = Driver(backend, {"r": routine(plain)}).begin()
    driver.work(1, numbers(1))
    reports = driver.finish(1)
    assert driver.emitted(reports) == [{"i": 1}]
    assert "one" in [driver.cursor(c) for c in reports]


def test_a_slow_activation_is_reported_as_it_ends_by_the_thread_that_ran_it() -> None:
    def slow(self: Routine, n: int) -> None:
        time.sleep(0.02)
        self.emit("out", threads=threading.active_count())

    backend = LocalBackend()
    try:
        driver = Driver(backend, {"r": routine(slow, "out")}, flush_ms=10.0).begin()
        driver.work(1, numbers(4))
        reports = driver.finish(1)
    finally:
        backend.close()
    assert [c.done for c in reports] == [1, 1, 1, 1]
    assert {one["threads"] for one in driver.emitted(reports)} == {1}


# -- revocation and lease -----------------------------------------------------------------------


def test_revoked_work_is_not_started(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    driver.send(Revoke(1, 2))
    driver.work(2, numbers(3))
    assert [(c.done, c.is_last) for c in driver.finish(2)] == [(0, True)]
    driver.work(3, numbers(3))
    assert sum(c.done for c in driver.finish(3)) == 3


def test_nothing_starts_behind_the_lease(backend: Backend) -> None:
    driver = Driver(backend, {"r": routine(double)}).begin()
    backend.set_lease(time.monotonic_ns() - 1)
    driver.work(1, numbers(3))
    assert sum(c.done for c in driver.finish(1)) == 0
    backend.set_lease(time.monotonic_ns() + 60_000_000_000)
    driver.work(2, numbers(3))
    assert sum(c.done for c in driver.finish(2)) == 3
    backend.set_lease(0)
    driver.work(3, numbers(3))
    assert sum(c.done for c in driver.finish(3)) == 3


def test_the_lease_ends_a_batch_in_the_middle(backend: Backend) -> None:
    def slow(self: Routine, n: int) -> None:
        time.sleep(0.01)

    driver = Driver(backend, {"r": routine(slow)}).begin()
    driver.started()
    backend.set_lease(time.monotonic_ns() + 100_000_000)
    driver.work(1, numbers(500))
    assert 0 < sum(c.done for c in driver.finish(1)) < 100


# -- state --------------------------------------------------------------------------------------


def test_state_is_read_changed_and_seen_by_the_next_activation(backend: Backend) -> None:
    def add(self: Routine, n: int) -> None:
        state = self.get_execution_context().job_state  # type: ignore[union-attr]
        before = state.get_routine_state("r", {"sum": 0})
        state.update_routine_state("r", {"sum": before["sum"] + n, "list": [n]})
        self.emit("out", before=before["sum"])

    driver = Driver(backend, {"r": routine(add)}).begin()
    driver.work(1, numbers(3, start=1), state=(("r", "sum", 10),), is_reset=True)
    reports = driver.finish(1)
    assert driver.emitted(reports) == [{"before": 10}, {"before": 11}, {"before": 13}]
    assert ("set", "r", "sum", 16) in driver.ops(reports)
    assert all(not c.reads for c in reports)  # one worker: nobody else can come between


def test_a_failed_activation_leaves_no_state_and_no_output(backend: Backend, tmp_path: Any) -> None:
    target = str(tmp_path / "result.txt")

    def spoil(self: Routine, n: int) -> None:
        state = self.get_execution_context().job_state  # type: ignore[union-attr]
        self.emit("out", seen=state.get_shared_data("x"), log=len(state.get_shared_log()))
        state.update_shared_data("x", n)
        state.shared_data["list"].append(n)
        state.append_to_shared_log({"n": n})
        state.increment("count")
        with self.output_file(target) as file:
            file.write("half")
        if n:
            raise ValueError("no")

    driver = Driver(backend, {"r": routine(spoil)}).begin()
    shared = (("", "x", -1), driver.value("", "list", []))
    driver.work(1, [{"n": 1}, {"n": 0}], state=shared, is_reset=True, is_tolerant=True)
    failed, *others = driver.finish(1)
    assert failed.failure is not None
    assert not failed.ops
    assert driver.emitted(others) == [{"seen": -1, "log": 0}], "nor does the next one in the same worker see one"
    for left in tmp_path.iterdir():
        left.unlink()
    driver.work(2, [{"n": 1}], state=shared, is_reset=True)
    [report] = driver.finish(2)
    assert report.failure is not None
    assert not report.ops
    assert not report.emits
    assert list(tmp_path.iterdir()) == []
    driver.send(Revoke(1, 2))
    driver.work(3, [{"n": 0}])
    reports = driver.finish(3)
    assert driver.emitted(reports) == [{"seen": -1, "log": 0}]
    kinds = [op[0] for op in driver.ops(reports)]
    assert sorted(kinds) == ["increment", "log", "output", "set", "set"]  # the control: without the error all is there


def test_a_read_and_write_of_shared_data_is_reported_alone(backend: Backend) -> None:
    def bump(self: Routine, n: int) -> None:
        state = self.get_execution_context().job_state  # type: ignore[union-attr]
        if n == 2:
            state.update_shared_data("x", state.get_shared_data("x", 0) + 1)
        self.emit("out", n=n)

    driver = Driver(backend, {"r": routine(bump)}, flush_ms=10_000.0).begin()
    driver.work(1, numbers(5))
    reports = driver.finish(1)
    assert [c.done for c in reports] == [2, 1, 2]
    assert [c.reads for c in reports] == [(), (("", "x"),), ()]
    assert driver.emitted([reports[1]]) == [{"n": 2}]


def test_increment_and_append_do_not_depend_on_what_was_there(backend: Backend) -> None:
    def count(self: Routine, n: int) -> None:
        state = self.get_execution_context().job_state  # type: ignore[union-attr]
        state.increment("count", n)
        state.append("names", f"n{n}")

    driver = Driver(backend, {"r": routine(count)}).begin()
    driver.work(1, numbers(2, start=1))
    reports = driver.finish(1)
    assert all(not c.reads for c in reports)
    assert driver.ops(reports) == [
        ("increment", "", "count", 3), ("append", "", "names", "n1"), ("append", "", "names", "n2")
    ]  # fmt: skip


def test_merged_slots_accumulate_within_the_job(backend: Backend) -> None:
    seen = routine(lambda self, **data: self.emit("out", **data), merge_strategy="append")
    driver = Driver(backend, {"r": seen}).begin()
    driver.work(1, numbers(3))
    assert driver.emitted(driver.finish(1)) == [{"n": [0]}, {"n": [0, 1]}, {"n": [0, 1, 2]}]


def test_a_merge_function_gets_what_it_returned_before(backend: Backend) -> None:
    def merge(old: dict[str, int], new: dict[str, int]) -> dict[str, int]:
        return {"n": old.get("n", 100) + new["n"]}

    driver = Driver(backend, {"r": routine(double, merge_strategy=merge)}).begin()
    driver.work(1, numbers(3, start=1))
    assert driver.emitted(driver.finish(1)) == [{"n": 202}, {"n": 206}, {"n": 212}]


class Counter(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.total = 5
        self.add_serializable_fields(["total"])
        self.add_slot("in", self.add)
        self.add_event("out")

    def add(self, n: int) -> None:
        self.total += n
        self.emit("out", total=self.total)
        if n == 100:
            raise ValueError("too much")


def test_registered_fields_are_transactional(backend: Backend) -> None:
    driver = Driver(backend, {"r": Counter()}).begin()
    driver.work(1, [{"n": 1}, {"n": 2}, {"n": 100}])
    reports = driver.finish(1)
    assert driver.ops(reports) == [("set", "r", "__field__:total", 8)], "the last of two, and nothing of the third"
    driver.send(Revoke(1, 1))
    driver.work(2, [{"n": 1}], state=(("r", "__field__:total", 8),), is_reset=True)
    assert driver.emitted(driver.finish(2)) == [{"total": 9}]
    driver.work(3, [{"n": 1}], state=(("r", "__field__:total", 50),))
    assert driver.emitted(driver.finish(3)) == [{"total": 51}]


# -- logic style --------------------------------------------------------------------------------


def logic_routine() -> Routine:
    made = Routine()
    made.add_slot("a")
    made.add_slot("b")
    made.add_event("out")

    def logic(slot_data: dict[str, list[Any]], policy_message: Any, job_state: Any) -> None:
        made.emit("out", data=slot_data, message=policy_message, job=job_state.job_id)

    made.set_logic(logic)
    return made


def test_a_logic_gets_single_emissions_as_lists(backend: Backend) -> None:
    driver = Driver(backend, {"r": logic_routine()}).begin()
    driver.work(1, numbers(2), slot=1)
    assert driver.emitted(driver.finish(1)) == [
        {"data": {"a": [], "b": [{"n": n}]}, "message": {"reason": "immediate"}, "job": "job"} for n in (0, 1)
    ]


def test_a_group_is_one_activation(backend: Backend) -> None:
    driver = Driver(backend, {"r": logic_routine()}).begin()
    parts = tuple(
        Part(slot, -1, Batch(3, encode_batch(numbers(3), None, slot_place("job", "r", name)).data), 1, 2)
        for slot, name in enumerate("ab")
    )
    driver.send(Work(1, 1, 0, (4,), parts, is_group=True))
    reports = driver.finish(1)
    assert sum(c.done for c in reports) == 1
    items = [{"n": 1}, {"n": 2}]
    assert [v["data"] for v in driver.emitted(reports)] == [{"a": items, "b": items}]


# -- large payloads -----------------------------------------------------------------------------


def test_large_payloads_go_through_a_blob_and_back(backend: Backend, tmp_path: Any) -> None:
    def blow(self: Routine, n: int) -> None:
        self.emit("out", n=n, data=b"x" * n)

    blobs = tmp_path / "job" / "blobs" / "e0000001"
    blobs.mkdir(parents=True)
    target = routine(lambda self, n, data: self.emit("out", size=len(data)))
    driver = Driver(
        backend, {"s": routine(blow), "t": target}, connections=[ConnectionSpec(0, 0, 1, 0)], blob_dir=str(blobs)
    ).begin()
    driver.work(1, [{"n": 10}, {"n": 1_000_000}])
    reports = driver.finish(1)
    batches = [emit.batch for c in reports for emit in c.emits]
    assert any(is_reference(batch.data) for batch in batches)
    assert all(batch.size < 1000 for batch in batches)
    [file] = blobs.iterdir()
    assert file.stat().st_size > 1_000_000 + TRAILER_BYTES
    for number, batch in enumerate(batches):
        driver.send(Work(2 + number, 1, 1, (number,), (Part(0, 0, batch, 0, batch.count),)))
        driver.finish(2 + number)
    sizes = [v["size"] for n in range(len(batches)) for v in driver.emitted(driver.reports(2 + n), routine=1)]
    assert sizes == [10, 1_000_000]


def test_an_endless_handler_is_not_held_in_memory(backend: Backend, tmp_path: Any, caplog: Any) -> None:
    def pour(self: Routine, n: int) -> None:
        for i in range(n):
            self.emit("out", i=i, text="x" * 100)
        if n == 3000:
            raise ValueError("too late")

    blobs = tmp_path / "job" / "blobs" / "e0000001"
    blobs.mkdir(parents=True)
    driver = Driver(backend, {"r": routine(pour)}, blob_dir=str(blobs), payload_inline_bytes_max=100_000).begin()
    driver.work(1, [{"n": 12_000}])
    reports = driver.finish(1)
    assert [v["i"] for v in driver.emitted(reports)] == list(range(12_000))
    assert sum(emit.batch.size for c in reports for emit in c.emits) < 400_000
    before = set(blobs.iterdir())
    assert len(before) >= 8
    driver.work(2, [{"n": 3000}])
    reports = driver.finish(2)
    assert reports[-1].failure is not None
    assert not driver.emitted(reports)
    assert set(blobs.iterdir()) == before  # a failed attempt leaves no blob
    warning = driver.printed() + caplog.text
    assert warning.count("self.commit(cursor)") == 1
