"""The command line: ``routilux-mp`` (short ``rmp``).

Not here: any behaviour of the engine. Each command imports what it needs when it runs, so that
``status`` answers at once.

Exit codes:

    0    done; the job completed
    1    the job failed, a check found damage, or a demonstration did not end as it should
    2    the command, the flow or a setting is wrong; nothing was changed
    3    the checkpoint directory cannot be used or another owner has the job; nothing was changed
    4    the job is paused or was cancelled
    130  interrupted; what was committed is safe, and the command that resumes was printed
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import BackendError, LeaseError, RoutiluxError, StorageError
from ..settings import ON_CODE_CHANGE, Settings

OK, FAILED, WRONG, UNUSABLE, STOPPED, INTERRUPTED = 0, 1, 2, 3, 4, 130


#: command -> (one line, what it does): requests to whoever owns a job
_ASKED = {
    "pause": ("pause a job", "Let what runs finish, keep the rest, wait; the job stays with its process."),
    "cancel": ("end a job", "Nothing more starts; what runs is stopped after a grace period."),
    "retry": ("run dead letters again", "Run dead letters again, and activations that wait for a retry at once."),
    "skip": ("give up dead letters", "Give up dead letters, and activations that wait for a retry."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not hasattr(options, "run"):
        parser.print_help()
        return WRONG
    try:
        return int(options.run(options))
    except (StorageError, LeaseError, BackendError) as error:
        print(f"routilux-mp: {error}", file=sys.stderr)
        return UNUSABLE
    except RoutiluxError as error:
        print(f"routilux-mp: {error}", file=sys.stderr)
        return WRONG
    except BrokenPipeError:  # `rmp status | head`
        sys.stderr.close()
        return OK


def _parser() -> argparse.ArgumentParser:
    codes = (__doc__ or "").partition("Exit codes:")[2]
    parser = argparse.ArgumentParser(
        prog="routilux-mp",
        description="Flows of routines across worker processes: durable, resumable after kill -9.",
        epilog=f"exit codes:{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    run = commands.add_parser("run", help="run a flow", description=_run.__doc__)
    run.add_argument("flow", metavar="FLOW", help="module:flow, script.py, script.py:name or flow.json")
    run.add_argument("-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="an entry parameter")
    run.add_argument("-w", "--workers", type=int, metavar="N", help="worker processes at most (default: the cores)")
    run.add_argument("-n", "--dry-run", action="store_true", help="show the plan, run nothing")
    _watched(run)
    run.set_defaults(run=_run)

    resume = commands.add_parser("resume", help="go on with a job", description=_resume.__doc__)
    resume.add_argument("job", metavar="DIR", help="the job's directory, or its id below --dir")
    resume.add_argument("--flow", metavar="FLOW", help="take the code from here, not from the checkpoint")
    resume.add_argument("-w", "--workers", type=int, metavar="N", help="worker processes at most (default: the cores)")
    resume.add_argument("--on-code-change", choices=ON_CODE_CHANGE, help="if code of unfinished work has changed")
    resume.add_argument("--takeover", action="store_true", help="also from a living owner, which is asked to yield it")
    resume.add_argument("--wait", type=float, default=30.0, metavar="S", help="for its owner, seconds (%(default)g)")
    _watched(resume)
    resume.set_defaults(run=_resume)

    standby = commands.add_parser("standby", help="take over jobs whose owner is gone", description=_standby.__doc__)
    standby.add_argument("root", nargs="?", metavar="ROOT", help="the checkpoint root")
    standby.add_argument("--capacity", type=int, default=0, metavar="N", help="jobs at a time at most (default: any)")
    standby.add_argument("--modules", nargs="+", default=[], metavar="FLOW", help="flows to take the code from")
    standby.add_argument("-w", "--workers", type=int, metavar="N", help="worker processes at most (default: the cores)")
    _directory(standby)
    standby.set_defaults(run=_standby)

    for kind, text in _ASKED.items():
        asked = commands.add_parser(kind, help=text[0], description=text[1])
        asked.add_argument("job", metavar="JOB", help="the job's directory, or its id below --dir")
        if kind in ("retry", "skip"):
            asked.add_argument("activation", nargs="?", metavar="ACTIVATION", help="routine/number; default: all")
        else:
            asked.add_argument("--reason", default="", help="for those who look at the job later")
        if kind == "pause":
            asked.add_argument("--handover", action="store_true", help="a standby takes the job over and goes on")
        asked.add_argument("--wait", type=float, default=30.0, metavar="S", help="for an answer, seconds (%(default)g)")
        _directory(asked)
        asked.add_argument("--json", action="store_true", help="as a JSON document")
        asked.set_defaults(run=_ask, kind=kind)

    _add_readers(commands)
    _add_demos(commands)
    return parser


def _add_readers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What only looks at a checkpoint directory."""
    status = commands.add_parser("status", help="all jobs below a root, dead ones too", description=_status.__doc__)
    status.add_argument("root", nargs="?", metavar="ROOT", help="the checkpoint root, or one job's directory")
    _directory(status)
    status.add_argument("--json", action="store_true", help="as a JSON document")
    status.set_defaults(run=_status)

    show = commands.add_parser("show", help="one job: stages, failures, dead letters", description=_show.__doc__)
    show.add_argument("job", metavar="JOB", help="the job's directory, or its id below --dir")
    show.add_argument("activation", nargs="?", metavar="ACTIVATION", help="routine/number: its attempts and tracebacks")
    _directory(show)
    show.add_argument("--json", action="store_true", help="as a JSON document")
    show.set_defaults(run=_show)

    results = commands.add_parser("results", help="what a job has given out", description=_results.__doc__)
    results.add_argument("job", metavar="JOB", help="the job's directory, or its id below --dir")
    results.add_argument("routine", metavar="ROUTINE", help="the routine that emits")
    results.add_argument("event", metavar="EVENT", help="its event, connected to nothing")
    results.add_argument("-f", "--follow", action="store_true", help="go on, as they come, until the job has ended")
    _directory(results)
    results.set_defaults(run=_results)

    fsck = commands.add_parser("fsck", help="read every file of a job and check it", description=_fsck.__doc__)
    fsck.add_argument("job", metavar="JOB", help="the job's directory, or its id below --dir")
    _directory(fsck)
    fsck.add_argument("--json", action="store_true", help="as a JSON document")
    fsck.set_defaults(run=_fsck)

    repair = commands.add_parser("repair", help="cut a damaged job back to what is whole", description=_repair.__doc__)
    repair.add_argument("job", metavar="JOB", help="the job's directory, or its id below --dir")
    repair.add_argument("--accept-loss", action="store_true", help="copy the directory, then cut (default: only say)")
    _directory(repair)
    repair.add_argument("--json", action="store_true", help="as a JSON document")
    repair.set_defaults(run=_repair)


def _add_demos(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser("demo", help="demonstrations", description="Demonstrations on real input.")
    demos = demo.add_subparsers(title="demonstrations", metavar="NAME", required=True)
    kill9 = demos.add_parser("kill9", help="the main job, killed twice and resumed", description=_kill9.__doc__)
    kill9.add_argument("--root", type=Path, help="the folder of Python sources (default: the standard library)")
    kill9.add_argument("--out", type=Path, default=Path("out/kill9"), help="where everything is written (%(default)s)")
    kill9.add_argument("--limit", type=int, default=0, metavar="N", help="measure only so many files")
    kill9.set_defaults(run=_kill9)
    takeover = demos.add_parser("takeover", help="one host freezes, another takes over", description=_takeover.__doc__)
    takeover.add_argument("--out", type=Path, default=Path("out/takeover"), help="where everything is written")
    takeover.add_argument("--tiles", type=int, default=16, metavar="N", help="N x N tiles (default: %(default)s)")
    takeover.set_defaults(run=_takeover)


def _directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", metavar="ROOT", help="the checkpoint root (default: from the settings, ./checkpoints)")


def _watched(parser: argparse.ArgumentParser) -> None:
    _directory(parser)
    parser.add_argument("--plain", action="store_true", help="lines instead of bars")
    parser.add_argument("--json", action="store_true", help="answer with a JSON document when the job has ended")


class _Version(argparse.Action):
    """Prints the version; looks it up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .._storage.layout import WRITER_VERSION

        print(f"routilux-mp {WRITER_VERSION} (Python {sys.version.split()[0]})")
        parser.exit()


def _run(options: argparse.Namespace) -> int:
    """Run a flow and show its progress. Ctrl-C drains and prints the command that resumes; again: stops now."""
    from .running import run

    return run(options)


def _resume(options: argparse.Namespace) -> int:
    """Go on with a job that was paused or interrupted, or whose owner is gone. Where its owner lives and
    has paused it, that is asked to go on with it, and this command ends.
    """
    from .running import resume

    return resume(options)


def _status(options: argparse.Namespace) -> int:
    """All jobs below a checkpoint root, the latest changed first; reads files only."""
    from .reading import status

    return status(options)


def _show(options: argparse.Namespace) -> int:
    """One job, folded from its log: how far each routine is, what failed, what to do next; or one activation of it."""
    from .reading import show

    return show(options)


def _results(options: argparse.Namespace) -> int:
    """Emissions of an event that is connected to nothing, a JSON object a line, also while the job runs elsewhere."""
    from .reading import results

    return results(options)


def _fsck(options: argparse.Namespace) -> int:
    """Read every commit, snapshot and archive of a job and check sums, chains and records. Changes nothing."""
    from .reading import fsck

    return fsck(options)


def _repair(options: argparse.Namespace) -> int:
    """Say how far a damaged log is whole and what comes after; with --accept-loss go back to there, copying first."""
    from .repairing import repair

    return repair(options)


def _standby(options: argparse.Namespace) -> int:
    """Take over jobs that were handed over, whose process on this host has ended, or whose host fell silent."""
    from .standby import standby

    return standby(options)


def _ask(options: argparse.Namespace) -> int:
    """Ask the process that owns a job, on this host or another."""
    from .control import ask

    names = ("reason", "handover", "activation")
    return ask(options, options.kind, **{name: getattr(options, name, None) for name in names})


def _takeover(options: argparse.Namespace) -> int:
    """Two hosts on one directory make a mosaic: one is frozen at half, the other goes on, the first is fenced."""
    from ..demo.takeover import takeover

    return OK if takeover(options.out, tiles=options.tiles) else FAILED


def _kill9(options: argparse.Namespace) -> int:
    """Metrics of real Python sources, once undisturbed and once with kill -9 of a worker and of the supervisor."""
    from ..demo.kill9 import kill9, standard_library

    is_equal = kill9(options.root or standard_library(), options.out, limit=options.limit)
    return OK if is_equal else FAILED


def checkpoint_root(options: argparse.Namespace) -> str:
    """The root that a command works on."""
    return Settings.load(checkpoint_dir=options.dir).checkpoint_dir


def job_directory(options: argparse.Namespace) -> tuple[str, str]:
    """Root and job id of what a person typed as JOB: a path to its directory, or its id."""
    path = Path(options.job)
    if path.is_dir() and (len(path.parts) > 1 or not options.dir):
        resolved = path.resolve()
        return str(resolved.parent), resolved.name
    return checkpoint_root(options), options.job
