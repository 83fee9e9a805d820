"""As many workers as cores, burning CPU: what the machine's cores give, what ours gets out of them, what a pool does.

    python bench/cores.py [--seconds S] [--turns N] [--items MS ...] [--workers N ...] [--quick] [--json FILE]

Three programs in turns, each a process of its own: so many bare loops that share the items and talk to nobody (linear
growth on this machine, where it slows its cores down when all are busy), ours with that many workers on a durable job,
and ``multiprocessing.Pool.imap``, item by item. Ours needs its supervisor, its source and its sink beside the workers.
``auto`` lets ours choose, from a job's first item on, up to the machine's cores. ``hub.py`` has a model for more cores
than there are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from table import Failed, in_turns, machine, run  # noqa: E402  (the folder is on the path only since the line above)
from work import calibrated  # noqa: E402

SECONDS = 2.0
ITEMS_MS = (1.0, 10.0)


class Line(NamedTuple):
    """What came of one number of workers; rates in items per second, the hub's CPU in cores."""

    item_ms: float
    workers: str
    loops_per_s: float
    ours_per_s: float
    pool_per_s: float
    of_linear: float
    of_pool: float
    hub_cores: float


def measured(item_ms: float, workers: str, seconds: float, turns: int) -> Line:
    """The three programs in turns."""
    at_once = os.cpu_count() or 1 if workers == "auto" else int(workers)
    iterations = calibrated(item_ms)
    # A multiple of the workers: otherwise the last round of a pool of 16 has work for a few of them only.
    n = max(4, int(seconds * 1000 / item_ms)) * at_once
    settings: dict[str, Any] = {"BENCH_ITERATIONS": iterations}
    loops, ours, pool = in_turns(
        turns,
        lambda: run("bare.py", "loops", n, **settings, BENCH_WORKERS=at_once),
        lambda: run("ours.py", "cpu", n, **settings, BENCH_WORKERS=workers),
        lambda: run("bare.py", "pool_cpu", n, **settings, BENCH_WORKERS=at_once),
    )
    return Line(
        item_ms, workers, loops["per_s"], ours["per_s"], pool["per_s"], ours.ratio_to(loops, "per_s"),
        ours.ratio_to(pool, "per_s"), ours["hub_cpu_s"] / ours["seconds"],
    )  # fmt: skip


def numbers(cores: int) -> list[str]:
    """1, 2, 4 ... workers up to the cores, and the choice of ours."""
    found = [1]
    while found[-1] * 2 < cores:
        found.append(found[-1] * 2)
    return [*map(str, sorted({*found, cores})), "auto"]


def shown(line: Line) -> str:
    """A row of the table."""
    return (
        f"{line.item_ms:7g}  {line.workers:>7}  {line.loops_per_s:9,.0f}  {line.ours_per_s:9,.0f}"
        f"  {line.of_linear:9.1%}  {line.pool_per_s:9,.0f}  {line.of_pool:6.2f} x  {line.hub_cores:10.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, and print each line as it comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of each run (default %(default)s)")
    parser.add_argument("--turns", type=int, default=1, help="the median of so many (default %(default)s)")
    parser.add_argument("--items", type=float, nargs="+", default=ITEMS_MS, metavar="MS", help="lengths of the items")
    parser.add_argument(
        "--workers", nargs="+", metavar="N", help="numbers of workers, or auto (default: up to the cores)"
    )
    parser.add_argument("--quick", action="store_true", help="a few short runs: does it work at all?")
    parser.add_argument("--json", metavar="FILE", help="write the lines there too")
    options = parser.parse_args(arguments)
    seconds = 0.2 if options.quick else options.seconds
    workers = options.workers or numbers(os.cpu_count() or 1)
    print(f"{machine()}\nitem ms  workers    loops/s     ours/s  of linear     pool/s  of pool  hub, cores", flush=True)
    lines = []
    for item_ms in options.items:
        for number in workers:
            try:
                lines.append(measured(item_ms, number, seconds, options.turns))
            except Failed as error:
                print(error, file=sys.stderr)
                return 1
            print(shown(lines[-1]), flush=True)
    if options.json:
        document = json.dumps([line._asdict() for line in lines], indent=2)
        Path(options.json).write_text(document + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
