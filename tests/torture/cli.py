"""The command line of the torture: several leaders side by side, and what they met in one table."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import IO, Any

import routilux_mp
from tests.torture.leader import Leader
from tests.torture.mutants import MUTANTS, nothing
from tests.torture.plan import CASES, plan_of, point_of
from tests.torture.points import KINDS, POINTS


def main() -> int:
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=options.dir))
    os.environ["ROUTILUX_MP_KEY_FILE"] = str(folder / "key")
    _warm_up()
    begin = time.monotonic()
    leaders = dict(_start(options, folder, number) for number in range(options.jobs))
    total = _Total(options)
    pipes = list(leaders)
    try:
        _hear(pipes, total)
    except KeyboardInterrupt:  # they break off what they do, and say what they have met
        for pid in leaders.values():
            os.kill(pid, signal.SIGTERM)
        _hear(pipes, total)
    for pid in leaders.values():
        total.broken += os.waitpid(pid, 0)[1] != 0
    total.tell(time.monotonic() - begin)
    if not total.broken:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if total.broken else 0


def _hear(pipes: list[IO[str]], total: _Total) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    while pipes:
        for pipe in select.select(pipes, (), ())[0]:
            line = pipe.readline()
            if line:
                total.take(json.loads(line))
            else:
                pipe.close()
                pipes.remove(pipe)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/torture",
        description="Real processes on a real directory; faults at every operation of the store; an independent judge.",
        epilog=f"{len(CASES)} runs in a row aim at every point with every kind of fault once.",
    )
    parser.add_argument("--runs", type=int, default=len(CASES), help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next one's is one more")
    parser.add_argument(
        "--at", nargs="+", choices=POINTS, metavar="POINT", help="leave out the seeds that aim at another point"
    )
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no run after so long; 0: no limit")
    parser.add_argument("--limit", type=float, default=120.0, help="of a single run, seconds (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many at once (default: %(default)s)")
    parser.add_argument("--dir", help="where the directories are made (default: the system's for such things)")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="a store that is broken on purpose, to be found")
    parser.add_argument(
        "--all-points", action="store_true", help="a point that was never hit, or has no name, is a failure"
    )
    parser.add_argument("--verbose", action="store_true", help="say what each run met")
    return parser.parse_args()


def _warm_up() -> None:
    """What the processes of a run would import one by one: here once, for all of them."""
    for name in ("filelock", "watchdog.observers", "multiprocess.spawn", "multiprocess.util"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(routilux_mp.__path__, "routilux_mp."):
        if not module.name.startswith(("routilux_mp.cli", "routilux_mp.demo")):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def _start(options: argparse.Namespace, folder: Path, number: int) -> tuple[IO[str], int]:
    """One leader in a process of its own: what it tells, line by line, and its process id."""
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return os.fdopen(read, "r"), pid
    status = 1
    try:
        os.close(read)
        # Told to end, it ends the processes of its run first.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _lead(options, folder / f"leader-{number}", number, write)
        status = 0
    except KeyboardInterrupt:
        status = 0  # it was told to
    except BaseException:  # nothing may return into what the parent does
        traceback.print_exc()
    finally:
        os._exit(status)


def _lead(options: argparse.Namespace, folder: Path, number: int, write: int) -> None:
    folder.mkdir()
    os.chdir(folder)
    begin = time.monotonic()
    mutant = MUTANTS[options.mutant] if options.mutant else None
    leader = Leader(folder, options.limit, mutant.break_it if mutant is not None else nothing)
    try:
        seeds = range(options.seed, options.seed + options.runs)
        aimed = [seed for seed in seeds if options.at is None or point_of(seed) in options.at]
        for seed in aimed[number :: options.jobs]:
            if options.seconds and time.monotonic() - begin > options.seconds:
                break
            plan = plan_of(seed) if mutant is None else mutant.plan_of(seed)
            outcome = leader.run(plan)
            told = {"seed": seed, "wrong": outcome.wrong, "faults": outcome.faults, "folder": str(outcome.folder)}
            _tell(write, told | {"wall_s": outcome.wall_s, "plan": str(plan) if outcome.wrong else ""})
            if mutant is not None and outcome.wrong:
                break  # it is found
    finally:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in used)
        _tell(write, {"hits": leader.points.hits(), "unknown": sorted(leader.unknown), "cpu_s": cpu_s})


def _tell(write: int, told: dict[str, Any]) -> None:
    data = json.dumps(told).encode() + b"\n"
    while data:
        data = data[os.write(write, data) :]


class _Total:
    """What all leaders met."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._struck: Counter[tuple[str, str]] = Counter()
        self._hits: Counter[str] = Counter()
        self._unknown: set[str] = set()
        self._runs = 0
        self._cpu_s = 0.0
        self.broken = 0

    def take(self, told: dict[str, Any]) -> None:
        if "hits" in told:
            self._hits.update(told["hits"])
            self._unknown.update(told["unknown"])
            self._cpu_s += told["cpu_s"]
            return
        self._runs += 1
        self._struck.update((point, kind) for point, kind in told["faults"])
        if told["wrong"]:
            self.broken += 1
            print(f"seed {told['seed']} is wrong ({told['folder']}):")
            print(*(f"  {line}" for line in told["wrong"]), f"  {told['plan']}", sep="\n", flush=True)
        if self._options.verbose:
            met = ", ".join(f"{kind} at {point}" for point, kind in told["faults"])
            print(f"seed {told['seed']}: {told['wall_s']:.2f} s; {met or 'nothing'}", flush=True)

    def tell(self, wall_s: float) -> None:
        options, runs = self._options, max(1, self._runs)
        print(f"{'point':32} {'hits':>9}  " + "".join(f"{kind:>7}" for kind in KINDS))
        for point in POINTS:
            struck = "".join(f"{self._struck[point, kind]:7}" for kind in KINDS)
            print(f"{point:32} {self._hits[point]:9}  {struck}")
        never = [point for point in POINTS if not self._hits[point]]
        if self._unknown:
            self.broken += options.all_points
            print(f"points that the table does not have: {', '.join(sorted(self._unknown))}")
        if never:
            self.broken += options.all_points
            print(f"never hit: {', '.join(never)}")
        print(
            f"{self._runs} runs from seed {options.seed}, {self._struck.total()} faults struck, {self.broken} broken; "
            f"{wall_s:.0f} s, {1000 * self._cpu_s / runs:.0f} ms of CPU time a run"
        )
