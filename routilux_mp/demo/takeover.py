"""The demonstration: two hosts on one directory; one freezes, the other takes over, the first thaws and is fenced.

It is a bystander, as ``kill9`` is: it starts the commands that a person types, stops and continues
processes with the operating system's own signals, and judges by files that the job does not know to
be looked at. A "host" is a process with a host identity of its own (the setting ``host_id``): whoever
has another one is watched by its heartbeat, as over a network, not by its pid.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..errors import UsageError
from .processes import below

_MARK = ".routilux-mp-demo"
_FLOW = "routilux_mp.demo.mosaic:flow"
_LEASE_S = 2.0
_STEP_TIMEOUT_S = 300.0
#: How long the frozen host stays frozen after the other has taken over.
_FROZEN_S = 1.0


@dataclass
class Host:
    """A process with an identity of its own, and what it said."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    pids: list[int] = field(default_factory=list)

    def freeze(self) -> None:
        """Everything of this host stands still, its supervisor first."""
        os.kill(self.process.pid, signal.SIGSTOP)
        self.pids = below(self.process.pid)
        for pid in self.pids[1:]:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Everything goes on."""
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass  # it was killed meanwhile

    def text(self) -> str:
        """What it has said so far."""
        return (self.folder / f"{self.name}.txt").read_text(encoding="utf-8", errors="replace")

    def end(self) -> int:
        """Let it leave in good order; its exit code."""
        if self.process.poll() is None:
            self.thaw()
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STEP_TIMEOUT_S / 10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.said.close()
        return self.process.returncode


class DemoFailed(UsageError):
    """The demonstration did not end as it should."""


def takeover(out: Path, *, tiles: int = 16) -> bool:
    """Run the demonstration and print what happened; True when all is as promised.

    Args:
        out: a folder for everything that is written; it is emptied first.
        tiles: the picture has tiles x tiles tiles.

    Raises:
        UsageError: the folder holds something else, or a step failed.
    """
    if tiles < 4:
        raise UsageError(f"--tiles must be at least 4, got {tiles}")
    _fresh_folder(out)
    calm, shared = out / "one-host", out / "two-hosts"
    _say(f"1  one host draws {tiles * tiles} tiles, undisturbed")
    seconds = _undisturbed(calm, tiles)
    _say(f"   {seconds:.1f} s\n")
    _say(f"2  two hosts on one directory; the lease is {_LEASE_S:g} s")
    a = _start("a", shared, "run", _FLOW, *_parameters(shared, tiles), "--plain", "--dir", str(shared / "checkpoints"))
    b = _start("b", shared, "standby", str(shared / "checkpoints"))
    try:
        facts = _story(a, b, shared, tiles)
    finally:
        a.end()
        b.end()
    return _verdict(calm, shared, facts, tiles)


def _story(a: Host, b: Host, shared: Path, tiles: int) -> dict[str, str]:
    """What happens; returns what is to be told of it."""
    half = tiles * tiles // 2
    _eventually(lambda: _drawn(shared, "a") >= half, a, f"{half} tiles")
    a.freeze()
    frozen = time.monotonic()
    _say(f"   host a frozen at tile {_drawn(shared, 'a')}: {len(a.pids)} processes, SIGSTOP")
    _eventually(lambda: _drawn(shared, "b") > 0, b, "tile of host b")
    facts = {"host b drew its first tile": f"{time.monotonic() - frozen:.1f} s after the freeze"}
    _say(f"   host b draws, {facts['host b drew its first tile']}: {_last_line(b.text(), 'took over')}")
    time.sleep(_FROZEN_S)  # part of the story: a host that stays away for a while
    before, job = _commits(shared), _drawn(shared, "a")
    a.thaw()
    _say("   host a thaws, SIGCONT")
    thawed = time.monotonic()
    code = a.process.wait(_STEP_TIMEOUT_S)
    facts["host a ended"] = f"{(time.monotonic() - thawed) * 1000:.0f} ms after the thaw, exit code {code}"
    left = [pid for pid in a.pids if _is_there(pid)]
    facts["processes of host a left"] = str(len(left))
    facts["tiles that host a began after the thaw"] = str(_drawn(shared, "a") - job)
    facts["commits of host a after the thaw"] = str(len(_commits(shared) - before))
    _say(f"   host a: {_last_line(a.text(), 'taken over')}")
    _eventually(lambda: "completed" in b.text(), b, "end of the job")
    if code == 0 or left or "taken over" not in a.text():
        raise DemoFailed(f"host a was not fenced as it should: exit code {code}, left {left}, it said:\n{a.text()}")
    return facts


def _verdict(calm: Path, shared: Path, facts: dict[str, str], tiles: int) -> bool:
    first, second = ((folder / "mosaic.png").read_bytes() for folder in (calm, shared))
    marks = Counter(mark for path in (shared / "log").iterdir() for mark in path.read_text().split())
    twice = sum(count > 1 for count in marks.values())
    rows = [
        ("tiles drawn by host a, by host b", f"{_drawn(shared, 'a')}, {_drawn(shared, 'b')}"),
        ("tiles drawn twice (those in flight)", str(twice)),
        *facts.items(),
        ("mosaic.png", f"{len(second):,} bytes, {'byte-equal' if first == second else 'DIFFERENT'}"),
    ]
    width = max(len(name) for name, _ in rows)
    _say("")
    for name, value in rows:
        _say(f"   {name:<{width}}   {value}")
    _say(f"\npicture: {_short(shared / 'mosaic.png')}   tinted by host: {_short(shared / 'by_host.png')}")
    is_complete = len(marks) == tiles * tiles
    return first == second and is_complete and facts["commits of host a after the thaw"] == "0"


def _undisturbed(folder: Path, tiles: int) -> float:
    begin = time.monotonic()
    root = str(folder / "checkpoints")
    host = _start("solo", folder, "run", _FLOW, *_parameters(folder, tiles), "--plain", "--dir", root)
    try:
        code = host.process.wait(_STEP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"the undisturbed job did not end in {_STEP_TIMEOUT_S:.0f} s") from None
    finally:
        host.end()
    if code:
        raise DemoFailed(f"the undisturbed job ended with exit code {code}; it said:\n{host.text()}")
    return time.monotonic() - begin


def _parameters(folder: Path, tiles: int) -> list[str]:
    log = folder / "log"
    log.mkdir(parents=True, exist_ok=True)
    return ["-p", f"out={folder}", "-p", f"count={tiles}", "-p", f"log={log}"]


def _start(name: str, folder: Path, *arguments: str) -> Host:
    said = (folder / f"{name}.txt").open("wb")
    environment = {
        **os.environ,
        "ROUTILUX_MP_HOST_ID": name,
        "ROUTILUX_MP_LEASE_S": str(_LEASE_S),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "routilux_mp.cli", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment)
    return Host(name, folder, process, said)


def _drawn(folder: Path, host: str) -> int:
    """Tiles that a host has begun."""
    return sum(len(path.read_text().split()) for path in (folder / "log").glob(f"{host}.*"))


def _commits(folder: Path) -> set[str]:
    """Commit files of the epoch that host a owned."""
    return {path.name for path in (folder / "checkpoints").glob("*/epochs/e0000001/*")}


def _eventually(probe: Callable[[], bool], host: Host, what: str) -> None:
    deadline = time.monotonic() + _STEP_TIMEOUT_S
    while not probe():
        if host.process.poll() is not None:
            raise DemoFailed(f"host {host.name} ended with {host.process.returncode} before {what}:\n{host.text()}")
        if time.monotonic() > deadline:
            raise DemoFailed(f"no {what} in {_STEP_TIMEOUT_S:.0f} s; host {host.name} said:\n{host.text()}")
        time.sleep(0.02)


def _is_there(pid: int) -> bool:
    return bool(below(pid))


def _last_line(text: str, word: str) -> str:
    lines = [line for line in text.splitlines() if word in line]
    # Without the time of day and the job's long id.
    return re.sub(r"^.*?job '?[0-9a-f-]{36}'?:? ?", "", lines[-1]) if lines else "-"


def _fresh_folder(out: Path) -> None:
    """An empty folder; one that was not made by this demonstration is not touched."""
    if out.exists() and any(out.iterdir()) and not (out / _MARK).exists():
        raise UsageError(f"{out} holds something else; name an empty folder with --out, or remove it")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARK).touch()


def _short(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _say(text: str) -> None:
    print(text, flush=True)
