"""A minute of ``scripts/torture``, and the proof that it would find what it looks for.

It runs in an interpreter of its own: what it forks from must be single-threaded, which a test's process is not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.mutants import MUTANTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 60
#: What shows a mutant is a matter of chance, after that of its making: the first run or one of the next.
_RUNS = 12


def torture(folder: Path, *options: object) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.torture", "--dir", str(folder), *map(str, options)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=380, check=False)
    return done.returncode, done.stdout + done.stderr


def test_nothing_is_lost_doubled_or_left_behind(tmp_path: Path) -> None:
    code, said = torture(tmp_path, "--seconds", _SECONDS, "--runs", 10_000, "--jobs", 1)
    assert code == 0, said
    found = re.search(r"^(\d+) runs from seed 0, \d+ faults struck, 0 broken", said, re.MULTILINE)
    assert found is not None, said
    assert int(found[1]) >= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in MUTANTS if name != "nothing"])
def test_a_broken_store_is_found(name: str, tmp_path: Path) -> None:
    code, said = torture(tmp_path, "--mutant", name, "--runs", _RUNS, "--jobs", 1, "--limit", 40)
    assert code == 1, said
    assert "is wrong" in said
    # Found by what was lost, not by somebody who did not come to an end.
    assert "acknowledged and lost" in said or "does not end as the next one says" in said, said


def test_what_the_broken_stores_are_shown_with_is_not_wrong_by_itself(tmp_path: Path) -> None:
    code, said = torture(tmp_path, "--mutant", "nothing", "--runs", 4, "--jobs", 1)
    assert code == 0, said
    assert "4 faults struck, 0 broken" in said
