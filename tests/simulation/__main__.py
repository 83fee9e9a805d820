"""``scripts/simulate``: as many seeds as one likes, and any one of them again."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable

from routilux_mp.errors import RoutiluxError

from . import store_sim, world
from .audit import Broken


def _job(seed: int) -> Iterable[str]:
    summary = world.simulate(seed)
    return [*summary.seen.elements(), *summary.statuses]


def _store(seed: int) -> Iterable[str]:
    return Counter(store_sim.simulate(seed).met()).elements()


#: What there is to simulate: what a seed does, by name; it gives the names of what happened.
KINDS: dict[str, Callable[[int], Iterable[str]]] = {"jobs": _job, "store": _store}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate",
        description="Jobs under crashes of workers and supervisors; the store under several owners. One run a seed.",
    )
    parser.add_argument("kind", nargs="?", choices=KINDS, help="only this (default: both)")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many of each (default: %(default)s)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="count what happened")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    kinds = [options.kind] if options.kind else list(KINDS)
    broken = [_run(kind, range(options.first, options.first + options.seeds), options.verbose) for kind in kinds]
    return 1 if any(broken) else 0


def _run(kind: str, seeds: range, is_verbose: bool) -> int:
    begin, seen, broken = time.monotonic(), Counter[str](), 0
    for seed in seeds:
        try:
            seen.update(KINDS[kind](seed))
        except (Broken, AssertionError, RoutiluxError, OSError, ValueError, KeyError) as error:
            broken += 1
            lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
            print("\n  ".join([*lines, f"again: scripts/simulate {kind} --from {seed} --seeds 1"]), file=sys.stderr)
    took = time.monotonic() - begin
    print(f"{kind}: {len(seeds)} seeds, {broken} broken, {took:.1f} s, {took / max(1, len(seeds)) * 1000:.1f} ms each")
    if is_verbose:
        for name, count in sorted(seen.items()):
            print(f"  {count:9} {name}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
