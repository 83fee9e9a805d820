"""Commands that only read, also dead directories: ``status``, ``show``, ``results``, ``fsck``. They write nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from . import FAILED, OK, checkpoint_root, job_directory
from .jobs import ListedJob, list_jobs, read_job


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

    folded: Folded = fold(*job_directory(options))
    if options.json:
        print(json.dumps(folded.to_document(), indent=2, default=str))
        return OK
    print(
        f"job {folded.job_id}   flow {folded.flow_id}   {folded.status}"
        + (f": {folded.reason}" if folded.reason else "")
    )
    print(f"owner {folded.owner}   epoch {folded.epoch}, commit {folded.commit}\n")
    rows: list[Sequence[str]] = [("routine", "done", "left", "says")]
    rows += [(r.routine_id, f"{r.done:,}", f"{r.left:,}", r.says) for r in folded.routines]
    _print_table(rows)
    for letter in folded.dead_letters:
        print(f"! dead letter {letter}")
    if folded.is_resumable:
        print(f"\ncontinue:  routilux-mp resume {folded.path}")
    return OK


def results(options: argparse.Namespace) -> int:
    """What a job has given out, a line each; what JSON has no word for is shown as text."""
    from ..remote import results as results_of

    root, job_id = job_directory(options)
    for value in results_of(job_id, options.routine, options.event, root=root, follow=options.follow):
        print(json.dumps(value, default=repr), flush=options.follow)
    return OK


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
        print("nothing was changed" if report.troubles else "all well")
    return FAILED if report.troubles else OK


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
