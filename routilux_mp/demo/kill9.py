"""The demonstration: the main job twice, once undisturbed, once with ``kill -9`` on the way.

It is a bystander: it starts the same commands that a person types, kills processes with the
operating system's own signal, and judges by files that the job does not know to be looked at.
Nothing it prints is assumed. The second run loses a worker at a third of the files and its
supervisor at two thirds; then a new process resumes it from its checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError
from .flow import source_files
from .processes import is_below, seconds_until_gone

_MARK = ".routilux-mp-demo"
_ROUTINES = ("find", "measure", "aggregate", "draw")
_STEP_TIMEOUT_S = 900.0
_GONE_TIMEOUT_S = 5.0


@dataclass
class Run:
    """One run of the job, in a folder of its own."""

    folder: Path
    seconds: float = 0.0
    #: What was done to it, for the table.
    events: list[str] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def job(self) -> Path:
        """The directory of its only job."""
        (job,) = [path for path in self.checkpoints.iterdir() if (path / "format.json").exists()]
        return job

    def attempts(self, routine: str) -> Counter[str]:
        """How often each activation of a routine was begun, by what its handlers wrote outside the job."""
        keys: Counter[str] = Counter()
        for path in self.log.glob(f"{routine}.*"):
            keys.update(path.read_text(encoding="utf-8").splitlines())
        return keys

    def pids(self, routine: str) -> list[int]:
        """The processes that ran a routine, the latest first."""
        paths = sorted(self.log.glob(f"{routine}.*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [int(path.suffix[1:]) for path in paths]


class DemoFailed(UsageError):
    """The demonstration did not end as it should."""


def standard_library() -> Path:
    """Where the running Python keeps its own sources."""
    return Path(sysconfig.get_paths()["stdlib"])


def kill9(root: Path, out: Path, *, limit: int = 0, is_quiet: bool = False) -> bool:
    """Run the demonstration and print what happened; True when the results are byte-equal and nothing is left.

    Args:
        root: the folder whose Python files are measured.
        out: a folder for everything that is written; it is emptied first.
        limit: measure only so many files; 0 means all.
        is_quiet: do not show the job's own progress.

    Raises:
        UsageError: the folder holds something else, there are too few files, or a step failed.
    """
    total = len(source_files(root))
    total = min(total, limit) if limit else total
    if total < 12:
        raise UsageError(f"{root} holds {total} Python files; the demonstration needs a dozen: name another --root")
    _fresh_folder(out)
    calm, rough = (Run(out / name) for name in ("undisturbed", "killed"))
    command = _Command(root, limit, is_quiet)

    _say(f"1  {total:,} Python files below {root}, undisturbed")
    calm.seconds = command.finish(command.run(calm))
    _say(f"   {calm.seconds:.1f} s\n")

    _say("2  the same again, with kill -9 on the way")
    start = time.monotonic()
    supervisor = command.run(rough)
    _kill_worker(rough, supervisor, at=total // 3)
    left = _kill_supervisor(rough, supervisor, at=2 * total // 3)

    _say(f"\n3  a new process:  routilux-mp resume {_short(rough.job())}")
    command.finish(command.resume(rough))
    rough.seconds = time.monotonic() - start
    return _verdict(calm, rough, left)


class _Command:
    """The commands that a person would type."""

    def __init__(self, root: Path, limit: int, is_quiet: bool) -> None:
        self._root, self._limit, self._is_quiet = root, limit, is_quiet

    def run(self, run: Run) -> subprocess.Popen[bytes]:
        """``routilux-mp run``, started."""
        run.log.mkdir(parents=True)
        params = {"root": str(self._root), "out": str(run.folder), "log": str(run.log), "limit": self._limit}
        if self._root == standard_library():
            params["title"] = f"Complexity of the Python {sys.version_info[0]}.{sys.version_info[1]} standard library"
        pairs = [f"{name}={json.dumps(value)}" for name, value in params.items()]
        flags = [flag for pair in pairs for flag in ("-p", pair)]
        return self._start("run", "routilux_mp.demo.flow:flow", *flags, "--dir", str(run.checkpoints))

    def resume(self, run: Run) -> subprocess.Popen[bytes]:
        """``routilux-mp resume``, started."""
        return self._start("resume", str(run.job()))

    def finish(self, process: subprocess.Popen[bytes]) -> float:
        """Wait until the command has ended well; how long that took."""
        start = time.monotonic()
        try:
            code = process.wait(_STEP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise DemoFailed(f"the job did not end in {_STEP_TIMEOUT_S:.0f} s") from None
        if code:
            raise DemoFailed(f"the job's process ended with exit code {code}; what it said is above")
        return time.monotonic() - start

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL if self._is_quiet else None
        return subprocess.Popen(
            [sys.executable, "-m", "routilux_mp.cli", *arguments], stdin=subprocess.DEVNULL, stdout=quiet, stderr=quiet
        )


def _kill_worker(run: Run, supervisor: subprocess.Popen[bytes], at: int) -> None:
    """Kill a measuring worker once so many files have been begun."""

    def victim() -> int:
        if sum(run.attempts("measure").values()) < at:
            return 0
        return next((pid for pid in run.pids("measure") if is_below(pid, supervisor.pid)), 0)

    pid = _eventually(victim, supervisor, f"{at} files")
    os.kill(pid, signal.SIGKILL)
    run.events.append(f"worker {pid} killed by SIGKILL at file {sum(run.attempts('measure').values()):,}")
    _say(f"   kill -9 {pid}   (a worker of 'measure')")


def _kill_supervisor(run: Run, supervisor: subprocess.Popen[bytes], at: int) -> list[int]:
    """Kill the supervisor once so many files have been begun; returns the workers that outlive it for long."""
    _eventually(lambda: sum(run.attempts("measure").values()) >= at, supervisor, f"{at} files")
    workers = [pid for routine in _ROUTINES for pid in run.pids(routine) if is_below(pid, supervisor.pid)]
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    gone_s = seconds_until_gone(workers, _GONE_TIMEOUT_S)
    _restore_terminal()
    begun = sum(run.attempts("measure").values())
    run.events.append(f"supervisor {supervisor.pid} killed by SIGKILL at file {begun:,}")
    _say(f"   kill -9 {supervisor.pid}   (the supervisor)")
    if gone_s is None:
        return [pid for pid in workers if seconds_until_gone([pid], 0) is None]
    run.events.append(f"its {len(workers)} workers were gone {gone_s * 1000:.0f} ms later")
    return []


def _eventually(probe: Callable[[], int], process: subprocess.Popen[bytes], what: str) -> int:
    """Poll until the probe says something; the job must not end before."""
    deadline = time.monotonic() + _STEP_TIMEOUT_S
    while not (found := probe()):
        if process.poll() is not None:
            raise DemoFailed(f"the job's process ended with exit code {process.returncode} before {what}")
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise DemoFailed(f"no {what} in {_STEP_TIMEOUT_S:.0f} s")
        time.sleep(0.02)
    return found


def _verdict(calm: Run, rough: Run, left: Sequence[int]) -> bool:
    """Compare the two runs and print the table."""
    rows: list[tuple[str, str, str]] = [("", "undisturbed", "killed and resumed")]
    for name in _ROUTINES:
        first, second = (len(run.attempts(name)) for run in (calm, rough))
        rows.append((f"activations of {name}", f"{first:,}", f"{second:,}"))
    rows.append(("activations that ran twice", f"{_run_again(calm):,}", f"{_run_again(rough):,}"))
    rows.append(("wall clock", f"{calm.seconds:.1f} s", f"{rough.seconds:.1f} s"))
    equal = True
    for name in ("complexity.png", "complexity.txt"):
        first_bytes, second_bytes = ((run.folder / name).read_bytes() for run in (calm, rough))
        equal = equal and first_bytes == second_bytes
        rows.append((name, f"{len(first_bytes):,} bytes", "byte-equal" if first_bytes == second_bytes else "DIFFERENT"))
    _say("")
    for event in rough.events:
        _say(f"   {event}")
    _say("")
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        _say(f"   {row[0]:<{widths[0]}}   {row[1]:>{widths[1]}}   {row[2]:>{widths[2]}}".rstrip())
    if left:
        _say(f"\n   STILL RUNNING {_GONE_TIMEOUT_S:.0f} s after the supervisor's death: {left}")
    _say("\n" + (rough.folder / "complexity.txt").read_text(encoding="utf-8"))
    _say(f"picture: {_short(rough.folder / 'complexity.png')}")
    return equal and not left


def _run_again(run: Run) -> int:
    return sum(count > 1 for name in _ROUTINES for count in run.attempts(name).values())


def _fresh_folder(out: Path) -> None:
    """An empty folder; one that was not made by this demonstration is not touched."""
    if out.exists() and any(out.iterdir()) and not (out / _MARK).exists():
        raise UsageError(f"{out} holds something else; name an empty folder with --out, or remove it")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARK).touch()


def _restore_terminal() -> None:
    """A killed process could not switch the cursor back on."""
    if sys.stderr.isatty():
        print("\n\x1b[?25h", end="", file=sys.stderr, flush=True)


def _short(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _say(text: str) -> None:
    print(text, flush=True)
