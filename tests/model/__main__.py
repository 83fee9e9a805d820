"""`python -m tests.model`: explore the safe protocol in any size, with or without the shortcut for standbys."""

from __future__ import annotations

import argparse
import sys

from tests.model.explorer import Explorer
from tests.model.state import Rules, Size


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description="Explore every reachable state.")
    for name, value in (("processes", 3), ("tasks", 2), ("epochs", 3), ("crashes", 1)):
        parser.add_argument(f"--{name}", type=int, default=value, help="(default: %(default)s)")
    parser.add_argument("--sleeping", action="store_true", help="a standby that sleeps is a state of its own")
    options = parser.parse_args()
    size = Size(options.processes, options.tasks, options.epochs, options.crashes, options.sleeping)
    result = Explorer(Rules(), size).run()
    print(f"{size}: {result.states:,} states, {result.transitions:,} transitions: {result.violation or 'safe'}")
    print("\n".join(result.trace))
    return 1 if result.violation else 0


if __name__ == "__main__":
    sys.exit(main())
