"""Other systems on this machine, beside ours, in one run.

    python bench/peers.py --python PYTHON [--only NAME ...] [--turns N] [--quick] [--list] [--json FILE]

PYTHON is an interpreter that has them installed (README.md says how to make one); what is not installed there is left
out and said so. Ours is measured before and after each of them, and compared by the mean of the two. No-op chain of
three stages: handler runs per second after the source, as many items as keep each busy for some seconds; arrays:
megabytes per second from stage to stage; small jobs of three steps: jobs per second.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from others import MISSING  # noqa: E402  (the folder is on the path only since the line above)
from table import Failed, Row, as_table, machine, run  # noqa: E402

_NONE = ("BENCH_DURABILITY", "none")
_LARGE, _SMALL = ("BENCH_ARRAY_BYTES", 10_000_000), ("BENCH_ARRAY_BYTES", 1_000_000)
_TIMEOUT_S = 150


class Work(NamedTuple):
    """What ours does beside others: one workload of this folder."""

    what: str
    script: str
    workload: str
    n: int
    figure: str
    unit: str
    settings: tuple[tuple[str, object], ...] = ()


class Peer(NamedTuple):
    """One workload of another system; ``at_least`` is the goal for ours divided by theirs."""

    name: str
    workload: str
    n: int
    at_least: float | None = 1.0


CHAIN = Work("no-op chain, ours durable", "ours.py", "chain", 200_000, "per_s", "/s")
LARGE = Work('10 MB arrays, ours durability="none"', "shapes.py", "arrays", 60, "mb_per_s", " MB/s", (_LARGE, _NONE))
SMALL = Work('1 MB arrays, ours durability="none"', "shapes.py", "arrays", 400, "mb_per_s", " MB/s", (_SMALL, _NONE))
JOBS = Work("1,000 small jobs, ours durable", "shapes.py", "jobs", 1000, "per_s", " jobs/s")
PEERS: dict[Work, tuple[Peer, ...]] = {
    CHAIN: (
        Peer("multiprocessing.Pool.imap, item by item", "pool", 60_000),
        Peer("ProcessPoolExecutor, item by item", "executor", 20_000),
        Peer("Dask", "dask", 3_000),
        Peer("Ray actors", "ray_actors", 10_000),
        Peer("bytewax, item by item", "bytewax", 50_000),
        Peer("bytewax, batches of 64", "bytewax_64", 500_000),
        Peer("bytewax with its recovery store", "bytewax_store", 60_000, 5),
        Peer("DBOS, SQLite", "dbos", 1_000, 50),
        Peer("huey, SQLite with fsync", "huey", 2_500, 50),
        Peer("Luigi", "luigi", 500, 50),
        Peer("Parsl, checkpoint at task exit", "parsl", 2_500, 50),
    ),
    LARGE: (
        Peer("Ray object store", "ray_arrays", 60),
        Peer("joblib memmapping", "joblib_arrays", 40),
        Peer("a plain copy in one process", "copy", 60, None),
    ),
    SMALL: (
        Peer("Ray object store", "ray_arrays", 400),
        Peer("joblib memmapping", "joblib_arrays", 400),
        Peer("a plain copy in one process", "copy", 400, None),
    ),
    JOBS: (
        Peer("DBOS, SQLite", "dbos_jobs", 500),
        Peer("huey, SQLite with fsync", "huey_jobs", 1_000),
    ),
}


class LeftOut(Exception):
    """This peer cannot be measured here; the message says why."""


def theirs(peer: Peer, work: Work, python: str, n: int) -> dict[str, Any]:
    """The figures that a workload of another system prints."""
    process = subprocess.Popen(
        [python, str(HERE / "others.py"), peer.workload, str(n)],
        env={**os.environ, **{name: str(value) for name, value in work.settings}},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, errors = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise LeftOut(f"not done after {_TIMEOUT_S} s") from None
    finally:
        _ended(process)
    if process.returncode == MISSING:
        raise LeftOut(f"{errors.strip().splitlines()[-1]} in {python}")
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        raise LeftOut(f"exit {process.returncode}: {(errors.strip() or 'nothing printed').splitlines()[-1]}")
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures


def _ended(process: subprocess.Popen[str]) -> None:
    """Nothing of it runs on beside the next measurement: its whole process group goes."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # the usual case: all of it has ended
    process.communicate()


def ours(work: Work, n: int) -> float:
    """What routilux_mp reaches with the same."""
    return float(run(work.script, work.workload, n, **dict(work.settings))[work.figure])


def compare(work: Work, peers: list[Peer], python: str, turns: int, part: int) -> list[Row]:
    """The rows of one kind of work; ours runs between every two of the others."""
    rows = []
    before = ours(work, work.n // part)
    for peer in peers:
        found, mine, ratios, version = [], [], [], ""
        try:
            for _ in range(turns):
                figures = theirs(peer, work, python, max(4, peer.n // part))
                after = ours(work, work.n // part)
                found.append(figures[work.figure])
                mine.append((before + after) / 2)
                ratios.append(mine[-1] / found[-1])
                before, version = after, figures.get("version", "")
        except LeftOut as reason:
            print(f"{work.what}: {peer.name} is left out: {reason}", file=sys.stderr, flush=True)
            continue
        ratio = statistics.median(ratios)
        row = Row(
            f"{work.what}: {peer.name}", f"{statistics.median(mine):,.0f}{work.unit}",
            f"{statistics.median(found):,.0f}{work.unit} {version}".rstrip(), f"{ratio:,.2f} x",
            "-" if peer.at_least is None else f">= {peer.at_least:g} x",
            None if peer.at_least is None else ratio >= peer.at_least,
        )  # fmt: skip
        rows.append(row)
        print(f"{row.what}: {row.ours} against {row.reference}: {row.figure}", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Measure and print; 1 when ours could not be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the others installed")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="those whose line contains one of these, as in --list"
    )
    parser.add_argument("--turns", type=int, default=1, help="how often each is measured (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the items: does it run at all?")
    parser.add_argument("--list", action="store_true", help="what there is; measures nothing")
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    wanted = [word.lower() for word in options.only or [""]]
    chosen = {
        work: [peer for peer in peers if any(word in f"{work.what}: {peer.name}".lower() for word in wanted)]
        for work, peers in PEERS.items()
    }
    if options.list:
        print("\n".join(f"{work.what}: {peer.name}" for work, peers in chosen.items() for peer in peers))
        return 0
    started = time.monotonic()
    rows: list[Row] = []
    broken = 0
    for work, peers in chosen.items():
        try:
            rows += compare(work, peers, options.python, options.turns, 20 if options.quick else 1) if peers else []
        except Failed as error:
            broken += 1
            print(f"{work.what}: ours could not be measured\n{error}", file=sys.stderr)
    print(f"{machine()}; {time.monotonic() - started:.0f} s\n{as_table(rows)}")
    if options.json:
        Path(options.json).write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n", encoding="utf-8")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
