"""The world of the simulation: supervisors, workers, disk and clock, all driven by one seed.

``simulate(seed)`` runs whole jobs through the real loop and the real core until they end, whatever
chance does to them, and raises :class:`Broken` when a promise is not kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from routilux_mp._core.batch import Batch
from routilux_mp._core.clocks import take_over
from routilux_mp._core.job import Job
from routilux_mp._core.stimuli import (
    Close,
    Post,
    Resume,
    Stimulus,
    Submit,
)  # fmt: skip
from routilux_mp._core.topology import RoutineSpec
from routilux_mp._storage.layout import epoch_name
from routilux_mp._supervisor import commits
from routilux_mp._supervisor import live as live_module
from routilux_mp._supervisor.live import LiveJob
from routilux_mp._supervisor.loop import Loop
from routilux_mp._supervisor.placement import WorkerSlot
from routilux_mp.backends.base import Event, JobInfo, Report
from routilux_mp.settings import Settings

from .audit import Audit, Broken, durable_part, must
from .flows import Flow, Program, encode, random_flow
from .storage import Disk, SimCommitter, SimTenure, SupervisorGone
from .troubles import draw_troubles, unblock
from .workers import SimBackend

POLLS_MAX = 20_000
IDLE_POLLS_MAX = 300
SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def now_ns(self) -> int:
        self.now += 1
        return self.now

    def monotonic_ns(self) -> int:
        return self.now


@dataclass
class Plan:
    """One job that somebody wants."""

    job_id: str
    flow: Flow
    is_posted: bool  # its input is posted bit by bit instead of given at the start
    is_begun: bool = False


@dataclass
class Summary:
    """What happened, for those who want to know whether everything does."""

    seed: int
    statuses: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = Random(seed)
        self.clock = Clock()
        self.audit = Audit(self)
        self.disk = Disk(rng, self.audit)
        self.disk.roll_chance = rng.choice((0.0, 0.05, 0.3))
        self.summary = Summary(seed)
        self.cancelled: set[str] = set()
        self.polls = 0
        self.idle_polls = 0
        flows = [random_flow(rng, f"f{n}") for n in range(rng.choice((1, 1, 1, 2)))]
        jobs = rng.choice((1, 1, 2))
        self.plans = {
            f"j{n}": Plan(f"j{n}", flow, len(flow.values) > 1 or rng.random() < 0.1)
            for n, flow in enumerate(flow for flow in flows for _ in range(jobs))
        }
        self.settings = Settings(
            verify=True, max_crashes=3, grace_s=0.05, queue_memory_bytes_max=rng.choice((0, 64, 1 << 20)),
            commit_memory_bytes_max=rng.choice((0, 64, 1 << 20, 1 << 20)),
            ordered_window_max=rng.choice((1, 3, 1000)), worker_idle_s=rng.choice((0.02, 30.0)),
        )  # fmt: skip
        self.workers_max = rng.choice((1, 2, 3, 4, 8))
        self.troubles = draw_troubles(rng)
        self.requests = 0
        self.commit_bytes_max = rng.choice((1, 300, 1 << 20))
        #: How often the input of an activation cannot be read; now and then until somebody takes the job over.
        self.unreadable_chance = rng.choice((0.0, 0.0, 0.0, 0.03))

    # -- looking things up --------------------------------------------------------------------

    def flow_of(self, job_id: str) -> Flow:
        return self.plans[job_id].flow

    def program(self, job_id: str, routine: int) -> Program:
        return self.plans[job_id].flow.programs[routine]

    def spec(self, job_id: str, routine: int) -> RoutineSpec:
        return self.plans[job_id].flow.topology.routines[routine]

    # -- supervisors, one after another -------------------------------------------------------

    def run(self) -> Summary:
        while any(not self.has_ended(job_id) for job_id in self.plans):
            self.boot()
            try:
                while any(not self.has_ended(job_id) for job_id in self.plans):
                    self.loop.turn(None)
                    self.readopt()
                    if self.loop.is_draining and self.loop.is_quiet:
                        self.hand_over()
                        break
            except SupervisorGone:
                self.bury()
        for job_id in self.plans:
            self.audit.ended(job_id)
            shadow = self.audit.shadows[job_id]
            self.summary.statuses.append(shadow.job.status)
            self.summary.seen.update(shadow.kinds)
        self.summary.seen.update(rolls=self.disk.rolls, repeated=self.audit.repeated)
        return self.summary

    def has_ended(self, job_id: str) -> bool:
        shadow = self.audit.shadows.get(job_id)
        return (
            shadow is not None
            and shadow.job.is_terminal
            and self.plans[job_id].is_begun
            and job_id not in self.loop.jobs
        )

    def boot(self) -> None:
        self.disk.puts_left = None
        self.backend = SimBackend(self)
        self.committer = SimCommitter(self.rng)
        self.loop = Loop(
            self.settings, self.backend, self.committer, self.clock,
            introduce=self.introduce,
            read_batch=self.read_batch,
            on_print=lambda stream, text: None, documents=lambda live: lambda: (None, b""),
            workers_max=self.workers_max, cores=(1, 2, 8)[self.seed % 3],
        )  # fmt: skip
        self.loop.on_trouble = _reveal
        for plan in self.plans.values():
            shadow = self.audit.shadows.get(plan.job_id)
            if shadow is None or not shadow.job.is_terminal:
                self.adopt(plan)

    def introduce(self, live: LiveJob, slot: WorkerSlot) -> None:
        self.backend.send(slot.worker, JobInfo(live.job.job_id, "", "", {}, epoch_name(live.tenure.epoch)))

    def read_batch(self, live: LiveJob, batch: Batch) -> bytes:
        self.summary.seen["spilled"] += 1
        return self.disk.logs[live.job.job_id].read(batch)

    def adopt(self, plan: Plan) -> None:
        """Begin a job, or go on with what stands of it."""
        job = Job(
            plan.job_id, max_crashes=self.settings.max_crashes, grace_s=self.settings.grace_s,
            ordered_window_max=self.settings.ordered_window_max,
        )  # fmt: skip
        epoch = self.disk.recover(job)
        shadow = self.audit.shadows.get(plan.job_id)
        stimulus: Stimulus = Resume()
        if shadow is None:
            batch = None if plan.is_posted else Batch(len(plan.flow.values), encode(list(plan.flow.values)))
            stimulus = Submit(plan.flow.topology.flow_id, plan.flow.topology.to_plain(), 0, 0, batch)
        else:
            self.compare("recovered", job, shadow.job, plan.job_id)
            take_over(job, self.clock.now)
        plan.is_begun = True
        live = LiveJob(job, SimTenure(self.disk, plan.job_id, epoch), plan.flow.topology.flow_id)
        live.first_epoch = 0 if shadow is None else epoch
        self.loop.add(live, stimulus)

    def readopt(self) -> None:
        """A job that was given up after an unknown outcome is taken over again, as anybody may."""
        for job_id, plan in self.plans.items():
            if job_id not in self.loop.jobs and not self.has_ended(job_id) and not self.loop.is_draining:
                self.audit.all_lost(job_id)
                self.summary.seen["readopted"] += 1
                self.adopt(plan)

    def compare(self, what: str, job: Job, other: Job, job_id: str) -> None:
        read = self.disk.logs[job_id].read
        mine, theirs = durable_part(job, read), durable_part(other, read)
        for key, value in mine.items():
            must(value == theirs[key], f"{what} job: {key} is {value}, the log says {theirs[key]}")

    def compare_live(self) -> None:
        """When everything applied stands, the live job is what its log says."""
        for job_id, live in self.loop.jobs.items():
            if not live.records and live.in_flight is None and job_id in self.audit.shadows:
                self.compare("live", live.job, self.audit.shadows[job_id].job, job_id)

    def bury(self) -> None:
        """The supervisor is gone, and with it its workers. What was on its way to the disk may stand or not."""
        self.summary.seen["supervisor died"] += 1
        self.compare_live()
        for _, task in self.committer.pending:
            self.disk.puts_left = self.rng.randint(0, 3)
            unblock(self)
            try:
                task()
            except (SupervisorGone, Exception):
                pass
        unblock(self)
        self.forget()

    def hand_over(self) -> None:
        """The supervisor has left in good order: nothing at all is lost."""
        self.summary.seen["handed over"] += 1
        self.compare_live()
        for live in self.loop.jobs.values():
            must(not live.records, "something that happened was not committed before the hand-over")
        self.forget()

    def forget(self) -> None:
        for job_id in self.plans:
            self.audit.all_lost(job_id)

    # -- what happens while the loop waits ----------------------------------------------------

    def act(self, timeout_s: float | None) -> list[Event]:
        self.polls += 1
        for job_id, live in self.loop.jobs.items():
            self.audit.shown(job_id, live.view)
            self.summary.seen["gathered"] += bool(live.records and live.in_flight is None and not live.is_urgent)
        must(self.polls < POLLS_MAX, "the jobs do not end")
        rng = self.rng
        self.clock.now += rng.randrange(20_000, 400_000)
        for _ in range(rng.randrange(1, 8)):
            self.one_step()
        if timeout_s is None or timeout_s > 0:
            while not self.has_news() and self.one_step(is_quiet=True):
                pass
        if not self.has_news() and not self.loop.commands:
            self.people(1.0 if timeout_s is None else 0.3)
        else:
            self.people(0.1)
        if not self.has_news() and not self.loop.commands:
            self.let_time_pass(timeout_s)
        else:
            self.idle_polls = 0
        return self.deliver()

    def one_step(self, *, is_quiet: bool = False) -> bool:
        """Something small happens, if anything can."""
        rng = self.rng
        if not is_quiet:
            for trouble in self.troubles:
                if rng.random() < trouble.chance:
                    trouble.strike(self)
        able = [w for w in self.backend.workers.values() if w.can_step()]
        if self.committer.pending and (not able or rng.random() < 0.3):
            self.committer.work()
            return True
        if able:
            worker = rng.choice(able)
            for _ in range(rng.randrange(1, 5)):
                if worker.can_step():
                    worker.step()
            return True
        return False

    def has_news(self) -> bool:
        return self.committer.has_news or any(w.outbox for w in self.backend.workers.values())

    def let_time_pass(self, timeout_s: float | None) -> None:
        if timeout_s is None:
            raise Broken(f"stuck: nothing can happen any more; {self.describe()}")
        if timeout_s == 0:
            self.idle_polls += 1
            must(self.idle_polls < IDLE_POLLS_MAX, f"the loop goes round for nothing; {self.describe()}")
            return
        # The look for idle workers once a second is no progress; a job that waits for it alone is stuck.
        self.idle_polls += timeout_s >= 0.9
        must(self.idle_polls < IDLE_POLLS_MAX, f"stuck: only the clock goes on; {self.describe()}")
        self.clock.now += int(timeout_s * 1e9) + 1

    def deliver(self) -> list[Event]:
        """What workers said arrives, in order per worker."""
        events: list[Event] = []
        for worker in [w for w in self.backend.workers.values() if w.outbox]:
            for _ in range(self.rng.randint(0 if events else 1, 4)):
                if not worker.outbox:
                    break
                if isinstance(worker.outbox[0][0], Report) and events:
                    break  # one report at a time, so that the audit sees the job as the loop does
                event, performed = worker.outbox.popleft()
                events.append(event)
                if isinstance(event, Report):
                    self.audit.delivered(event, performed)
        return events

    def people(self, chance: float) -> None:
        """Somebody posts, closes, resumes; without them such jobs would rightly wait for ever."""
        for job_id, live in self.loop.jobs.items():
            if self.rng.random() > chance or self.loop.is_draining:
                continue
            plan, job = self.plans[job_id], live.job
            is_waiting = job.status == "running" and bool(job.deferred)
            if (job.status == "paused" or is_waiting) and not live.records and live.in_flight is None:
                self.tell(job_id, Resume())
            elif plan.is_posted and job.is_open and not job.is_terminal and job.status == "running":
                posted = job.routines[0].next_seq
                if posted < len(plan.flow.values):
                    self.tell(job_id, Post(0, 0, Batch(1, encode([plan.flow.values[posted]]))))
                else:
                    self.tell(job_id, Close())

    def tell(self, job_id: str, stimulus: Stimulus) -> None:
        """A command, as a handle gives it."""
        if self.loop.commands:
            return

        def happen() -> None:
            live = self.loop.jobs.get(job_id)
            if live is not None:
                self.loop.happen(live, stimulus, self.clock.now_ns())

        self.summary.seen[type(stimulus).__name__] += 1
        self.loop.commands.append(happen)

    def describe(self) -> str:
        lines = []
        for job_id, live in self.loop.jobs.items():
            job = live.job
            lines.append(
                f"{job_id} {job.status} closing={job.closing} blocked={live.blocked} in_flight={live.in_flight}"
            )
            for spec, r in zip(job.topology.routines, job.routines, strict=True):
                lines.append(
                    f"  {spec.routine_id} w={spec.workers} {spec.policy.kind} queued={r.queued}/{spec.queue_max} "
                    f"ready={list(r.ready)[:3]} special={r.special} dispatches="
                    f"{[(d.dispatch, d.worker, d.is_held, list(d.items)[:2]) for d in r.dispatches.values()]}"
                )
        for w in self.loop.placement.workers.values():
            sim = self.backend.workers[w.worker]
            lines.append(
                f"  worker {w.worker} {w.code_id}/{w.routine} load={w.load} yielding={w.is_yielding} "
                f"leaving={w.is_leaving} drop={sim.drop_until} hang={sim.is_hanging} "
                f"current={sim.current and sim.current.work.dispatch}"
            )
        return "\n".join(lines)


def _reveal(live: LiveJob, error: Exception) -> None:
    """A job is never given up quietly here."""
    raise error


def simulate(seed: int) -> Summary:
    """Run the world of this seed to its end."""
    world, spill_every, commit_bytes = World(seed), commits.SPILL_EVERY, live_module.COMMIT_BYTES_MAX
    commits.SPILL_EVERY = 1
    live_module.COMMIT_BYTES_MAX = world.commit_bytes_max
    try:
        return world.run()
    except AssertionError as error:
        raise Broken(f"seed {seed}: {error}") from error
    finally:
        commits.SPILL_EVERY, live_module.COMMIT_BYTES_MAX = spill_every, commit_bytes
