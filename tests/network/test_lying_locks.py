"""File locks that exclude nobody, as on NFSv3 `nolock` and on sshfs: they are politeness, nothing depends on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.failover.cluster import Cluster
from tests.network import scenarios

pytestmark = pytest.mark.slow

#: Runs what follows on its command line, in a process where flock succeeds and does nothing; it keeps a note of each.
UNLOCKED = """
import fcntl, os, runpy, sys

notes = sys.argv[1]

def flock(fd, operation):
    with open(notes, "a") as file:
        file.write(f"{os.getpid()} {operation}\\n")

fcntl.flock = flock
sys.argv = sys.argv[2:]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""

#: Whether two locks of one file can be held at once.
TWICE = """
from filelock import FileLock, Timeout
with FileLock("some.lock", fallback_to_soft=False):
    try:
        with FileLock("some.lock", timeout=0, fallback_to_soft=False):
            print("both")
    except Timeout:
        print("one")
"""


def test_the_lock_excludes_and_the_patched_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "unlocked.py").write_text(UNLOCKED)
    (tmp_path / "twice.py").write_text(TWICE)
    said = [
        subprocess.run([sys.executable, *under, "twice.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
        for under in ((), ("unlocked.py", str(tmp_path / "notes")))
    ]
    assert [run.stdout for run in said] == ["one\n", "both\n"]


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.a_zombie_is_fenced,
        scenarios.of_two_standbys_one_wins,
        scenarios.a_hand_over_runs_nothing_twice,
        scenarios.of_many_takers_one_wins_each_job,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_with_locks_that_lie(tmp_path: Path, scenario: Callable[[Cluster], None]) -> None:
    (tmp_path / "unlocked.py").write_text(UNLOCKED)
    notes = tmp_path / "notes"
    with Cluster(tmp_path, under=("unlocked.py", str(notes)), lease_s=scenarios.LEASE_S) as cluster:
        scenario(cluster)
    assert notes.read_text(), "the lock was not in play"
