"""``run`` and ``resume``: a job with its progress, and what Ctrl-C does.

First Ctrl-C (or SIGTERM): nothing new starts, what runs may finish and commits, the job is sealed for
whoever resumes it, and the command for that is printed. Second: this process ends now; what was
committed is safe, and the workers end because their supervisor did.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from ..flow import Flow
from ..runtime import Runtime
from . import FAILED, INTERRUPTED, OK, STOPPED, checkpoint_root, job_directory
from .progress import Board, Stage, board_for
from .target import load_flow, parse_params

if TYPE_CHECKING:
    from ..job_state import JobState

_POLL_S = 0.05


def run(options: argparse.Namespace) -> int:
    """Run a flow to its end, or to an interruption."""
    flow = load_flow(options.flow)
    params = parse_params(options.param)
    if options.dry_run:
        return _print_plan(flow, params)
    runtime = _runtime(options, checkpoint_root(options))
    with Interrupts() as interrupts:
        state = runtime.exec(flow, entry_params=params, settle_s=0)
        return _follow(runtime, state, options, interrupts)


def resume(options: argparse.Namespace) -> int:
    """Go on with a job to its end, or to an interruption."""
    root, job_id = job_directory(options)
    flow = load_flow(options.flow) if options.flow else None
    runtime = _runtime(options, root)
    with Interrupts() as interrupts:
        state = runtime.resume_job(job_id, flow, takeover=options.takeover)
        return _follow(runtime, state, options, interrupts)


class Interrupts:
    """Counts Ctrl-C and SIGTERM while it is entered; the second one ends the process."""

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        """``on_first`` is called in the signal handler."""
        self.count = 0
        self._on_first = on_first
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self._on_first()
        else:
            os.write(2, b"\nstopped; what was committed is safe\n")
            # No cleaning up: the nursery ends the workers when it sees this process gone.
            os._exit(INTERRUPTED)


def _runtime(options: argparse.Namespace, root: str) -> Runtime:
    return Runtime(options.workers or os.cpu_count() or 1, checkpoint_dir=root, settle_s=0)


def _follow(runtime: Runtime, state: JobState, options: argparse.Namespace, interrupts: Interrupts) -> int:
    """Show a job until it has ended, is paused, or somebody interrupts."""
    folder = Path(checkpoint_root(options) if not hasattr(options, "job") else job_directory(options)[0], state.job_id)
    board = board_for(options.plain)
    board.say(f"job {state.job_id}   {state.flow_id}   {_shown(folder)}")
    started = time.monotonic()
    try:
        while not _has_stopped(state) and not interrupts.count:
            board.show(_stages(state))
            _wait(state, _POLL_S)
        if interrupts.count and not _has_stopped(state):
            board.say("^C  finishing what runs (again: stop now) ...")
        runtime.shutdown(wait=not interrupts.count)
        board.show(_stages(state))
    finally:
        board.close()
    return _answer(state, folder, options, time.monotonic() - started, board)


def _wait(state: JobState, timeout_s: float) -> None:
    state._live_or_fail().handle.wait(lambda view: view.is_terminal or view.is_resting, timeout_s)


def _has_stopped(state: JobState) -> bool:
    return state.status.is_terminal or state.status == "paused"


def _stages(state: JobState) -> list[Stage]:
    """How far each routine is, as far as a commit stands."""
    progress = state._live_or_fail().handle.view.progress
    return [Stage(name, done, done + left, running) for name, (done, left, running) in progress.items()]


def _answer(state: JobState, folder: Path, options: argparse.Namespace, seconds: float, board: Board) -> int:
    """Say how it ended and what to do next."""
    status = str(state.status)
    if options.json:
        document = {"job_id": state.job_id, "status": status, "seconds": round(seconds, 3), "directory": str(folder)}
        print(json.dumps({**document, "error": state.error}), flush=True)
    else:
        board.say(f"{status} after {seconds:.1f} s")
    if status == "completed":
        return OK
    if status == "failed":
        board.say(f"{state.error or 'a routine failed'}\nlook:      routilux-mp show {_shown(folder)}")
        return FAILED
    if status == "cancelled":
        return STOPPED
    board.say(f"safe.  continue:  routilux-mp resume {_shown(folder)}")
    return STOPPED if status == "paused" else INTERRUPTED


def _print_plan(flow: Flow, params: dict[str, Any]) -> int:
    print(f"flow {flow.flow_id}")
    for routine_id, routine in flow.routines.items():
        slots = ", ".join(routine._slots) or "-"
        events = ", ".join(routine._events) or "-"
        print(f"  {routine_id}  ({type(routine).__name__})  slots: {slots}  events: {events}")
    for connection in flow.connections:
        print(f"  {connection}")
    print(f"entry parameters: {params}")
    problems = flow.validate()
    for problem in problems:
        print(f"! {problem}", file=sys.stderr)
    return FAILED if problems else OK


def _shown(path: Path) -> str:
    """The path as one would type it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
