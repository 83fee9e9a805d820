"""How far apart turns are while jobs come in a stream; see ``test_gathering`` for one that keeps every core busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.job import Job
from routilux_mp._core.stimuli import Submit
from routilux_mp._core.topology import Topology
from routilux_mp._supervisor.committer import InstantCommitter
from routilux_mp._supervisor.live import LiveJob, NullTenure
from routilux_mp._supervisor.loop import Loop
from routilux_mp._supervisor.pace import STREAM_JOBS, STREAM_NS, TURN_OF_STREAM_NS
from routilux_mp.settings import Settings
from tests.unit.core.core_bench import routine

MS = 1_000_000


class Committer(InstantCommitter):
    """Notes who was said to be waiting for what is submitted."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited: list[bool] = []

    def submit(self, key: str, task: Callable[[], None], *, is_awaited: bool = True, after_s: float = 0.0) -> None:
        self.awaited.append(is_awaited)
        super().submit(key, task, is_awaited=is_awaited, after_s=after_s)


def _ignore(*_: object) -> None: ...


class World:
    """A loop whose workers never answer, on a clock that stands still."""

    def __init__(self) -> None:
        self.now = 10**18
        self.pause_s = -1.0  # that was asked for last
        self.committer = Committer()
        clock = SimpleNamespace(now_ns=lambda: self.now, monotonic_ns=lambda: self.now)
        backend = SimpleNamespace(poll=self.poll, start=_ignore, send=_ignore, running=lambda _: (0, -1, 0))
        self.loop = Loop(
            Settings(durability="none"), backend, self.committer, clock,  # type: ignore[arg-type]
            introduce=lambda live, slot: None, read_batch=lambda live, batch: b"",
            on_print=lambda stream, text: None, documents=lambda live: lambda: (None, b""), workers_max=1, cores=2,
        )  # fmt: skip
        self.topology = Topology("f", "concurrent", (routine("a", events=0),), ())
        self._numbers = count()

    def poll(self, timeout_s: float | None, pause_s: float = 0.0) -> list[Any]:
        self.pause_s = pause_s
        return []

    def begin(self, jobs: int, every_ns: int = 0) -> list[LiveJob]:
        begun = [LiveJob(Job(f"j{next(self._numbers)}"), NullTenure(10), "code") for _ in range(jobs)]
        for live in begun:
            self.loop.add(live, Submit("f", self.topology.to_plain(), 0, 0, Batch(1, b"x")))
            self.now += every_ns
        return begun

    def pause(self) -> float:
        self.loop.turn(None)
        self.loop.turn(None)
        return self.pause_s


@pytest.fixture
def world() -> World:
    return World()


def test_while_jobs_come_one_after_another_turns_are_apart(world: World) -> None:
    world.begin(STREAM_JOBS)
    assert world.pause() == TURN_OF_STREAM_NS / 1e9
    world.now += STREAM_NS
    assert world.pause() > 0
    world.now += 1
    assert world.pause() == 0, "no more have come"


@pytest.mark.parametrize(
    ("jobs", "every_ns", "is_stream"),
    [
        (STREAM_JOBS - 1, 0, False),
        (STREAM_JOBS, STREAM_NS // STREAM_JOBS, True),
        (STREAM_JOBS * 10, STREAM_NS // (STREAM_JOBS - 1) + MS, False),
    ],
)
def test_a_stream_is_many_in_a_short_time(world: World, jobs: int, every_ns: int, is_stream: bool) -> None:
    world.begin(jobs, every_ns)
    assert (world.pause() > 0) == is_stream
    assert world.loop.pace.is_streaming == is_stream


@contextmanager
def somebody_waiting_for(live: LiveJob) -> Iterator[None]:
    with live.changed, live.waiting_for(lambda view: view.is_terminal):
        yield


@pytest.mark.parametrize("which", [0, 1, STREAM_JOBS - 1])
def test_nobody_waits_for_a_pause(world: World, which: int) -> None:
    waited_for = world.begin(STREAM_JOBS)[which]
    with somebody_waiting_for(waited_for):
        assert world.pause() == 0
    assert world.pause() > 0


def test_whoever_waits_for_all_begins_with_the_first(world: World) -> None:
    begun = world.begin(1000)
    with somebody_waiting_for(begun[0]):
        assert world.pause() == 0


def test_what_becomes_of_jobs_in_a_stream_ends_no_pause(world: World) -> None:
    world.begin(1)
    world.loop.turn(None)
    assert world.committer.awaited == [True], "somebody may wait for a job that begins"
    world.begin(STREAM_JOBS)
    world.loop.turn(None)
    assert world.committer.awaited == [True] + STREAM_JOBS * [False]
    world.now += STREAM_NS + 1
    world.begin(1)
    world.loop.turn(None)
    assert world.committer.awaited[-1]
