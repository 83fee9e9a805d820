"""What measures still runs: each workload and command of ``bench/`` once, with next to no work. No figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("numpy", reason="workloads with arrays need it: pip install -e .[test]")

ROOT = Path(__file__).resolve().parent.parent.parent
WORKLOADS = {
    "ours.py": ("chain", "cpu", "scaling", "backpressure", "cold"),
    "shapes.py": ("hop", "hop_reference", "jobs", "jobs_reference", "arrays", "array_queue", "disk", "stages", "size"),
    "bare.py": ("queue_chain", "pool_cpu", "pool_cold", "spawn_cold"),
    "others.py": ("pool", "executor", "copy"),
    "hub_flow.py": ("20",),
}


def _ran(*command: str, exit_code: int = 0, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A script of the folder, run to its end."""
    own = {"PYTHONPATH": str(ROOT), "BENCH_ITERATIONS": "100", "BENCH_ARRAY_BYTES": "100000"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        [sys.executable, *before, *command],
        cwd=ROOT / "bench", env=environment | own, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert result.returncode == exit_code, f"{command}: exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.mark.parametrize(("script", "name"), [(script, name) for script, names in WORKLOADS.items() for name in names])
def test_a_workload_prints_its_figures(script: str, name: str) -> None:
    figures = json.loads(_ran(script, name, "4").stdout.splitlines()[-1])
    assert figures
    assert all(isinstance(figure, int | float) for figure in figures.values()), figures


def test_the_parts_can_be_measured() -> None:
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly", "--benchmark-disable")
    last = _ran("-m", "pytest", *options, ".").stdout.strip().splitlines()[-1]
    assert "passed" in last
    assert "failed" not in last
    assert "error" not in last


def test_a_system_that_is_not_installed_is_left_out() -> None:
    found = _ran("others.py", "luigi", "4", exit_code=3, before=("-S",))  # -S: no installed packages
    assert found.stderr.strip() == "not installed: luigi"


def test_peers_stand_beside_ours() -> None:
    found = _ran("peers.py", "--quick", "--only", "10 MB arrays", "ours durable: luigi")
    assert "a plain copy in one process" in found.stdout
    for name in ("Ray object store", "joblib memmapping", "Luigi"):
        assert name in found.stdout or f"{name} is left out: " in found.stderr


def test_every_peer_is_a_workload() -> None:
    listed = _ran("peers.py", "--list").stdout.splitlines()
    assert len(listed) == len(set(listed)) > 15
    missing = "[p.name for some in peers.PEERS.values() for p in some if not hasattr(others, p.workload)]"
    assert _ran("-c", f"import others, peers; print({missing})").stdout.strip() == "[]"


def test_the_table_has_a_row_and_says_how_long_it_took() -> None:
    found = _ran("table.py", "--quick", "--only", "hop")
    assert "one event through one hop" in found.stdout
    assert [line.partition(":")[0] for line in found.stderr.splitlines()] == ["hop", "all of it"]


def test_the_cores_are_measured_beside_bare_loops_and_a_pool() -> None:
    lines = _ran("cores.py", "--quick", "--items", "1", "--workers", "1", "auto").stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["1", "1"], ["1", "auto"]]
    loops, ours, _, pool = (float(text.strip("%").replace(",", "")) for text in lines[2].split()[2:6])
    assert min(loops, ours, pool) > 0


def test_the_hub_is_measured_and_fitted() -> None:
    found = _ran("hub.py", "--quick").stdout
    assert "us per report" in found
    assert "one core of the hub is full with" in found
