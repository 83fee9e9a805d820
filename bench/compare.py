"""Two revisions side by side: the same workloads, in turns, and how they differ.

    python bench/compare.py REVISION [OTHER] [--only NAME ...] [--turns N]

OTHER is the working tree unless it is named. Both run the workloads of this folder as it is now. A ratio above 1 means
that OTHER is better; it is taken within each turn, so that what the machine does to both cancels out. Beside the
median of the turns stand the lowest and the highest one, and the ratio of the CPU time of all processes together, which
the load of the machine moves least.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from table import Failed, run  # noqa: E402  (the folder is on the path only since the line above)
from work import calibrated  # noqa: E402


class Workload(NamedTuple):
    """One thing that is measured."""

    script: str
    name: str
    n: int
    figure: str
    is_rate: bool = True
    settings: tuple[tuple[str, object], ...] = ()


_LARGE, _NOTHING_KEPT = ("BENCH_ARRAY_BYTES", 10_000_000), ("BENCH_DURABILITY", "none")
WORKLOADS = {
    "chain": Workload("ours.py", "chain", 200_000, "per_s"),
    "chain-volatile": Workload("ours.py", "chain", 200_000, "per_s", True, (_NOTHING_KEPT,)),
    "small": Workload("ours.py", "cpu", 3000, "per_s", True, (("BENCH_ITERATIONS", 1),)),
    "cpu": Workload("ours.py", "cpu", 400, "per_s", True, (("BENCH_ITERATIONS", 10),)),
    "jobs": Workload("shapes.py", "jobs", 300, "per_s"),
    "hop": Workload("shapes.py", "hop", 200, "us", False),
    "arrays": Workload("shapes.py", "arrays", 30, "mb_per_s", True, (_LARGE,)),
    "arrays-1mb": Workload("shapes.py", "arrays", 200, "mb_per_s", True, (("BENCH_ARRAY_BYTES", 1_000_000),)),
    "arrays-volatile": Workload("shapes.py", "arrays", 30, "mb_per_s", True, (_LARGE, _NOTHING_KEPT)),
    "scaling": Workload("ours.py", "scaling", 200_000, "us_per_activation", False),
    "cold": Workload("ours.py", "cold", 1, "seconds", False),
}


class Turn(NamedTuple):
    """What one run of a workload gave."""

    figure: float
    cpu_s: float


def unpacked(revision: str, folder: Path) -> Path:
    """The package of a revision, below ``folder``; the repository stays as it is."""
    found = subprocess.run(
        ["git", "archive", revision, "routilux_mp"], cwd=HERE.parent, capture_output=True, check=False
    )
    if found.returncode:
        raise SystemExit(f"{revision}: {found.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def measure(workload: Workload, tree: Path, milliseconds_of: float) -> Turn:
    """Run it once on the package in ``tree``."""
    settings = {
        name: int(value * milliseconds_of) if name == "BENCH_ITERATIONS" else value  # type: ignore[operator]
        for name, value in workload.settings
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = run(workload.script, workload.name, workload.n, PYTHONPATH=tree, **settings)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Turn(float(figures[workload.figure]), used)


def compare(workload: Workload, trees: Sequence[Path], turns: int) -> str:
    """One line: both medians, the ratio within the turns and of the CPU time."""
    iterations = calibrated(1)
    first: list[Turn] = []
    second: list[Turn] = []
    for turn in range(turns):
        pair = list(zip(trees, (first, second), strict=True))
        for tree, found in pair if turn % 2 == 0 else reversed(pair):
            found.append(measure(workload, tree, iterations))
    ratios = [b.figure / a.figure if workload.is_rate else a.figure / b.figure for a, b in zip(first, second)]
    cpu = statistics.median(a.cpu_s / b.cpu_s for a, b in zip(first, second))
    medians = [statistics.median(turn.figure for turn in found) for found in (first, second)]
    return (
        f"{workload.figure:18} {medians[0]:12,.2f} {medians[1]:12,.2f} {statistics.median(ratios):8.2f} x"
        f"  ({min(ratios):.2f} - {max(ratios):.2f}) {cpu:8.2f} x"
    )


def main() -> int:
    """Compare what the command line names; 1 when something could not be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="what to compare with, as git knows it")
    parser.add_argument("other", nargs="?", help="another revision; else the working tree")
    parser.add_argument("--only", nargs="+", choices=sorted(WORKLOADS), metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--turns", type=int, default=5, help="how often each is run (default %(default)s)")
    options = parser.parse_args()
    broken = 0
    names = [options.revision, options.other or "working tree"]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        trees = [unpacked(options.revision, Path(folder, "1"))]
        trees.append(unpacked(options.other, Path(folder, "2")) if options.other else HERE.parent)
        print(f"{'':16} {'':18} {names[0][:12]:>12} {names[1][:12]:>12} {'ratio':>10}  (lowest - highest)   CPU time")
        for name in options.only or WORKLOADS:
            try:
                print(f"{name:16} {compare(WORKLOADS[name], trees, options.turns)}", flush=True)
            except Failed as error:
                broken += 1
                print(f"{name:16} could not be measured\n{error}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
