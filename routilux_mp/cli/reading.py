"""Commands that only read, also dead directories: ``status``, ``show``, ``results``, ``fsck``. They write nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings import Settings
from . import FAILED, OK, checkpoint_root, job_directory
from .jobs import ListedJob, list_jobs, read_job

if TYPE_CHECKING:
    from .activation import Attempt


def status(options: argparse.Namespace) -> int:
    """All jobs below a root, or one."""
    root = options.root or checkpoint_root(options)
    is_one_job = (Path(root) / "format.json").is_file() or (Path(root) / "job_state.json").is_file()
    jobs = [read_job(root)] if is_one_job else list_jobs(root)
    if options.json:
        print(json.dumps({"root": root, "jobs": [job.to_document() for job in jobs]}, indent=2))
    elif not jobs:
        print(f"no jobs below {root}")
    else:
        _print_table([("job", "flow", "status", "pending", "updated", "owner"), *map(_line, jobs)])
        for job in jobs:
            if job.trouble:
                print(f"! {job.job_id}: {job.trouble}")
            elif job.blocked:
                print(f"! {job.job_id} is blocked: {job.blocked}")
            elif job.has_never_begun:
                print(f"! {job.job_id} never began: start it again; {job.path} can be deleted")
            elif job.is_orphan:
                print(f"! {job.job_id} is unfinished and nobody runs it:  routilux-mp resume {job.path}")
    return OK


def _line(job: ListedJob) -> tuple[str, ...]:
    owner = f"{job.owner} (pid {job.pid} on {job.host})" if job.owner in ("live", "gone", "elsewhere") else ""
    updated = job.updated_at[:19].replace("T", " ")
    return (job.job_id, job.flow_id, job.status or "?", f"{job.pending_count:,}", updated, owner)


def show(options: argparse.Namespace) -> int:
    """One job, folded from its log."""
    from .folding import Folded, fold

    if options.activation:
        return _show_activation(options)
    folded: Folded = fold(*job_directory(options))
    if options.json:
        print(json.dumps(folded.to_document(), indent=2, default=str))
        return OK
    print(
        f"job {folded.job_id}   flow {folded.flow_id}   {folded.status}"
        + (f": {folded.reason}" if folded.reason else "")
    )
    print(f"owner {folded.owner}   epoch {folded.epoch}, commit {folded.commit}\n")
    rows: list[Sequence[str]] = [("routine", "done", "failed", "left", "says")]
    rows += [(r.routine_id, f"{r.done:,}", f"{r.failed:,}", f"{r.left:,}", r.says) for r in folded.routines]
    _print_table(rows)
    for letter in folded.dead_letters:
        print(f"! dead letter {letter}")
    if folded.failures:
        print("\nnewest failures")
    for failure in folded.failures:
        print(f"  {failure.time[:19].replace('T', ' ')}  {_headline(failure)}")
    if folded.failures:
        print(f"look:      routilux-mp show {folded.path} {folded.failures[-1].activation}")
    if folded.is_resumable:
        print(f"\ncontinue:  routilux-mp resume {folded.path}")
    return OK


def results(options: argparse.Namespace) -> int:
    """What a job has given out, a line each; what JSON has no word for is shown as text, objects as signed text."""
    from .._serialization.signing import Signer
    from .._storage.store import Store
    from .._supervisor.onlooker import Onlooker

    root, job_id = job_directory(options)
    settings = Settings.load(checkpoint_dir=root)
    signer = Signer.from_settings(settings).that_opens_nothing()
    with Store(settings.checkpoint_dir, settings) as store:
        onlooker = Onlooker(store, settings, signer, job_id)
        for value in onlooker.results(options.routine, options.event, is_following=options.follow):
            print(json.dumps(value, default=_as_text), flush=options.follow)
    return OK


def _as_text(value: object) -> object:
    from .._serialization.json_values import to_json
    from .._serialization.sealed import Sealed

    return to_json(value) if isinstance(value, Sealed) else repr(value)


def _show_activation(options: argparse.Namespace) -> int:
    """Its attempts with their tracebacks, and what can be done."""
    from .activation import activation

    shown = activation(*job_directory(options), options.activation)
    if options.json:
        print(json.dumps(shown.to_document(), indent=2))
        return OK
    print(f"{shown.activation} of job {shown.job_id}: {shown.stands}")
    if shown.input:
        print(f"input      {shown.input}")
    if not shown.attempts:
        print("no attempt of it failed")
    for failure in shown.attempts:
        print(f"\n{failure.time[:19].replace('T', ' ')}  {_headline(failure)}")
        if failure.traceback:
            print("    " + failure.traceback.rstrip().replace("\n", "\n    "))
    if shown.next:
        print("\nnext:      " + "\n           ".join(shown.next))
    return OK


def _headline(failure: Attempt) -> str:
    first = failure.message.partition("\n")[0]
    return f"{failure.activation}, attempt {failure.attempt}: {failure.error_type}: {first} ({failure.follows})"


def fsck(options: argparse.Namespace) -> int:
    """Read and check everything of one job."""
    from .folding import check

    report = check(*job_directory(options))
    if options.json:
        print(json.dumps(report.to_document(), indent=2))
    else:
        print(f"{report.path}: {report.commits:,} commits in {report.epochs} epochs, {report.records:,} records")
        for trouble in report.troubles:
            print(f"! {trouble}")
        print("nothing was changed" if report.troubles else report.remark or "all well")
    return FAILED if report.troubles else OK


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
