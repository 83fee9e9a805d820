"""What a person sees while a job runs: bars on a terminal, plain lines elsewhere.

The one door to rich, which is optional: without it, or when the output is no terminal, a line comes
every two seconds. Everything goes to standard error; standard output belongs to the job's own prints
and to what the command answers. It is fed with ``Stage`` tuples and knows nothing of jobs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 2.0
#: The rate shown is that of about so many seconds.
_RATE_OVER_S = 5.0


class Stage(NamedTuple):
    """How far one routine is: activations over, seen so far, and running now; how many of those over have failed."""

    name: str
    done: int
    total: int
    running: int
    failed: int = 0


class Board(Protocol):
    """Shows how far a job is."""

    def show(self, stages: Sequence[Stage]) -> None:
        """Show this now, or soon."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """Show the last state and leave the terminal as it was."""


def board_for(is_plain: bool = False) -> Board:
    """Bars when standard error is a terminal and rich is there, else lines."""
    if not is_plain and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        try:
            return RichBoard()
        except ImportError:
            pass  # rich is an extra: pip install routilux-mp[cli]
    return PlainBoard()


class Rates:
    """Activations per second of each stage, over the last seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def of(self, stage: Stage, now: float) -> float:
        """The rate of a stage; 0 when nothing can be said yet."""
        seen = self._seen.setdefault(stage.name, [])
        seen.append((now, stage.done))
        while len(seen) > 2 and now - seen[1][0] > _RATE_OVER_S:
            seen.pop(0)
        (then, before), (_, done) = seen[0], seen[-1]
        return (done - before) / (now - then) if now > then else 0.0


def described(stage: Stage, rate: float) -> str:
    """Rate and remaining time, or what the stage waits for; and what failed."""
    failed = f"{stage.failed:,} failed" if stage.failed else ""
    return ", ".join(filter(None, (_pace(stage, rate), failed)))


def _pace(stage: Stage, rate: float) -> str:
    if rate > 0 and stage.done < stage.total:
        return f"{rate:,.1f}/s  eta {_duration((stage.total - stage.done) / rate)}"
    if stage.running:
        return "running"
    return "" if stage.done else "waiting"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class PlainBoard:
    """One line every two seconds."""

    def __init__(self) -> None:
        self._rates = Rates()
        self._last: Sequence[Stage] = ()
        self._shown: Sequence[Stage] = ()
        self._next_s = time.monotonic() + _LINE_EVERY_S

    def show(self, stages: Sequence[Stage]) -> None:
        self._last = stages
        if time.monotonic() >= self._next_s:
            self._print()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._last != self._shown:
            self._print()

    def _print(self) -> None:
        now = time.monotonic()
        parts = []
        for stage in self._last:
            detail = described(stage, self._rates.of(stage, now))
            parts.append(f"{stage.name} {stage.done:,}/{stage.total:,}" + (f" ({detail})" if detail else ""))
        self.say("  ".join(parts))
        self._shown, self._next_s = self._last, now + _LINE_EVERY_S


class RichBoard:
    """Bars that redraw themselves."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        # redirect_*: what handlers print goes above the bars instead of through them.
        self._progress: Progress = Progress(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[count]:>15}"),
            TextColumn("{task.fields[detail]}"),
            console=Console(file=sys.stderr),
            refresh_per_second=8,
            redirect_stdout=True,
            redirect_stderr=True,
        )
        self._rates = Rates()
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def show(self, stages: Sequence[Stage]) -> None:
        now = time.monotonic()
        for stage in stages:
            if stage.name not in self._tasks:
                self._tasks[stage.name] = self._progress.add_task(stage.name, total=None, count="", detail="")
            self._progress.update(
                self._tasks[stage.name],
                completed=stage.done,
                total=stage.total or None,
                count=f"{stage.done:,}/{stage.total:,}",
                detail=described(stage, self._rates.of(stage, now)),
            )

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()
