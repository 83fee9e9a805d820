"""A job on the bench: the pure core, driven by hand. Every step is checked, and replayed from its records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Effect, Revoke, Work
from routilux_mp._core.invariants import check
from routilux_mp._core.job import Job
from routilux_mp._core.records import Durable
from routilux_mp._core.step import replay, step
from routilux_mp._core.stimuli import (
    Capacity,
    Completion,
    Emit,
    Failure,
    HandedBack,
    Stands,
    StateOp,
    Stimulus,
    Submit,
)  # fmt: skip
from routilux_mp._core.topology import ConnectionSpec, ErrorSpec, PolicySpec, RoutineSpec, Topology

SECOND = 1_000_000_000
ERROR = Failure("error", "ValueError", "no")
FATAL = Failure("error", "KeyError", "no", "", False)
CRASH = Failure("crash", "WorkerCrashed", "signal 9")
TIMEOUT = Failure("timeout", "ActivationTimeout", "too long")


def routine(
    name: str, *, slots: int = 1, events: int = 1, policy: PolicySpec | None = None, **fields: Any
) -> RoutineSpec:
    spec = RoutineSpec(name, name.upper(), tuple(f"s{i}" for i in range(slots)), tuple(f"e{i}" for i in range(events)))
    return spec._replace(policy=policy or PolicySpec(), **fields)


def retry(times: int = 3, delay_s: float = 1.0) -> ErrorSpec:
    return ErrorSpec("retry", times, delay_s, 2.0)


class OnBench:
    """One job. Commits stand at once unless ``auto`` is off."""

    def __init__(
        self, *routines: RoutineSpec, edges: Sequence[tuple[int, int, int, int]] = (), strategy: str = "concurrent",
        auto: bool = True, **job: Any,
    ) -> None:  # fmt: skip
        self.topology = Topology("f", strategy, tuple(routines), tuple(ConnectionSpec(*edge) for edge in edges))
        self.job = Job("j", **job)
        self.log: list[Durable] = []
        self.now = SECOND
        self.auto = auto
        self.commit = 1
        self.dispatches = 0

    def happen(self, stimulus: Stimulus) -> list[Effect]:
        records, effects = step(self.job, stimulus, self.now, self.commit)
        check(self.job)
        if records:
            self.log += records  # type: ignore[arg-type]
            if self.auto:
                self.stand()
        return effects

    def stand(self) -> None:
        """Everything so far is durable."""
        step(self.job, Stands(self.commit), self.now)
        self.commit += 1

    def submit(self, count: int = 1, entry: int = 0, slot: int = 0) -> OnBench:
        batch = Batch(count, bytes(count)) if count else None
        self.happen(Submit("f", self.topology.to_plain(), entry, slot, batch))
        return self

    def give(self, number: int, worker: int = 1, count: int = 1000) -> Work | None:
        self.dispatches += 1
        found = [e for e in self.happen(Capacity(number, worker, self.dispatches, count)) if isinstance(e, Work)]
        return found[0] if found else None

    def must_give(self, number: int, worker: int = 1, count: int = 1000) -> Work:
        work = self.give(number, worker, count)
        assert work is not None
        return work

    def report(
        self, work: Work, done: int | None = None, *, emits: dict[int, int] | None = None, ops: Sequence[StateOp] = (),
        reads: Sequence[tuple[str, str]] = (), cursor: bytes | None = None, failure: Failure | None = None,
        is_last: bool = True,
    ) -> list[Effect]:  # fmt: skip
        count = 1 if work.is_group else sum(part.count for part in work.parts)
        batches = tuple(Emit(event, Batch(n, bytes(n))) for event, n in (emits or {}).items())
        finished = count if done is None else done
        return self.happen(
            Completion(work.dispatch, finished, batches, tuple(ops), tuple(reads), cursor, failure, is_last)
        )

    def run(self, number: int, worker: int = 1, count: int = 1000, **report: Any) -> Work:
        """Give, and report all of it done."""
        work = self.must_give(number, worker, count)
        self.report(work, **report)
        return work

    def hand_back(self, worker: int = 1) -> None:
        self.happen(HandedBack(worker))

    def replayed(self) -> Job:
        job = Job("j")
        replay(job, self.log)  # type: ignore[arg-type]
        check(job)
        return job

    def kinds(self) -> list[str]:
        return [type(record).__name__ for record in self.log]


def set_to(key: str, value: bytes | int, scope: str = "") -> StateOp:
    return StateOp("set", scope, key, value)


def add(key: str, value: int, scope: str = "") -> StateOp:
    return StateOp("increment", scope, key, value)


def revoked(effects: Sequence[Effect]) -> list[Revoke]:
    return [e for e in effects if isinstance(e, Revoke)]
