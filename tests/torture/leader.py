"""One run: starts the processes, lets the faults strike, wakes who was stopped, and has the end judged.

The leader is the warm interpreter that everything of a run is forked from, so it must stay single-threaded. It is
also who inherits orphans: a process that is left behind at the end is seen.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from routilux_mp._core import apply
from routilux_mp.demo.processes import below
from tests.torture import checker, notes, roles
from tests.torture.chain import NotWhole, has_begun, is_ended
from tests.torture.notes import Notes
from tests.torture.plan import Plan
from tests.torture.points import Fault, Points
from tests.torture.sleepers import Sleepers

_SUBREAPER: Final = 36
_LOOK_S: Final = 0.25
_GONE_S: Final = 5.0
_STARTS_MAX: Final = 24
#: What is no wonder for a process that lost its job to another.
_LOST: Final = frozenset({"Fenced", "HandedOver", "JobOwned"})


class Outcome(NamedTuple):
    """What a run came to."""

    wrong: list[str]
    faults: list[tuple[str, str]]  # that struck: point and kind
    folder: Path
    wall_s: float


@dataclass
class _Child:
    process: roles.Process
    pid: int
    is_gone: bool = False
    was_told: bool = False


@dataclass
class _Run:
    plan: Plan
    folder: Path
    sleepers: Sleepers
    children: dict[int, _Child] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)
    hurt: set[int] = field(default_factory=set)  # families that met an error, a signal
    wrong: list[str] = field(default_factory=list)
    job_number: int = 1
    owner: int = -1
    opened: int = 0
    is_accepted: bool = False
    is_over: bool = False
    term_at_s: float = 0.0

    @property
    def job_id(self) -> str:
        return f"job-{self.job_number}"

    @property
    def job(self) -> Path:
        return self.folder / "root" / self.job_id


class _Patience:
    """A limit for waiting that does not run while the leader itself is kept from looking."""

    def __init__(self, limit_s: float) -> None:
        self._left_s = limit_s
        self._last_s = time.monotonic()

    @property
    def is_over(self) -> bool:
        now = time.monotonic()
        self._left_s -= min(now - self._last_s, 0.5)
        self._last_s = now
        return self._left_s < 0


class Leader:
    """Runs one plan after the other."""

    def __init__(self, folder: Path, limit_s: float, mutate: Callable[[], None]) -> None:
        """``limit_s``: a job that has not ended by then never will. ``mutate``: breaks the store in every process."""
        self._folder = folder
        self._mutate = mutate
        self._limit_s = limit_s
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self._said = Notes(write)
        self.points = Points(self._said)
        self._text = b""
        #: Points that were hit and that the table does not have.
        self.unknown: set[str] = set()
        # Whoever loses its parent becomes a child of this process.
        if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "this process cannot adopt orphans")

    def run(self, plan: Plan) -> Outcome:
        """One run, from nothing to nothing."""
        begin = time.monotonic()
        run = _Run(plan, self._folder / f"run-{plan.seed}", Sleepers(plan, min(10.0, self._limit_s / 4)))
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.mkdir(parents=True)
        self.points.begin_run()
        if plan.has_litter:
            _leave_litter(run.folder / "root")
        try:
            self._start(run, "owner", is_armed=True)
            for _ in range(plan.standbys):
                self._start(run, "standby", is_armed=True)
            self._watch(run)
            self._let_go(run)
        except BaseException as error:  # told to end, most likely: nobody of this run is waited for
            run.wrong.append(f"it was broken off: {error!r}")
            raise
        finally:
            self._clear_away(run)
        if run.wrong:
            run.wrong += checker.lost(run.job, notes.read(run.folder))
        else:
            self._judge(run)
        if not run.wrong:
            shutil.rmtree(run.folder, ignore_errors=True)
        return Outcome(run.wrong, run.faults, run.folder, time.monotonic() - begin)

    # -- processes ------------------------------------------------------------------------------------

    def _start(self, run: _Run, role: str, *, is_armed: bool = False) -> None:
        plan, number = run.plan, len(run.children)
        if number >= _STARTS_MAX:
            run.wrong.append(f"{number} processes were needed, and the job does not end")
            return
        settings = dict(plan.settings)
        if plan.hosts_differ and role != "requester":
            settings["host_id"] = f"host-{number}"
        process = roles.Process(
            role, number, plan.seed * 100 + number, str(run.folder), str(run.folder / "root"), run.job_id,
            settings, plan.requests, plan.items,
        )  # fmt: skip
        faults: Sequence[Fault] = plan.faults if is_armed else ()

        def prepare() -> None:
            self._mutate()
            apply.ANSWERED_MAX = plan.answers_max
            self.points.arm(faults, str(run.folder))
            self.points.install(is_named=plan.is_named)

        # Whoever is told to end before it is somebody else would clear away in the leader's name.
        signal.pthread_sigmask(signal.SIG_BLOCK, roles.TOLD_BY)
        pid = os.fork()
        if pid == 0:
            roles.be(process, self._said, prepare)
        run.children[number] = _Child(process, pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, roles.TOLD_BY)

    def _watch(self, run: _Run) -> None:
        """Until the job has ended."""
        looked, patience = time.monotonic(), _Patience(self._limit_s)
        while not run.is_over and not run.wrong:
            self._listen(run, 0.02)
            self._reap(run)
            run.sleepers.wake(run.opened, is_over=run.is_over)
            now = time.monotonic()
            if 0 < run.term_at_s <= now:
                run.term_at_s = 0.0
                self._tell(run, 0, signal.SIGTERM)
            if now - looked > _LOOK_S:
                looked = now
                run.is_over = run.is_over or self._has_ended(run)
                if not run.is_over:
                    self._replace(run)
            if patience.is_over:
                run.wrong.append(f"the job has not ended after {self._limit_s:.0f} s")
                self._dump(run)

    def _has_ended(self, run: _Run) -> bool:
        try:
            return is_ended(run.job)
        except (NotWhole, OSError):
            return False  # somebody is at it, or it is judged later

    def _replace(self, run: _Run) -> None:
        """Somebody has to be there who can go on; and the job has to be begun."""
        active = [c for c in run.children.values() if not c.is_gone and not run.sleepers.has(c.pid)]
        if not any(c.process.role == "standby" for c in active):
            self._start(run, "standby")
        beginners = [c for c in run.children.values() if c.process.role == "owner" and not c.is_gone]
        if not run.is_accepted and not beginners and not has_begun(run.job):
            # Nobody was told that it exists. What only has its OPEN cannot be begun again under the same name.
            if (run.job / "epochs/e0000001/c00000001").exists():
                run.job_number += 1
            self._start(run, "owner")
        wants = run.plan.requests and (run.is_accepted or has_begun(run.job))
        mine = [c for c in run.children.values() if c.process.role == "requester"]
        if wants and not any(not c.is_gone or c.was_told for c in mine):
            self._start(run, "requester", is_armed=not mine)

    def _reap(self, run: _Run) -> None:
        by_pid = {child.pid: child for child in run.children.values() if not child.is_gone}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = by_pid.get(pid)
            if child is None:
                continue  # an orphan: a nursery, a worker
            if os.WIFSTOPPED(status):
                continue
            child.is_gone = True
            code = os.waitstatus_to_exitcode(status)
            if code == -signal.SIGKILL:
                run.hurt.add(child.process.number)
            elif code == 0:
                child.was_told = True  # of a requester: everything was answered
            elif code not in (roles.GAVE_UP, -signal.SIGTERM):
                run.wrong.append(f"process {child.process.number} ({child.process.role}) ended with {code}")

    def _tell(self, run: _Run, number: int, sign: signal.Signals) -> None:
        child = run.children[number]
        if not child.is_gone:
            try:
                os.kill(child.pid, sign)
            except ProcessLookupError:
                child.is_gone = True

    # -- what they say --------------------------------------------------------------------------------

    def _listen(self, run: _Run, timeout_s: float) -> None:
        if not select.select([self._read], (), (), timeout_s)[0]:
            return
        *lines, self._text = (self._text + os.read(self._read, 1 << 16)).split(b"\n")
        for line in lines:
            self._hear(run, json.loads(line))

    def _hear(self, run: _Run, said: dict[str, Any]) -> None:
        family, child = said["family"], run.children.get(said["family"])
        match said["what"]:
            case "fault":
                run.faults.append((said["point"], said["kind"]))
                if said["kind"] == "STOP":
                    is_owner = family == run.owner and child is not None and child.pid == said["pid"]
                    run.sleepers.add(said["pid"], family, run.opened, is_owner=is_owner)
                else:
                    run.hurt.add(family)
            case "opened":
                if said["job"] == run.job_id:
                    run.owner, run.opened = family, run.opened + 1
            case "accepted":
                run.is_accepted = True
                if run.plan.term_after_s:
                    run.term_at_s = time.monotonic() + run.plan.term_after_s
                if run.plan.requests and not any(c.process.role == "requester" for c in run.children.values()):
                    self._start(run, "requester", is_armed=True)
            case "ended":
                run.is_over = run.is_over or said["job"] == run.job_id
            case "gave up":
                if said["error"] not in _LOST and family not in run.hurt and run.owner == family:
                    run.wrong.append(f"process {family} gave up without a reason: {said['error']}: {said['text']}")
            case "unknown":
                self.unknown.add(said["point"])
            case "broken":
                run.wrong.append(f"process {family}: {said}")

    # -- the end --------------------------------------------------------------------------------------

    def _let_go(self, run: _Run) -> None:
        """Everybody learns by itself that the job has ended; standbys have to be told to leave."""
        patience = _Patience(self._limit_s / 2)
        while not run.wrong:
            self._listen(run, 0.005)
            run.sleepers.wake(run.opened, is_over=run.is_over)
            self._reap(run)
            left = [c for c in run.children.values() if not c.is_gone]
            if not left:
                return
            for child in left:
                if child.process.role == "standby" and not run.sleepers.has(child.pid) and not child.was_told:
                    # A standby that is being started has no handler yet; it dies of the signal, which is as good.
                    child.was_told = True
                    self._tell(run, child.process.number, signal.SIGTERM)
            if patience.is_over:
                run.wrong += [f"process {c.process.number} ({c.process.role}) does not end" for c in left]
                self._dump(run)

    def _dump(self, run: _Run) -> None:
        """Where everybody is, into their files."""
        for number in run.children:
            self._tell(run, number, signal.SIGUSR1)
        time.sleep(0.3)

    def _clear_away(self, run: _Run) -> None:
        """Nothing of the run is left; what does not go by itself is a finding, if there is no other."""
        run.sleepers.wake_all()
        patience = _Patience(0.0 if run.wrong else _GONE_S)
        while True:
            self._reap(run)
            left = below(os.getpid())[1:]
            if not left:
                break
            if patience.is_over:
                if not run.wrong:
                    run.wrong.append(f"left behind: {left}")
                for pid in left:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            time.sleep(0.002)
        while select.select([self._read], (), (), 0)[0]:
            os.read(self._read, 1 << 16)
        self._text = b""

    def _judge(self, run: _Run) -> None:
        plan, said = run.plan, notes.read(run.folder)
        posts = {r.request_id: r.arguments["data"]["i"] for r in plan.requests if r.kind == "post"}
        accepted = {posts[n.words[0]] for n in said if n.kind == "Y" and n.words[0] in posts}
        refused = {posts[n.words[0]] for n in said if n.kind == "N" and n.words[0] in posts} - accepted
        wanted = {*range(plan.items), *accepted}
        optional = set(posts.values()) - refused
        run.wrong += checker.judge(run.job, said, run.sleepers.frozen, plan.lease_s, wanted, optional)
        for note in said:
            if note.kind in "AOC" and note.words[0] != run.job_id and note.kind != "O":
                run.wrong.append(f"{note.words[0]} was given up although something of it was acknowledged: {note}")
        for path in run.folder.glob("errors-*"):
            text = path.read_text(errors="replace")
            if "Exception in thread" in text:
                run.wrong.append(f"{path.name}: a thread has died: {text[text.index('Exception in thread') :][:800]}")


def _leave_litter(root: Path) -> None:
    """What processes left behind that died three days ago."""
    for path in (root / "tmp/00-1", root / ".owners" / f"{7:032x}"):
        path.parent.mkdir(parents=True, mode=0o700)
        path.write_bytes(b"litter")
        os.utime(path, (time.time() - 3 * 86400,) * 2)
        (path.parent / f"{8:032x}").write_bytes(b"new")
