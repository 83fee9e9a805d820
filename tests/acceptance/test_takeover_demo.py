"""The takeover demonstration, small: it judges itself, and its pictures are looked at here."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from routilux_mp.demo.mosaic import TILE_PIXELS, picture, tile_levels
from routilux_mp.demo.png import png


@pytest.mark.slow
def test_the_takeover_demo(rmp, tmp_path):
    done = rmp("demo", "takeover", "--tiles", "8", "--out", tmp_path / "out", timeout_s=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "byte-equal" in done.stdout
    assert "was taken over by pid" in done.stdout
    first, second = map(int, re.search(r"by host a, by host b +(\d+), (\d+)", done.stdout).groups())
    assert first >= 32
    assert first + second >= 64
    shared = tmp_path / "out" / "two-hosts"
    assert (shared / "mosaic.png").read_bytes() == (tmp_path / "out" / "one-host" / "mosaic.png").read_bytes()
    assert (shared / "mosaic.png").read_bytes() != (shared / "by_host.png").read_bytes()


def test_it_touches_no_folder_of_somebody_else(rmp, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("the only copy")
    done = rmp("demo", "takeover", "--out", "out")
    assert done.returncode == 2
    assert "holds something else" in done.stderr
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_a_picture_does_not_depend_on_who_drew_it_or_when():
    tiles = [{"x": x, "y": y, "host": "ab"[x], "pixels": tile_levels(x, y, 2)} for x in range(2) for y in range(2)]
    plain = picture(tiles, 2, {})
    others = [{**tile, "host": "c"} for tile in reversed(tiles)]
    assert picture(others, 2, {}) == plain
    assert picture(tiles, 2, {"a": (255, 0, 0)}) != plain


def test_a_png_is_one(tmp_path: Path):
    raw = png(2, 1, bytes([255, 0, 0, 0, 0, 255]))
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    data = raw[raw.index(b"IDAT") + 4 : raw.index(b"IEND") - 8]
    assert zlib.decompress(data) == b"\0\xff\0\0\0\0\xff"
    with pytest.raises(ValueError, match="6 bytes"):
        png(2, 1, b"")
    assert TILE_PIXELS == 32
