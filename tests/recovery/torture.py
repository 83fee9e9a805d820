"""Kills a running job over and over, resumes it each time, and has the end judged by the witness."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.recovery import processes, witness
from tests.recovery.flows import CASES, WITNESS_DIR, Case
from tests.recovery.witness import Stroke

ROOT = Path(__file__).resolve().parents[2]
#: No wait of this suite is longer.
DEADLINE_S = 60.0
#: After a kill nothing of the run may be left for longer.
GONE_S = 2.0
#: Rolls every few commits, invariants checked after each step, and no limit on crashes that are our doing.
SETTINGS = ("log_bytes_max=24000", "roll_interval_s=0", "max_crashes=1000", "verify=1")
#: What is killed, and how often in 20.
TARGETS = ["worker"] * 9 + ["nursery"] * 3 + ["supervisor"] * 5 + ["all"] * 3
#: When: while it starts, at any moment, right after a commit, right after a roll, when the end has been shown.
MOMENTS = ["start"] * 5 + ["any"] * 7 + ["commit"] * 5 + ["roll"] * 3


class Program:
    """One process of ``program``, from its start until it is dead."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._errors = open(os.path.join(environment[WITNESS_DIR], "..", "errors.txt"), "ab+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.recovery.program", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.pid = self.process.pid
        self.said: dict[str, dict[str, Any]] = {}
        self._text = b""
        self._has_hung_up = False

    def listen(self, timeout_s: float) -> None:
        """Take in what it says within this time, at most up to its end."""
        assert self.process.stdout is not None
        if self._has_hung_up:
            return
        if select.select([self.process.stdout], (), (), timeout_s)[0]:
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            self._has_hung_up = not data
            *lines, self._text = (self._text + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                self.said[said.pop("what")] = said

    @property
    def is_over(self) -> bool:
        """It has said its last word, or has died without."""
        return "ended" in self.said or self._has_hung_up

    def wait(self) -> int:
        """Its exit status, once everything it said is taken in."""
        deadline = time.monotonic() + DEADLINE_S
        while not self._has_hung_up:
            assert time.monotonic() < deadline, f"process {self.pid} does not end; it said {self.said}"
            self.listen(1.0)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        processes.kill([self.pid])
        self.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


class Torture:
    """Jobs of one flow that are killed until there were enough kills."""

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.case: Case = CASES[name]
        self.name = name
        self.random = random.Random(seed)
        self.root = folder / "checkpoints"
        self.statements = folder / "statements"
        self.statements.mkdir()
        self._errors = folder / "errors.txt"
        self._environment = {**os.environ, WITNESS_DIR: str(self.statements)}
        self._job_count = 0
        #: Time until the last worker was gone after its supervisor was killed, seconds.
        self.orphan_s: list[float] = []
        self.struck: list[Stroke] = []
        self.verdicts: list[witness.Verdict] = []
        #: What each job came to.
        self.outcomes: dict[str, dict[str, Any]] = {}

    def run(self, kills: int) -> None:
        """Job after job until ``kills`` is reached; each must end as the undisturbed one does, seen from anywhere."""
        self.one_job(lambda: False)
        while len(self.struck) < kills:
            self.one_job(lambda: len(self.struck) < kills)
        (_, wanted), *others = self.outcomes.items()
        for job_id, outcome in others:
            differing = differences(wanted, outcome)
            assert not differing, f"{job_id} did not end as undisturbed: {differing}"
        self._expect_the_same_from_a_fresh_process()

    def one_job(self, wants_kill: Callable[[], bool]) -> None:
        """Start a job, kill what runs it as often as is wanted, resume it until it has ended, and judge."""
        job_id, how = self._new_job_id(), "start"
        strokes: list[Stroke] = []
        while True:
            program = self._program(job_id, how)
            try:
                self._attack(program, job_id, wants_kill, strokes)
                is_done = "ended" in program.said and program.process.returncode == 0
            finally:
                program.close()
            self._expect_nobody_left()
            if is_done:
                break
            if how == "start" and "accepted" not in program.said and not self._began(job_id):
                job_id, strokes = self._new_job_id(), []  # nobody was told that it exists
            else:
                how = self.random.choice(["resume", "adopt"])
        outcome = self.outcomes[job_id] = self._sorted(program.said["ended"]["outcome"])
        assert outcome["status"] == "completed", f"{job_id}: {outcome['status']}, {outcome['error']}; {strokes}"
        lines = witness.statements(self.statements, job_id)
        conflicting = "counter" if self.case.has_conflicts else ""
        end = witness.look(self.root, job_id)
        self.verdicts.append(witness.judge(lines, strokes, end, conflicting=conflicting))

    # -- one process --------------------------------------------------------------------------

    def _attack(self, program: Program, job_id: str, wants_kill: Callable[[], bool], strokes: list[Stroke]) -> None:
        """Let it run to its end, or until the supervisor has been killed."""
        begun = time.monotonic()
        while wants_kill() and not program.is_over:
            target, moment = self.random.choice(TARGETS), self.random.choice(MOMENTS)
            self._wait_for(moment, program, job_id, begun)
            if program.is_over and target != "all":
                break  # killed after the end was shown: only with everything at once
            before = witness.look(self.root, job_id)
            kin = processes.family(program.pid)
            if not self._strike(target, kin):
                program.listen(0.01)
                continue
            stroke = Stroke(target, moment, time.monotonic_ns(), before)
            strokes.append(stroke)
            self.struck.append(stroke)
            if target in ("supervisor", "all"):
                program.wait()
                # What it wrote between our look and its death is committed, too.
                strokes.append(stroke._replace(before=witness.look(self.root, job_id), time_ns=0))
                return
        status = program.wait()
        if status != 0 or "ended" not in program.said:
            text = self._errors.read_text(errors="replace")[-6000:]
            raise AssertionError(f"the program failed by itself with {status}, saying {program.said}:\n{text}")

    def _strike(self, target: str, kin: processes.Family) -> bool:
        victims = {
            "worker": self.random.sample(kin.workers, min(1, len(kin.workers))),
            "nursery": kin.nurseries,
            "supervisor": (kin.supervisor,),
            "all": self.random.sample(kin.everyone, len(kin.everyone)),
        }[target]
        if not victims:
            return False
        # Workers die with their nursery, and the nursery with its supervisor.
        doomed = victims if target == "worker" else (*kin.nurseries, *kin.workers)
        watch = processes.Watch(doomed)
        begin = time.monotonic()
        processes.kill(victims)
        took = watch.seconds_until_gone(begin, GONE_S)
        assert took is not None, f"{target} killed: of {doomed} some are still there after {GONE_S} s"
        if target == "supervisor" and kin.workers:
            self.orphan_s.append(took)
        return True

    def _wait_for(self, moment: str, program: Program, job_id: str, begun: float) -> None:
        """Wait for the moment to strike; or for the end, whichever comes first."""
        deadline = time.monotonic() + DEADLINE_S
        if moment == "start":
            until = max(time.monotonic(), begun) + self.random.uniform(0, 0.3)
        else:
            while "accepted" not in program.said and not program.is_over:
                assert time.monotonic() < deadline, f"not accepted: {program.said}"
                program.listen(0.5)
            if moment != "any":
                self._wait_for_file(moment, program, job_id)
            until = time.monotonic() + self.random.uniform(0, 0.2 if moment == "any" else 0.004)
        while (left := until - time.monotonic()) > 0 and not program.is_over:
            program.listen(left)

    def _wait_for_file(self, moment: str, program: Program, job_id: str) -> None:
        """Until the log has a new commit, or a new epoch: for a second at most, for it may have no more."""
        epochs = self.root / job_id / "epochs"
        newest = max(epochs.iterdir(), default=epochs)
        watched = epochs if moment == "roll" else newest
        count = len(os.listdir(watched))
        end = time.monotonic() + 1.0
        while time.monotonic() < end and not program.is_over and len(os.listdir(watched)) == count:
            program.listen(0.0005)

    def _expect_the_same_from_a_fresh_process(self) -> None:
        program = self._program(",".join(self.outcomes), "read")
        try:
            assert program.wait() == 0, self._errors.read_text(errors="replace")[-6000:]
            for job_id, outcome in program.said["read"]["outcomes"].items():
                differing = differences(self.outcomes[job_id], self._sorted(outcome))
                assert not differing, f"{job_id} looks different to a process of its own: {differing}"
        finally:
            program.close()

    def _sorted(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Results that come in no promised order, in one."""
        for key, values in outcome["results"].items():
            if tuple(key.split(".")) not in self.case.in_order:
                values.sort(key=str)
        return outcome

    # -- inside -------------------------------------------------------------------------------

    def _program(self, job_id: str, how: str) -> Program:
        return Program([self.name, str(self.root), job_id, how, *SETTINGS], self._environment)

    def _new_job_id(self) -> str:
        self._job_count += 1
        return f"{self.name}-{self._job_count}"

    def _began(self, job_id: str) -> bool:
        """Whether its first record is on the disk: then it exists, though nobody was told."""
        epoch = self.root / job_id / "epochs" / "e0000001"
        return epoch.is_dir() and len(list(epoch.iterdir())) > 1

    def _expect_nobody_left(self) -> None:
        deadline = time.monotonic() + GONE_S
        while left := processes.carriers(str(self.statements)):
            assert time.monotonic() < deadline, f"still there {GONE_S} s after the kill: {left}"
            time.sleep(0.01)


def differences(wanted: Any, found: Any, where: str = "") -> list[str]:
    """Where two outcomes differ, as sentences; long lists are not repeated."""
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted.keys() == found.keys():
        return [d for key in wanted for d in differences(wanted[key], found[key], f"{where}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list):
        at = next((i for i, (a, b) in enumerate(zip(wanted, found)) if a != b), min(len(wanted), len(found)))
        if wanted == found:
            return []
        return [
            f"{where}: {len(found)} for {len(wanted)} items; at {at}: {found[at : at + 3]} for {wanted[at : at + 3]}"
        ]
    return [] if wanted == found else [f"{where}: {str(found)[:300]} for {str(wanted)[:300]}"]
