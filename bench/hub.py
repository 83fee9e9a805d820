"""More than two cores: how many workers one supervisor can feed, measured and by a model.

    python bench/hub.py [--quick] [--seconds S] [--json FILE]

All that a job does passes through one process, the hub. Workers that sleep instead of burning CPU keep it as busy as
real ones, and many of them fit on two cores: so its CPU time is measured directly, with up to 32 workers. The model is
fitted to all runs together, by relative least squares without negative costs:

    CPU of the hub = a * reports + b * items + c * commits

and says where one core of it is full, and what the hub leaves of linear growth: N workers on N cores, the hub beside
them. Per item of length t the cores give t + h of their time, h the hub's share, and the hub no more than one core.
What the workers themselves pay per item (`worker.py`: about 1 us) is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from table import Failed, machine, run  # noqa: E402  (the folder is on the path only since the line above)

SECONDS = 3.0
#: The workers whose rows are shown as they are; the last one is where the model starts from for more of them.
WORKERS = (2, 4, 8, 16, 32)


class Case(NamedTuple):
    """One run: how many workers, how long their items, and what is not at its default."""

    workers: int
    item_ms: float
    settings: tuple[tuple[str, object], ...] = ()


SHOWN = tuple(Case(workers, 1) for workers in WORKERS)
#: So that items, reports and commits do not rise together, and the fit can tell them apart.
OTHERS = (
    Case(8, 1, (("ROUTILUX_MP_FLUSH_MS", 1),)),
    Case(8, 1, (("ROUTILUX_MP_FLUSH_MS", 20),)),
    Case(8, 1, (("ROUTILUX_MP_FLUSH_MS", 20), ("ROUTILUX_MP_WORKER_AHEAD_MS", 80))),
    Case(32, 1, (("ROUTILUX_MP_FLUSH_MS", 20), ("ROUTILUX_MP_WORKER_AHEAD_MS", 80))),
    Case(2, 0.1),
    Case(4, 0.1),
    Case(8, 10),
    Case(32, 10),
)


class Run(NamedTuple):
    """What came of a case."""

    case: Case
    seconds: float
    cpu_s: float
    items: int
    reports: int
    commits: int
    item_s: float

    @property
    def counts(self) -> tuple[int, int, int]:
        """What the model is made of."""
        return self.reports, self.items, self.commits

    @property
    def of_linear(self) -> float:
        """Items per second, of what so many bare loops would reach."""
        return self.items / self.seconds * self.item_s / self.case.workers

    @property
    def us_per_item(self) -> float:
        """CPU of the hub."""
        return self.cpu_s / self.items * 1e6


def measured(case: Case, seconds: float) -> Run:
    """Run a case for about so long."""
    items = max(100, int(seconds * case.workers / (case.item_ms + 0.08) * 1000))  # a sleep is longer than asked for
    extra = {"BENCH_WORKERS": case.workers, "BENCH_ITEM_MS": case.item_ms, **dict(case.settings)}
    found = run("hub_flow.py", items, **extra)
    return Run(case, found["seconds"], found["cpu_s"], items, found["reports"], found["commits"], found["item_s"])


def fitted(runs: Sequence[Run]) -> tuple[float, float, float]:
    """Seconds per report, per item and per commit: least squares of the relative errors, none below zero."""
    rows = [[count / one.cpu_s for count in one.counts] for one in runs]
    used = [0, 1, 2]
    while True:
        matrix = [[sum(row[i] * row[j] for row in rows) for j in used] for i in used]
        costs = _solved(matrix, [sum(row[i] for row in rows) for i in used])
        if min(costs) >= 0:
            found = dict(zip(used, costs, strict=True))
            return found.get(0, 0.0), found.get(1, 0.0), found.get(2, 0.0)
        del used[costs.index(min(costs))]


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss with pivots: three equations at most."""
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda j: abs(rows[j][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j, row in enumerate(rows):
            if j != i:
                rows[j] = [value - row[i] * own for value, own in zip(row, rows[i], strict=True)]
    return [row[-1] for row in rows]


class Model:
    """What the fit says about items of a millisecond, with as many per report and commits a second as were measured."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.per_report, self.per_item, self.per_commit = fitted(runs)
        self.shown = [one for one in runs if one.case in SHOWN]

    def of(self, run: Run) -> float:
        """CPU seconds of the hub in a run."""
        return sum(cost * n for cost, n in zip((self.per_report, self.per_item, self.per_commit), run.counts))

    def item_s(self, workers: float) -> float:
        """CPU of the hub per item of a millisecond: from the runs to both sides of that many workers."""
        points = [(one.case.workers, self.of(one) / one.items) for one in self.shown]
        below = [point for point in points if point[0] <= workers] or points[:1]
        above = [point for point in points if point[0] >= workers] or points[-1:]
        (low, first), (high, last) = below[-1], above[0]
        return first if low == high else first + (last - first) * (workers - low) / (high - low)

    def efficiency(self, workers: float, item_s: float = 1e-3) -> float:
        """Items per second of N workers on N cores, of N times those of one bare loop."""
        hub_s = self.item_s(workers)
        return min(item_s / (item_s + hub_s), item_s / hub_s / workers)

    def saturated_by(self, item_s: float = 1e-3) -> int:
        """So many workers fill one core of the hub, if nothing slows them."""
        workers = 1
        while workers * self.item_s(workers) < item_s and workers < 10_000:
            workers += 1
        return workers


def shown(runs: Sequence[Run], model: Model) -> str:
    """What was measured, and what follows from it."""
    lines = ["workers  item ms  items/s  of linear  items/report  commits/s  hub us/item  model  error  hub, cores"]
    for one in runs:
        by_model = model.of(one) / one.items * 1e6
        lines.append(
            f"{one.case.workers:7d}  {one.case.item_ms:7g}  {one.items / one.seconds:7,.0f}  {one.of_linear:8.0%}"
            f"   {one.items / one.reports:12.1f}  {one.commits / one.seconds:9.1f}  {one.us_per_item:11.1f}"
            f"  {by_model:5.1f}  {by_model / one.us_per_item - 1:+5.0%}  {one.cpu_s / one.seconds:10.2f}"
            + "".join(f"  {name.removeprefix('ROUTILUX_MP_').lower()}={value}" for name, value in one.case.settings)
        )
    costs = (model.per_report, model.per_item, model.per_commit)
    lines += [
        "",
        "fit: {:.1f} us per report + {:.2f} us per item + {:.0f} us per commit".format(*(cost * 1e6 for cost in costs)),
        f"one core of the hub is full with {model.saturated_by()} workers on items of 1 ms",
        "by the model, N workers on N cores, items of 1 ms: "
        + ", ".join(f"{n}: {model.efficiency(n):.0%}" for n in (4, 8, 16, 32, 64)),
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of each run (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few short runs: does it work at all?")
    parser.add_argument("--json", metavar="FILE", help="write the runs and the fit there too")
    options = parser.parse_args()
    seconds = 0.2 if options.quick else options.seconds
    cases = (*SHOWN[:2], *OTHERS[:2], OTHERS[-2]) if options.quick else (*SHOWN, *OTHERS)
    try:
        runs = [measured(case, seconds) for case in cases]
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    model = Model(runs)
    print(f"{machine()}\n{shown(runs, model)}")
    if options.json:
        document = {
            "runs": [one._asdict() | {"case": one.case._asdict()} for one in runs],
            "fit": {"report": model.per_report, "item": model.per_item, "commit": model.per_commit},
            "saturated_by": model.saturated_by(),
            "efficiency": {n: model.efficiency(n) for n in (4, 8, 16, 32, 64)},
        }
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
