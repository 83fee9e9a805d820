"""Other systems on this machine, beside ours, in one run.

    python bench/peers.py --python PYTHON [--only NAME ...] [--json FILE]

PYTHON is an interpreter that has them installed; their workloads are read from ``../shared/peers`` beside the
repository. One that is not installed is left out and said so. No-op chain of three stages: handler runs per second
after the source, as many items as keep each busy for some seconds. Arrays: megabytes per second from stage to stage.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from table import Failed, run  # noqa: E402  (the folder is on the path only since the line above)

PEERS = HERE.parent.parent / "shared" / "peers"


class Peer(NamedTuple):
    """One workload of another system."""

    name: str
    script: str
    workload: str
    n: int
    variant: str
    is_durable: bool = False


PEERS_OF_CHAIN = (
    Peer("bare multiprocessing.Queue per hop", "bench_rawq.py", "W1", 50_000, "queue"),
    Peer("multiprocessing.Pool.imap, item by item", "bench_mp.py", "W1", 20_000, "pool1"),
    Peer("ProcessPoolExecutor, item by item", "bench_mp.py", "W1", 5_000, "ppe"),
    Peer("bytewax, item by item", "bench_bytewax.py", "W1", 30_000, "b1"),
    Peer("bytewax, batches of 64", "bench_bytewax.py", "W1", 200_000, "b64"),
    Peer("Dask", "bench_dask.py", "W1", 1_000, ""),
    Peer("Ray actors", "bench_ray.py", "W1", 3_000, "actors"),
    Peer("bytewax with its recovery store", "bench_bytewax.py", "W4", 20_000, "b64s0", True),
    Peer("huey, SQLite with fsync", "bench_huey.py", "W4", 1_500, "sqlite_fsync", True),
    Peer("DBOS, SQLite", "bench_dbos.py", "W4", 500, "sqlite_loop", True),
)
PEERS_OF_ARRAYS = (
    Peer("Ray object store, 10 MB", "bench_ray.py", "W3", 40, "tasks"),
    Peer("Ray object store, 1 MB", "bench_ray.py", "W3s", 200, "tasks"),
)


def measure(peer: Peer, python: str) -> dict[str, Any] | None:
    """The figures it prints; None when it cannot be run here."""
    command = [python, str(PEERS / peer.script), peer.workload, str(peer.n), *filter(None, [peer.variant])]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=PEERS)
    lines = [line for line in found.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"{peer.name}: left out: {found.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures


def ours() -> dict[str, float]:
    """The same on routilux_mp: the median of three runs each."""
    found = {}
    for durability in ("commit", "none"):
        rates = sorted(run("ours.py", "chain", 200_000, BENCH_DURABILITY=durability)["per_s"] for _ in range(3))
        found[durability] = rates[1]
        for size in (10_000_000, 1_000_000):
            n = 40 if size > 1_000_000 else 200
            extra = {"BENCH_DURABILITY": durability, "BENCH_ARRAY_BYTES": size}
            rates = sorted(run("shapes.py", "arrays", n, **extra)["mb_per_s"] for _ in range(3))
            found[f"{durability} {size}"] = rates[1]
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the others installed")
    parser.add_argument("--only", nargs="+", help="those whose name contains one of these")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if not PEERS.is_dir():
        print(f"nothing to compare with: {PEERS} is not there", file=sys.stderr)
        return 0
    mine = ours()
    figures: dict[str, float] = {f"routilux_mp {name}": rate for name, rate in mine.items()}
    print(f"{'routilux_mp, durable':45s} {mine['commit']:>12,.0f} /s")
    print(f"{'routilux_mp, durability=none':45s} {mine['none']:>12,.0f} /s")
    for peer in (*PEERS_OF_CHAIN, *PEERS_OF_ARRAYS):
        if options.only and not any(word in peer.name for word in options.only):
            continue
        found = measure(peer, options.python)
        if found is None:
            continue
        if peer in PEERS_OF_ARRAYS:
            rate = found["extra"]["mb_per_s"]
            reference = mine["none 10000000" if peer.workload == "W3" else "none 1000000"]
            unit, against = "MB/s", "durability=none"
        else:
            rate, unit, reference = found["per_s"], "/s", mine["commit"]
            against = "durable"
        figures[peer.name] = rate
        print(f"{peer.name:45s} {rate:>12,.0f} {unit:4s}  ours, {against}: {reference / rate:,.1f} x", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(error, file=sys.stderr)
        sys.exit(1)
