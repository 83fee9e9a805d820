"""Where a setting may come from in the project's own file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from routilux_mp.errors import SettingInvalid
from routilux_mp.settings import Settings


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROUTILUX_MP_MAX_CRASHES", raising=False)
    return tmp_path / "pyproject.toml"


@pytest.mark.parametrize(
    "text",
    [
        "[tool.routilux_mp]\nmax_crashes = 7\n",
        "[ tool . 'routilux_mp' ]\nmax_crashes = 7\n",
        '["tool"."routilux_mp"]\r\nmax_crashes = 7\r\n',
        "tool.routilux_mp.max_crashes = 7\n",
        "[tool]\nroutilux_mp.max_crashes = 7\n",
        "['tool' ]\nroutilux_mp = {max_crashes = 7}\n",
        "tool = {routilux_mp = {max_crashes = 7}}\n",
    ],
)
def test_every_way_to_write_the_table_is_read(project: Path, text: str) -> None:
    project.write_bytes(text.encode())
    assert Settings.load().max_crashes == 7


def test_a_file_that_does_not_concern_us_is_not_parsed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text('[project]\nname = "routilux_mp"\n[tool.ruff]\nsrc = ["routilux_mp"]\nnot TOML')
    monkeypatch.setitem(sys.modules, "tomllib", None)  # importing it fails
    assert Settings.load().max_crashes == Settings().max_crashes


@pytest.mark.parametrize("content", [b"[tool.routilux_mp]\nnot TOML", b"[tool.routilux_mp]\nkey_file = '\xff'"])
def test_one_that_cannot_be_read_is_named(project: Path, content: bytes) -> None:
    project.write_bytes(content)
    with pytest.raises(SettingInvalid, match=r"pyproject\.toml: "):
        Settings.load()
