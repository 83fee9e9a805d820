"""What strikes a simulated world: each kind now and then, a few times at most, in some seeds only."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from routilux_mp._core.stimuli import Annotate, Ask, Cancel, Pause, Retry, Skip, StateOp, Stimulus

from .storage import SupervisorGone

if TYPE_CHECKING:
    from .workers import SimWorker
    from .world import World


class Trouble:
    """Something that strikes now and then, a few times at most."""

    def __init__(self, name: str, chance: float, times: int, do: Callable[[World], Any]) -> None:
        self.name, self.chance, self.times, self._do = name, chance, times, do

    def strike(self, world: World) -> None:
        if self.times > 0:
            self.times -= 1
            world.summary.seen[self.name] += 1
            if self._do(world) is False:
                self.times += 1
                world.summary.seen[self.name] -= 1


def draw_troubles(rng: Random) -> list[Trouble]:
    kinds: list[tuple[str, int, Callable[[World], Any], float]] = [
        ("worker killed", 2, _kill_worker, 0.4),
        ("worker lost", 4, _lose_worker, 0.3),
        ("supervisor crash", 3, _crash, 0.4),
        ("crash while ending", 1, _crash_while_ending, 0.5),
        ("disk full", 3, _block, 0.2),
        ("outcome unknown", 2, _unknown, 0.15),
        ("pause asked", 3, lambda w: _tell_one(w, Pause("seed")), 0.25),
        ("cancel asked", 1, _cancel, 0.06),
        ("retry asked", 3, lambda w: _ask(w, Retry()), 0.3),
        ("skip asked", 1, lambda w: _ask(w, Skip()), 0.06),
        ("asked again", 2, lambda w: _ask(w, None), 0.3),
        ("annotated", 4, _annotate, 0.2),
        ("drained", 1, _drain, 0.15),
    ]
    chosen = []
    for name, times, do, odds in kinds:
        chance, draw = rng.choice((0.002, 0.01, 0.04)), rng.random()
        if draw < odds:
            chosen.append(Trouble(name, chance, times, do))
    return chosen


def _living(world: World) -> list[SimWorker]:
    return [w for w in world.backend.workers.values() if w.is_alive]


def _kill_worker(world: World) -> bool:
    """Somebody kills a worker; charged, so never often enough to make a dead letter of the innocent."""
    busy = [w for w in _living(world) if w.current is not None or not w.is_started]
    if not busy:
        return False
    world.rng.choice(busy).die(is_blameless=False, detail="killed")
    return True


def _lose_worker(world: World) -> bool:
    living = _living(world)
    if not living:
        return False
    world.rng.choice(living).die(is_blameless=True, detail="its nursery died")
    return True


def _crash(world: World) -> None:
    raise SupervisorGone


def _crash_while_ending(world: World) -> bool:
    """Between the wish, or the failure, that ends a job and its end."""
    if not any(live.job.closing and live.in_flight is None for live in world.loop.jobs.values()):
        return False
    raise SupervisorGone


def _block(world: World) -> None:
    world.disk.room = world.rng.randint(0, 2)
    world.troubles.append(Trouble("disk has room", 0.05, 1, unblock))


def unblock(world: World) -> None:
    world.disk.room, world.disk.is_blocked = None, False


def _unknown(world: World) -> None:
    world.disk.unknown_next = 1


def _tell_one(world: World, stimulus: Stimulus) -> bool:
    if not world.loop.jobs or world.loop.commands:
        return False
    world.tell(world.rng.choice(sorted(world.loop.jobs)), stimulus)
    return True


def _cancel(world: World) -> bool:
    if not world.loop.jobs or world.loop.commands:
        return False
    job_id = world.rng.choice(sorted(world.loop.jobs))
    world.cancelled.add(job_id)
    world.tell(job_id, Cancel("seed"))
    return True


def _ask(world: World, wish: Retry | Skip | None) -> bool:
    """A request from another process; without a wish: one that was made before, and must do nothing now."""
    if not world.loop.jobs or world.loop.commands:
        return False
    job_id = world.rng.choice(sorted(world.loop.jobs))
    job = world.loop.jobs[job_id].job
    if wish is None:
        if not job.answered:
            return False
        world.tell(job_id, Ask(min(job.answered), Cancel("it was answered before")))
        return True
    if not (job.dead_letters or any(s.due_ns for r in job.routines for s in r.special.values())):
        return False
    world.requests += 1
    world.tell(job_id, Ask(f"{world.requests:06}", wish))
    return True


def _annotate(world: World) -> bool:
    running = [job_id for job_id, live in world.loop.jobs.items() if live.job.status == "running"]
    if not running or world.loop.commands:
        return False
    job_id = world.rng.choice(running)
    world.tell(job_id, Annotate((StateOp("increment", "", world.rng.choice("ab"), world.rng.randint(1, 9)),)))
    return True


def _drain(world: World) -> bool:
    if world.loop.is_draining or not world.loop.jobs:
        return False
    world.loop.commands.append(world.loop.drain)
    return True
