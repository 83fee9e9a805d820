"""The figures, as ratios: every one measured beside its reference, in turns, in one run.

    python bench/table.py [--only NAME ...] [--quick] [--json FILE] [--readme]

Each measurement is a process of its own (``ours.py`` or ``bare.py``); this one only starts them,
takes medians and prints. A figure that misses its goal is printed like any other. The numbers are such that no job is
over before it has found its pace, and all of them take about five minutes on two idle cores; each part says as it ends
how long it took, and its figures. With --quick some jobs are too short for that: their figures are lower.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from work import calibrated, fresh_folder  # noqa: E402  (the folder is on the path only since the line above)


class Row(NamedTuple):
    """One line of the table."""

    what: str
    ours: str
    reference: str
    figure: str
    goal: str
    is_met: bool | None


class Failed(Exception):
    """A workload ended with an error; its output is the message."""


def run(script: str, *arguments: object, **environment: object) -> dict[str, Any]:
    """Run one workload in a fresh process and return the figures it printed."""
    result = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env=_environment(environment), capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    if result.returncode:
        raise Failed(f"{script} {' '.join(map(str, arguments))}: exit {result.returncode}\n{result.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return figures


def _environment(extra: dict[str, object]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    # Compiled modules are kept, as they are for everybody who starts a program twice.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **own,
        "PYTHONPATH": path,
        "BENCH_STARTED": repr(time.time()),
        **{name: str(value) for name, value in extra.items()},
    }


class Measured(dict[str, Any]):
    """The median of each figure, and the turns that they are of."""

    def __init__(self, turns: list[dict[str, Any]]) -> None:
        super().__init__({name: statistics.median(one[name] for one in turns) for name in turns[0]})
        self.turns = turns

    def ratio_to(self, other: Measured, name: str) -> float:
        """Taken within each turn, since a shared machine is faster and slower from minute to minute; the median."""
        return statistics.median(a[name] / b[name] for a, b in zip(self.turns, other.turns, strict=True))


def in_turns(turns: int, *measures: Callable[[], dict[str, Any]]) -> list[Measured]:
    """Run the measures in turns."""
    results: list[list[dict[str, Any]]] = [[] for _ in measures]
    for _ in range(turns):
        for measure, found in zip(measures, results, strict=True):
            found.append(measure())
    return [Measured(found) for found in results]


def chain(quick: bool) -> list[Row]:
    """The durable no-op chain against bare queues, and against itself without durability."""
    n = 20_000 if quick else 300_000
    durable, volatile, bare = in_turns(
        1 if quick else 5,
        lambda: run("ours.py", "chain", n),
        lambda: run("ours.py", "chain", n, BENCH_DURABILITY="none"),
        lambda: run("bare.py", "queue_chain", n),
    )
    return [
        _ratio("no-op chain of 4 processes, durable", durable, "multiprocessing.Queue chain", bare, 3.0),
        _ratio("the same: durable", durable, 'durability="none"', volatile, 0.85),
    ]


def cpu(quick: bool) -> list[Row]:
    """10 ms items on two workers."""
    n, iterations = (100 if quick else 600), calibrated(10)
    ours, pool = in_turns(
        1 if quick else 7,
        lambda: run("ours.py", "cpu", n, BENCH_ITERATIONS=iterations),
        lambda: run("bare.py", "pool_cpu", n, BENCH_ITERATIONS=iterations),
    )
    return [_ratio("10 ms CPU items, 2 workers, durable", ours, "multiprocessing.Pool(2).imap", pool, 1.0)]


def small(quick: bool) -> list[Row]:
    """1 ms items on two workers."""
    n, iterations = (500 if quick else 5000), calibrated(1)
    ours, pool = in_turns(
        1 if quick else 3,
        lambda: run("ours.py", "cpu", n, BENCH_ITERATIONS=iterations),
        lambda: run("bare.py", "pool_cpu", n, BENCH_ITERATIONS=iterations),
    )
    return [_ratio("1 ms CPU items, 2 workers, durable", ours, "multiprocessing.Pool(2).imap", pool, 0.95)]


def stages(quick: bool) -> list[Row]:
    """Stages of 1, 5 and 20 ms: workers="auto" against the best of every sensible fixed number of workers."""
    n, iterations = (60 if quick else 300), calibrated(1)
    fixed = ("1,1,1", "1,1,2", "1,2,2") if quick else ("1,1,1", "1,1,2", "1,2,2", "2,2,2", "1,1,3")

    def with_workers(workers: str) -> dict[str, Any]:
        return run("shapes.py", "stages", n, BENCH_ITERATIONS=iterations, BENCH_WORKERS=workers)

    best = max(fixed, key=lambda workers: with_workers(workers)["per_s"])
    auto, static = in_turns(
        1 if quick else 5, lambda: with_workers("auto,auto,auto"), lambda: with_workers(best)
    )  # fmt: skip
    return [_ratio('stages of 1, 5, 20 ms, workers="auto"', auto, f"best of {len(fixed)} fixed: {best}", static, 0.95)]


def hop(quick: bool) -> list[Row]:
    """The latency of one event in an idle system."""
    n = 50 if quick else 150
    ours, reference = in_turns(
        1 if quick else 3,
        lambda: run("shapes.py", "hop", n),
        lambda: run("shapes.py", "hop_reference", n),
    )
    ratio = ours.ratio_to(reference, "us")
    return [
        Row(
            "one event through one hop, idle, durable", f"{ours['us']:.0f} us",
            f"{reference['us']:.0f} us pipe round trip + one commit", f"{ratio:.2f} x", "<= 2 x", ratio <= 2,
        )
    ]  # fmt: skip


def jobs(quick: bool) -> list[Row]:
    """Many small jobs, begun one after another by one caller."""
    n = 100 if quick else 1000
    ours, queue = in_turns(
        1 if quick else 3,
        lambda: run("shapes.py", "jobs", n),
        lambda: run("shapes.py", "jobs_reference", n),
    )
    rate = ours["per_s"]
    row = _ratio(f"{n:,} small jobs, durable", ours, "SQLite queue, a transaction per step", queue, 1.0)
    return [row, Row("the same", f"{rate:,.0f}/s", "-", f"{rate:,.0f}/s", ">= 200/s", rate >= 200)]


def arrays(quick: bool) -> list[Row]:
    """Large arrays from one process to the next."""
    rows = []
    for label, size, n in (("10 MB", 10_000_000, 60), ("1 MB", 1_000_000, 400)):
        count = n // 6 if quick else n
        extra = {"BENCH_ARRAY_BYTES": size}
        durable, volatile, queue, disk = in_turns(
            1 if quick else 3,
            lambda: run("shapes.py", "arrays", count, **extra),  # noqa: B023 - called at once
            lambda: run("shapes.py", "arrays", count, BENCH_DURABILITY="none", **extra),  # noqa: B023
            lambda: run("shapes.py", "array_queue", count, **extra),  # noqa: B023
            lambda: run("shapes.py", "disk", count, **extra),  # noqa: B023
        )
        for what, ours, name, reference, goal in (
            ('durability="none"', volatile, "multiprocessing.Queue", queue, 1.0),
            ("durable", durable, "file + fsync", disk, 0.8),
        ):
            ratio = ours.ratio_to(reference, "mb_per_s")
            rows.append(
                Row(
                    f"{label} arrays, {what}", f"{ours['mb_per_s']:,.0f} MB/s",
                    f"{reference['mb_per_s']:,.0f} MB/s {name}", f"{ratio:.2f} x", f">= {goal:g} x", ratio >= goal,
                )
            )  # fmt: skip
    return rows


def size(quick: bool) -> list[Row]:
    """Bytes in the log per small activation."""
    found = run("shapes.py", "size", 20_000 if quick else 200_000)["bytes"]
    payload = 11  # {"x": {"i": 100000}} as it is encoded
    limit = 1.5 * payload + 24
    return [
        Row(
            "log bytes per small activation", f"{found:.1f}", f"{payload} of payload", f"{found / payload:.2f} x",
            f"<= {limit:.0f}", found <= limit,
        )
    ]  # fmt: skip


def scaling(quick: bool) -> list[Row]:
    """The cost per activation, in time and in bytes, and the supervisor's memory, at several sizes of one job."""
    sizes: dict[int, int] = {1_000: 3, 100_000: 1} if quick else {1_000: 5, 1_000_000: 3, 10_000_000: 1}
    base_size = 20_000 if quick else 100_000
    rows = []
    for size, turns in sizes.items():
        # Beside each other in time: over minutes a shared machine is slower and faster by more than the goal, and over
        # the half minute of the largest job too.
        before, one, after = in_turns(
            turns,
            lambda: run("ours.py", "scaling", base_size),
            lambda: run("ours.py", "scaling", size),  # noqa: B023 - called at once
            lambda: run("ours.py", "scaling", base_size),
        )
        pairs = zip(before.turns, after.turns, strict=True)
        base = Measured([{name: (a[name] + b[name]) / 2 for name in a} for a, b in pairs])
        cost, other = one["us_per_activation"], base["us_per_activation"]
        ratio = one.ratio_to(base, "us_per_activation")
        rows.append(
            Row(
                f"cost per activation, job of {size:,}", f"{cost:.2f} us, {_beside(one)}",
                f"{other:.2f} us, {_beside(base)} at {base_size:,}",
                f"{ratio:.2f} x, {one['peak_mib']:.0f} MiB", "0.9 - 1.1 x", 0.9 <= ratio <= 1.1,
            )
        )  # fmt: skip
    return rows


def _beside(figures: dict[str, Any]) -> str:
    """What an activation costs besides its time: CPU of all processes until all is quiet, and bytes of the log."""
    return f"CPU {figures['cpu_us_per_activation']:.1f} us, {figures['bytes_per_activation']:.1f} bytes"


def resume(quick: bool) -> list[Row]:
    """Kill the supervisor of a job with many finished activations; new process to first new activation."""
    rows = []
    for n, limit in ((1_000, 2), (100_000, 2)) if quick else ((1_000, 2), (1_000_000, 2), (10_000_000, 3)):
        seconds = _resumed_after(n)
        shown = f"{seconds:.2f} s"
        rows.append(Row(f"resume, {n:,} activations finished", shown, "-", shown, f"<= {limit} s", seconds <= limit))
    return rows


def _resumed_after(n: int) -> float:
    with fresh_folder() as folder:
        gate = Path(folder, "gate")
        jobs = Path(folder, "jobs")
        extra = {"BENCH_GATE": f"{n - 1}:{gate}"}
        for count, workload in enumerate(("gate_start", "gate_resume"), 1):
            started = time.time()
            process = subprocess.Popen(
                [sys.executable, str(HERE / "ours.py"), workload, str(n), str(jobs)], env=_environment(extra)
            )
            try:
                _wait_for_lines(gate, count, process)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        return float(gate.read_text().split()[-1]) - started


def _wait_for_lines(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 1800
    while not path.exists() or len(path.read_text().split()) < count:
        if process.poll() is not None:
            raise Failed(f"the workload ended with {process.returncode} before its gate")
        if time.monotonic() > deadline:
            raise Failed("the gate was not reached in half an hour")
        time.sleep(0.01)


def cold(quick: bool) -> list[Row]:
    """Process start to first result."""
    ours, pool = in_turns(
        3 if quick else 9,
        lambda: run("ours.py", "cold", 1),
        lambda: run("bare.py", "spawn_cold", 1),
    )
    mine, other, ratio = ours["seconds"], pool["seconds"], ours.ratio_to(pool, "seconds")
    what = "cold start to first result, 2 routines, durable"
    name = "ProcessPoolExecutor, fresh processes"
    return [
        Row(what, f"{mine:.3f} s", f"{other:.3f} s {name}", f"{ratio:.1f} x", "<= 2.5 x", ratio <= 2.5),
        Row("the same", f"{mine:.3f} s", "-", f"{mine:.3f} s", "<= 0.25 s", mine <= 0.25),
    ]


def imports(quick: bool) -> list[Row]:
    """Import time over a bare interpreter, and what is installed with the package."""
    turns = 5 if quick else 15
    bare, ours = in_turns(turns, lambda: _timed_python("pass"), lambda: _timed_python("import routilux_mp"))
    milliseconds = (ours["seconds"] - bare["seconds"]) * 1000
    needed = sorted(_closure("routilux-mp"))
    return [
        Row(
            "import routilux_mp", f"{ours['seconds'] * 1000:.0f} ms", f"{bare['seconds'] * 1000:.0f} ms bare python",
            f"{milliseconds:.0f} ms", "<= 100 ms", milliseconds <= 100,
        ),
        Row(
            "distributions installed, itself included", str(len(needed)), "-", str(len(needed)), "<= 7",
            len(needed) <= 7,
        ),
    ]  # fmt: skip


def _timed_python(code: str) -> dict[str, Any]:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=_environment({}), check=True)
    return {"seconds": time.perf_counter() - start}


def _closure(name: str) -> set[str]:
    """The distributions that installing ``name`` without extras brings, itself included."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop().lower().replace("_", "-")
        if one in found:
            continue
        found.add(one)
        try:
            requires = importlib.metadata.requires(one) or []
        except importlib.metadata.PackageNotFoundError:
            raise Failed(f"{one} is not installed here: pip install -e .[bench] first") from None
        waiting += [re.split(r"[ <>=!~;\[(]", line, maxsplit=1)[0] for line in requires if ";" not in line]
    return found


def backpressure(quick: bool) -> list[Row]:
    """A source ten times faster than its consumer: the supervisor's memory."""
    # Both, or neither, run long enough for their views to be written meanwhile, which takes memory for a moment.
    n, less = (100_000, 10_000) if quick else (1_000_000, 500_000)
    slow = calibrated(0.02)
    small = run("ours.py", "backpressure", less, BENCH_SLOW_ITERATIONS=slow)
    large = run("ours.py", "backpressure", n, BENCH_SLOW_ITERATIONS=slow)
    grown = large["peak_mib"] / small["peak_mib"]
    return [
        Row(
            f"supervisor's peak RSS, {n:,} emissions, slow consumer", f"{large['peak_mib']:.0f} MiB",
            f"{small['peak_mib']:.0f} MiB at {less:,}", f"{grown:.2f} x", "<= 1.2 x", grown <= 1.2,
        )
    ]  # fmt: skip


def _ratio(what: str, ours: Measured, other: str, reference: Measured, goal: float) -> Row:
    ratio = ours.ratio_to(reference, "per_s")
    return Row(
        what, f"{ours['per_s']:,.0f}/s", f"{reference['per_s']:,.0f}/s {other}", f"{ratio:.2f} x", f">= {goal:g} x",
        ratio >= goal,
    )  # fmt: skip


FIGURES: dict[str, Callable[[bool], list[Row]]] = {
    f.__name__: f
    for f in (chain, cpu, small, stages, hop, jobs, arrays, size, scaling, resume, cold, imports, backpressure)
}


def as_table(rows: list[Row]) -> str:
    """The rows as an aligned table."""
    lines = [("", "here", "reference", "figure", "goal", "")]
    lines += [(*row[:5], {True: "met", False: "MISSED", None: ""}[row.is_met]) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    out = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    out.insert(1, "-" * (sum(widths) + 10))
    return "\n".join(out)


def machine() -> str:
    """Where the figures come from."""
    return f"CPython {platform.python_version()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def write_readme(rows: list[Row]) -> None:
    """Put the table where the README shows it."""
    page = HERE.parent / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- end of figures -->")
    if not end:
        raise SystemExit(f"{page} has no place for the figures: a line <!-- figures --> and <!-- end of figures -->")
    shown = f"<!-- figures -->\n```\n{machine()}\n\n{as_table(rows)}\n```\n{end}"
    page.write_text(before + shown + after, encoding="utf-8")


def main() -> int:
    """Measure what the command line asks for; 1 when something could not be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(FIGURES), metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--quick", action="store_true", help="smaller numbers, fewer turns")
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    print(machine())
    rows: list[Row] = []
    broken = 0
    started = time.monotonic()
    for name in options.only or FIGURES:
        begun = time.monotonic()
        found: list[Row] = []
        try:
            found = FIGURES[name](options.quick)
        except Failed as error:
            broken += 1
            print(f"{name}: could not be measured\n{error}", file=sys.stderr)
        rows += found
        figures = "".join(f"; {row.figure} of {row.goal}{'' if row.is_met else ' MISSED'}" for row in found)
        print(f"{name}: {time.monotonic() - begun:.0f} s{figures}", file=sys.stderr, flush=True)
    print(f"all of it: {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(as_table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n", encoding="utf-8")
    if options.readme and not broken:
        write_readme(rows)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
