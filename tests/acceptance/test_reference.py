"""The reference page says what the docstrings say, and the migration page names nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import routilux_mp
from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp.settings import Settings
from tests.acceptance.conftest import Program

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_is_up_to_date(python: Program) -> None:
    done = python(ROOT / "scripts" / "reference", "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_public_name_has_its_line() -> None:
    text = (ROOT / "docs" / "reference" / "README.md").read_text(encoding="utf-8")
    written = set(re.findall(r"`(\w+)", text))
    assert [name for name in routilux_mp.__all__ if name not in written] == []
    assert [name for name in Settings._fields if name not in written] == []


def test_the_migration_page_names_what_is_there() -> None:
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    homes = {"Flow": Flow, "JobState": JobState, "Routine": Routine, "Runtime": Runtime}
    calls = re.findall(r"`(Flow|JobState|Routine|Runtime)\.(\w+)", text)
    assert len(calls) > 5
    assert [f"{home}.{name}" for home, name in calls if not hasattr(homes[home], name)] == []
    settings = set(re.findall(r"`(\w+_(?:s|ms|max|dir|file))(?:=[^`]*)?`", text)) - {"timeout_s"}
    assert settings <= {*Settings._fields}
