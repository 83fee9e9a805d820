"""How acceptance tests run programs: as a user would, in a folder and a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user's environment: the package is importable, checkpoints and key are private to the test."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROUTILUX_MP_")}
    return {
        **clean,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "ROUTILUX_MP_KEY_FILE": str(tmp_path / "key"),
    }


@pytest.fixture
def python(tmp_path: Path, environment: dict[str, str]) -> Program:
    """Run the interpreter with these arguments, in the test's folder."""

    def run(*arguments: object, stdin: str = "", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture
def rmp(python: Program) -> Program:
    """Run the command line."""
    return lambda *arguments, **options: python("-m", "routilux_mp.cli", *arguments, **options)
