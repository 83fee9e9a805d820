"""Negative controls: the simulation must find what is broken on purpose, or it proves nothing.

Each mutant breaks one rule of the core or the loop; some seed of the first few must fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from routilux_mp._core import apply as apply_module
from routilux_mp._core import consequences, outcomes, plain, policy, queues, records, reports, select
from routilux_mp._core import decide as decide_module
from routilux_mp._core import stimuli as st
from routilux_mp._core.job import Job
from routilux_mp._supervisor import commits, leftovers
from routilux_mp._supervisor import live as live_module
from routilux_mp._supervisor.blob_uses import BlobUses
from tests.simulation import storage
from tests.simulation import world as world_module
from tests.simulation.audit import Broken
from tests.simulation.world import simulate

SEEDS_MAX = 600
Patch = Callable[[pytest.MonkeyPatch], None]


def _in_table(patch: pytest.MonkeyPatch, table: dict[type, Any], kind: type, by: Callable[[Any], Any]) -> None:
    patch.setitem(table, kind, by(table[kind]))


def dispatch_before_the_commit_stands(patch: pytest.MonkeyPatch) -> None:
    old = live_module.step
    patch.setattr(live_module, "step", lambda job, stimulus, now, commit=0: old(job, stimulus, now, 0))


def count_a_report_after_the_hand_back(patch: pytest.MonkeyPatch) -> None:
    gone: dict[tuple[int, int], Any] = {}

    def returned(old: Any) -> Any:
        def wrapper(job: Job, record: records.Returned, *rest: Any) -> None:
            d = job.dispatches[record.dispatch]
            gone[(id(job), record.dispatch)] = (d.routine, list(d.items))
            old(job, record, *rest)

        return wrapper

    def completion(old: Any) -> Any:
        def wrapper(job: Job, s: st.Completion, now: int) -> Iterator[Any]:
            yield from old(job, s, now)
            routine, items = gone.pop((id(job), s.dispatch), (0, []))
            if s.done and items and not s.reads:
                yield records.Completed(now, routine, (items[0].seq, 1), s.emits)

        return wrapper

    _in_table(patch, apply_module._APPLY, records.Returned, returned)
    _in_table(patch, decide_module._DECIDE, st.Completion, completion)


def forget_which_attempt_it_was(patch: pytest.MonkeyPatch) -> None:
    def failed(old: Any) -> Any:
        return lambda job, record, *rest: old(job, record._replace(attempt=0), *rest)

    _in_table(patch, apply_module._APPLY, records.Failed, failed)


def release_out_of_order(patch: pytest.MonkeyPatch) -> None:
    def release(job: Job, number: int, ranges: Any, partial: int, emits: tuple[st.Emit, ...], commit: int) -> None:
        for emit in emits:
            queues.route(job, number, emit, commit)
        job.routines[number].next_release += sum(ranges[1::2])

    patch.setattr(outcomes, "release_in_order", release)


def never_see_a_conflict(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reports, "_conflicts", lambda job, d, s: False)


def hand_nothing_back_after_a_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reports, "_hand_back", lambda job, worker: iter(()))


def have_the_rest_run_after_any_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(select, "is_tolerant", lambda spec, is_entry: True)
    patch.setattr(reports, "SETTLES", frozenset(("continue", "skip", "tolerate", "retry", "stop", "again")))


def charge_what_could_not_be_read(patch: pytest.MonkeyPatch) -> None:
    def charge(job: Job, d: Any, failure: st.Failure, now: int) -> Iterator[Any]:
        return reports._failure(job, d, reports._next_seq(d), failure, now)

    patch.setattr(reports, "_rest", charge)


def never_lift_the_bound(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(select, "must_lift", lambda job, now: None)
    patch.setattr(consequences, "must_lift", lambda job, now: None)


def ignore_the_bound(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(select, "is_backed_up", lambda job, number: False)
    patch.setattr(consequences, "is_backed_up", lambda job, number: False)
    patch.setattr(reports, "is_backed_up", lambda job, number: False)


def aggregate_before_the_retries_are_done(patch: pytest.MonkeyPatch) -> None:
    def is_exhausted(job: Job, number: int) -> bool:
        routine = job.routines[number]
        return not (routine.ready or routine.dispatches or any(routine.slots))

    patch.setattr(policy, "_is_exhausted", is_exhausted)


def leave_retries_out_of_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    old = plain._routine_out
    patch.setattr(plain, "_routine_out", lambda r: {**old(r), "special": []})


def leave_held_emissions_out_of_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    old = plain._routine_out
    patch.setattr(plain, "_routine_out", lambda r: {**old(r), "held": []})


def commit_again_when_the_roll_was_blocked(patch: pytest.MonkeyPatch) -> None:
    def call(self: Any) -> None:
        for frames in self._files:
            self._tenure.commit(frames)
        if self._snapshot is not None:
            self._tenure.roll(self._snapshot)

    patch.setattr(commits.Commit, "__call__", call)


def never_charge_a_crash(patch: pytest.MonkeyPatch) -> None:
    def lost(old: Any) -> Any:
        return lambda job, s, now: old(job, s._replace(failure=None), now)

    _in_table(patch, decide_module._DECIDE, st.WorkerLost, lost)


def charge_the_first_instead_of_the_running_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reports, "_seq_at", lambda d, offset: reports._next_seq(d) if d.items or d.special >= 0 else None)


def owe_nothing_after_recovery(patch: pytest.MonkeyPatch) -> None:
    def resume(old: Any) -> Any:
        def wrapper(job: Job, s: st.Resume, now: int) -> Iterator[Any]:
            if job.status == "paused":
                yield from old(job, s, now)

        return wrapper

    _in_table(patch, decide_module._DECIDE, st.Resume, resume)


def show_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    old = live_module.LiveJob._take_view

    def take_view(self: Any, number: int, now: int) -> None:
        old(self, number, now)
        self._publish(self._taken[1])

    patch.setattr(live_module.LiveJob, "_take_view", take_view)


def run_two_at_once_in_a_sequential_job(patch: pytest.MonkeyPatch) -> None:
    old = select.dispatch

    def dispatch(job: Job, s: st.Capacity, now: int) -> Iterator[Any]:
        strategy = job.topology.strategy
        object.__setattr__(job.topology, "strategy", "concurrent")
        yield from old(job, s, now)
        object.__setattr__(job.topology, "strategy", strategy)

    patch.setattr(decide_module, "dispatch", dispatch)


def forget_whose_change_came_before(patch: pytest.MonkeyPatch) -> None:
    """An increment on top of another worker's change looks as if the worker had seen that change."""

    def changed_for(job: Job, worker: int, key: Any) -> int:
        version, writer, _ = job.changed.get(key, (0, -1, 0))
        return 0 if writer == worker else version

    patch.setattr(Job, "changed_for", changed_for)


def sweep_what_living_workers_wrote(patch: pytest.MonkeyPatch) -> None:
    old = storage.may_be_left
    patch.setattr(storage, "may_be_left", lambda name, sweep: old(name, sweep._replace(living=())))


def sweep_one_epoch_too_early(patch: pytest.MonkeyPatch) -> None:
    old = leftovers.sweep_after_roll

    def sweep_after_roll(loop: Any, live: Any) -> Any:
        sweep = old(loop, live)
        return None if sweep is None else sweep._replace(first_epoch=sweep.epoch)

    patch.setattr(commits, "sweep_after_roll", sweep_after_roll)


def inherit_no_blobs_that_are_needed(patch: pytest.MonkeyPatch) -> None:
    """What earlier owners' commits name is given up without a look at who still refers to it."""
    old = BlobUses.inherit
    patch.setattr(BlobUses, "inherit", lambda self, users: old(self, dict.fromkeys(users, ())))


def inherit_results_like_anything_else(patch: pytest.MonkeyPatch) -> None:
    old = leftovers.users_in

    def users_in(topology: Any, record: Any) -> Any:
        return {name: [user for user in users if user is not None] for name, users in old(topology, record).items()}

    patch.setattr(leftovers, "users_in", users_in)


def wait_for_company_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commits.Commits, "_gathers", lambda self, live, now: not (live.is_urgent or live.is_doubted))


MUTANTS: list[Patch] = [
    wait_for_company_for_ever,
    dispatch_before_the_commit_stands,
    count_a_report_after_the_hand_back,
    forget_which_attempt_it_was,
    release_out_of_order,
    never_see_a_conflict,
    hand_nothing_back_after_a_failure,
    have_the_rest_run_after_any_failure,
    charge_what_could_not_be_read,
    never_lift_the_bound,
    ignore_the_bound,
    aggregate_before_the_retries_are_done,
    leave_retries_out_of_the_snapshot,
    leave_held_emissions_out_of_the_snapshot,
    commit_again_when_the_roll_was_blocked,
    never_charge_a_crash,
    charge_the_first_instead_of_the_running_one,
    owe_nothing_after_recovery,
    show_what_is_not_durable,
    run_two_at_once_in_a_sequential_job,
    forget_whose_change_came_before,
    sweep_what_living_workers_wrote,
    sweep_one_epoch_too_early,
    inherit_no_blobs_that_are_needed,
    inherit_results_like_anything_else,
]


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.__name__) for mutant in MUTANTS])
def test_the_simulation_finds(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_module, "POLLS_MAX", 4_000)
    mutant(monkeypatch)
    for seed in range(SEEDS_MAX):
        try:
            simulate(seed)
        except (Broken, AssertionError, LookupError):
            return
    pytest.fail(f"{mutant.__name__}: {SEEDS_MAX} seeds found nothing wrong")
