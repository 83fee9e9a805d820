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
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from .._resuming import go_on_by_id
from .._starting import start_compiled
from .._storage.store import Store
from .._supervisor.compiled import CompiledFlow
from ..errors import JobOwned
from ..flow import Flow
from ..runtime import Runtime
from . import FAILED, INTERRUPTED, OK, STOPPED, checkpoint_root, job_directory
from .apart import LoadedApart, load_apart, plan_apart
from .control import resume_elsewhere
from .progress import Board, Stage, board_for
from .target import load_flow, parse_params

if TYPE_CHECKING:
    from ..job_state import JobState

_POLL_S = 0.05
#: That a job is blocked is logged once; why it still does not move is said so often.
_TROUBLE_EVERY_S = 10.0


def run(options: argparse.Namespace) -> int:
    """Run a flow to its end, or to an interruption."""
    params = parse_params(options.param)
    if options.dry_run:
        return _print_plan(options.flow, params)
    runtime = _runtime(options, checkpoint_root(options))
    flow = _load(options.flow, runtime)
    with Interrupts() as interrupts:
        if isinstance(flow, Flow):
            state = runtime.exec(flow, entry_params=params, settle_s=0)
        else:
            state = start_compiled(runtime, flow.compiled, params, flow.timeout_s)
        return _follow(runtime, state, options, interrupts)


def resume(options: argparse.Namespace) -> int:
    """Go on with a job to its end, or to an interruption; where its owner lives, ask that to go on."""
    root, job_id = job_directory(options)
    runtime = _runtime(options, root)
    flow = _flow_to_resume(options, runtime, root, job_id)
    with Interrupts() as interrupts:
        try:
            state = go_on_by_id(runtime, job_id, flow, options.takeover, options.on_code_change)
        except JobOwned as owned:
            if flow is not None:
                raise  # its owner has code of its own
            runtime.shutdown(wait=False)
            return resume_elsewhere(options, owned)
        return _follow(runtime, state, options, interrupts)


def _load(target: str, runtime: Runtime) -> Flow | LoadedApart:
    """The flow; itself only where its routines are to run in this very process."""
    return load_flow(target) if runtime.settings.backend == "inline" else load_apart(target)


def _flow_to_resume(
    options: argparse.Namespace, runtime: Runtime, root: str, job_id: str
) -> Flow | CompiledFlow | None:
    if not options.flow:
        return None
    with Store(root, runtime.settings) as store:
        if store.has_only_views(job_id):
            return load_flow(options.flow)  # its objects are in a document, and are opened when that is read
    flow = _load(options.flow, runtime)
    return flow if isinstance(flow, Flow) else flow.compiled


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
    trouble = Trouble(board)
    try:
        while not _has_stopped(state) and not interrupts.count:
            board.show(_stages(state))
            trouble.show(state.blocked, time.time())
            _wait(state, _POLL_S)
        if interrupts.count and not _has_stopped(state):
            board.say("^C  finishing what runs (again: stop now) ...")
        runtime.shutdown(wait=not interrupts.count)
        board.show(_stages(state))
    finally:
        board.close()
    return _answer(state, folder, options, time.monotonic() - started, board)


class Trouble:
    """Says why a job does not move, for as long as that is so, and when it goes on."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._since_s = self._said_s = 0.0

    def show(self, blocked: Mapping[str, Any] | None, now_s: float) -> None:
        """``blocked``: as in ``JobState.blocked``, now."""
        if blocked is not None:
            since_s = blocked["since"].timestamp()
            if now_s - max(since_s, self._said_s) >= _TROUBLE_EVERY_S:
                self._since_s, self._said_s = since_s, now_s
                self._board.say(f"! blocked for {now_s - since_s:.0f} s: {blocked['reason']}")
        elif self._said_s:
            self._board.say(f"it goes on, after {now_s - self._since_s:.0f} s")
            self._since_s = self._said_s = 0.0


def _wait(state: JobState, timeout_s: float) -> None:
    state._live_or_fail().handle.wait(lambda view: view.is_terminal or view.is_resting, timeout_s)


def _has_stopped(state: JobState) -> bool:
    return state.status.is_terminal or state.status == "paused"


def _stages(state: JobState) -> list[Stage]:
    """How far each routine is, as far as a commit stands."""
    view = state._live_or_fail().handle.view
    stages = []
    for name, (done, left, running) in view.progress.items():
        failed = view.failed.get(name, 0)
        stages.append(Stage(name, done + failed, done + failed + left, running, failed))
    return stages


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


def _print_plan(target: str, params: dict[str, Any]) -> int:
    lines, problems = plan_apart(target)
    print("\n".join(lines))
    print(f"entry parameters: {params}")
    for problem in problems:
        print(f"! {problem}", file=sys.stderr)
    return FAILED if problems else OK


def _shown(path: Path) -> str:
    """The path as one would type it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
