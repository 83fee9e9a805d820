"""Owners and standbys as processes of their own, started as a person starts them, on one directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from routilux_mp._storage.store import Store
from routilux_mp._supervisor import recovery
from routilux_mp.demo.processes import below, seconds_until_gone
from routilux_mp.settings import Settings
from tests.failover.programs import FLOW

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0


class Mark(NamedTuple):
    """A handler began an item."""

    item: int
    time_s: float
    nursery: int
    worker: int


class Process:
    """One process of the cluster, and what it said."""

    def __init__(self, popen: subprocess.Popen[bytes], path: Path) -> None:
        self.popen = popen
        self.pid = popen.pid
        self._path = path

    def said(self) -> str:
        return self._path.read_text(errors="replace")

    def family(self) -> list[int]:
        """Itself, its nursery and its workers."""
        return below(self.pid)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        return self.popen.wait(timeout_s)


class Cluster:
    """Everything that a test starts; nothing of it is left when the block is over."""

    def __init__(
        self,
        folder: Path,
        *,
        mounts: Mapping[str, Path] | None = None,
        under: Sequence[str] = (),
        **settings: object,
    ) -> None:
        """``mounts``: host -> where it sees the root; "" is this one. ``under``: a program that runs all others."""
        self.folder = folder
        self.mounts = mounts or {}
        self._under = under
        self.root = self.root_of("")
        self.log = folder / "log"
        self.log.mkdir()
        (folder / "failover_flow.py").write_text(FLOW)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROUTILUX_MP_")}
        named = {f"ROUTILUX_MP_{name.upper()}": str(value) for name, value in {"poll_s": 0.1, **settings}.items()}
        key = {"ROUTILUX_MP_KEY_FILE": str(folder / "key"), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.environment = {**clean, **key, **named}
        self._processes: list[Process] = []
        self._families: set[int] = set()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        pids = {pid for process in self._processes for pid in process.family()} | self._families
        for process in self._processes:
            if process.popen.poll() is None:
                process.popen.kill()
                process.popen.send_signal(signal.SIGCONT)
            process.popen.wait()
        assert seconds_until_gone(pids, 5.0) is not None, f"left behind: {[p for p in pids if below(p)]}"

    # -- starting -------------------------------------------------------------------------------

    def root_of(self, host: str) -> Path:
        return self.mounts.get(host, self.folder / "checkpoints")

    def owner(self, n: int, *, host: str = "", **params: object) -> Process:
        given = {"n": n, "log": str(self.log), **params}
        pairs = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
        return self.start("run", "failover_flow.py", *pairs, "--plain", "--dir", str(self.root_of(host)), host=host)

    def standby(self, *options: str, host: str = "", **environment: str) -> Process:
        process = self.start("standby", str(self.root_of(host)), *options, host=host, **environment)
        eventually(lambda: "watching" in process.said(), "the standby watches", process)
        return process

    def start(self, *arguments: str, host: str = "", **environment: str) -> Process:
        """``routilux-mp`` with these arguments."""
        return self.program("-m", "routilux_mp.cli", *arguments, host=host, **environment)

    def program(self, *arguments: str, host: str = "", **environment: str) -> Process:
        """The interpreter with these arguments."""
        path = self.folder / f"said-{len(self._processes)}.txt"
        with path.open("wb") as said:
            popen = subprocess.Popen(
                [sys.executable, *self._under, *arguments],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                env={**self.environment, **({"ROUTILUX_MP_HOST_ID": host} if host else {}), **environment},
            )  # fmt: skip
        process = Process(popen, path)
        self._processes.append(process)
        return process

    def command(self, *arguments: str, host: str = "") -> tuple[int, str]:
        """Run ``routilux-mp`` to its end; exit code and what it said."""
        process = self.start(*arguments, host=host)
        code = process.wait()
        return code, process.said()

    def ask(self, *arguments: str) -> dict[str, Any]:
        """A request by the command line; what it answered."""
        code, said = self.command(*arguments, "--json")
        answer = dict(json.loads(said.strip().splitlines()[-1]))
        return {**answer, "code": code}

    # -- looking --------------------------------------------------------------------------------

    def job_id(self) -> str:
        (job,) = [path.name for path in self.root.iterdir() if (path / "format.json").exists()]
        return job

    def job(self) -> str:
        return str(self.root / self.job_id())

    def marks(self) -> list[Mark]:
        """What handlers began, in order of time."""
        found = []
        for path in self.log.iterdir():
            _, nursery, worker = path.name.rsplit(".", 2)
            self._families |= {int(nursery), int(worker)}
            for line in path.read_text().splitlines():
                item, time_s = line.split()
                found.append(Mark(int(item), float(time_s), int(nursery), int(worker)))
        return sorted(found, key=lambda mark: mark.time_s)

    def count(self) -> int:
        return len(self.marks())

    def twice(self) -> list[int]:
        return [item for item, count in Counter(mark.item for mark in self.marks()).items() if count > 1]

    def job_folded(self) -> Any:
        """The job as its log says, read anew."""
        with Store(str(self.root), Settings()) as store:
            return recovery.read(store, self.job_id(), Settings()).job

    def epoch_files(self, epoch: int) -> set[str]:
        return {path.name for path in (self.root / self.job_id() / "epochs" / f"e{epoch:07d}").iterdir()}

    def require_completed(self, n: int) -> None:
        """The job has completed, every item was done and counted exactly once."""
        job = self.job_folded()
        assert job.status == "completed"
        assert job.results == {(1, 0): n}
        assert {mark.item for mark in self.marks()} == set(range(n))


def eventually(probe: Callable[[], object], what: str, *alive: Process, deadline_s: float = DEADLINE_S) -> float:
    """Poll until the probe says yes; how long that took."""
    start = time.monotonic()
    while not probe():
        for process in alive:
            assert process.popen.poll() is None, f"ended before: {what}\n{process.said()}"
        if time.monotonic() - start > deadline_s:
            raise AssertionError(f"not within {deadline_s} s: {what}\n" + "\n".join(p.said() for p in alive))
        time.sleep(0.01)
    return time.monotonic() - start
