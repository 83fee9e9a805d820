"""``scripts/simulate``: as many seeds as one likes, and any one of them again."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from .audit import Broken
from .world import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description="Run whole jobs in simulation, one per seed.")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (default: %(default)s)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="print what happened")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    begin, seen, broken = time.monotonic(), Counter[str](), 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            summary = simulate(seed)
            seen.update(summary.seen)
            seen.update(summary.statuses)
        except Broken as error:
            broken += 1
            print(f"{error}\n  again: scripts/simulate --from {seed} --seeds 1", file=sys.stderr)
    took = time.monotonic() - begin
    print(f"{options.seeds} seeds, {broken} broken, {took:.1f} s, {took / max(1, options.seeds) * 1000:.1f} ms each")
    if options.verbose:
        for name, count in sorted(seen.items()):
            print(f"  {count:9} {name}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
