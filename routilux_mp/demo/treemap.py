"""The picture: a treemap of a source tree, area by lines, colour by branches per hundred lines.

The one door to Pillow. The same summary gives the same bytes: no date, no randomness, and the font
that Pillow brings along.
"""

from __future__ import annotations

import io
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .squarify import Rect, squarify

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

_WIDTH, _HEIGHT, _MARGIN = 1600, 1000, 24
_INK, _SOFT, _PAPER, _HEADER = (29, 34, 42), (104, 112, 122), (250, 249, 246), (58, 66, 78)
#: Branches per hundred lines, and the colour there; between them colours are mixed. Light to dark, so
#: that it reads without colour vision and in grey print.
_SCALE = (
    (0.0, (236, 239, 233)),
    (4.0, (190, 219, 203)),
    (8.0, (110, 178, 176)),
    (13.0, (46, 117, 152)),
    (20.0, (35, 52, 105)),
)
_CELL_AREA_MIN = 6.0  # pixels; smaller files are drawn as part of their package's ground


def draw_treemap(summary: dict[str, Any], title: str) -> bytes:
    """The PNG of a summary (see ``metrics.summarise``)."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(image)
    totals = summary["totals"]
    draw.text((_MARGIN, 18), title, fill=_INK, font=_font(30))
    facts = (
        f"{totals['files']:,} files · {totals['lines']:,} lines · {totals['functions']:,} functions · "
        f"{totals['branches']:,} branches      area: lines, colour: branches per 100 lines"
    )
    draw.text((_MARGIN, 58), facts, fill=_SOFT, font=_font(16))
    _draw_legend(draw, _WIDTH - _MARGIN - 330, 26)
    worst = "most branched: " + " · ".join(f"{path} {name} ({count})" for path, name, count in summary["worst"][:4])
    draw.text((_MARGIN, _HEIGHT - 32), _fitted(draw, worst, _WIDTH - 2 * _MARGIN, 15), fill=_SOFT, font=_font(15))
    _draw_packages(draw, summary, Rect(_MARGIN, 92, _WIDTH - 2 * _MARGIN, _HEIGHT - 92 - 44))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=False, compress_level=6)
    return out.getvalue()


def _draw_packages(draw: ImageDraw, summary: dict[str, Any], frame: Rect) -> None:
    files: dict[str, list[tuple[str, int, int]]] = {}
    for path, lines, branches, _functions in summary["files"]:
        if lines:
            group, _, rest = path.partition("/") if "/" in path else ("(modules)", "", path)
            files.setdefault(group, []).append((rest, lines, branches))
    sizes = sorted(((sum(f[1] for f in group), name) for name, group in files.items()), key=lambda s: (-s[0], s[1]))
    for (lines, name), place in zip(sizes, squarify([size for size, _ in sizes], frame), strict=True):
        branches = sum(f[2] for f in files[name])
        inner = place.inset(1, 1, 1, 1)
        if inner.width < 2 or inner.height < 2:
            continue
        draw.rectangle(_corners(inner), fill=_colour(branches, lines))
        if inner.width > 44 and inner.height > 40:
            draw.rectangle(_corners(inner._replace(height=19)), fill=_HEADER)
            label = _fitted(draw, f"{name}  {lines:,}", inner.width - 8, 14)
            draw.text((inner.x + 5, inner.y + 1), label, fill=_PAPER, font=_font(14))
            inner = inner.inset(0, 20, 0, 0)
        _draw_files(draw, files[name], inner)


def _draw_files(draw: ImageDraw, files: list[tuple[str, int, int]], frame: Rect) -> None:
    files = sorted(files, key=lambda f: (-f[1], f[0]))
    for (name, lines, branches), place in zip(files, squarify([f[1] for f in files], frame), strict=True):
        if place.width * place.height < _CELL_AREA_MIN:
            continue
        colour = _colour(branches, lines)
        draw.rectangle(_corners(place.inset(0, 0, 1, 1)), fill=colour)
        if place.width > 34 and place.height > 15:
            size = 13 if place.width > 90 and place.height > 20 else 11
            label = _fitted(draw, name.rsplit("/", 1)[-1].removesuffix(".py"), place.width - 6, size)
            ink = _INK if sum(colour) > 400 else _PAPER
            draw.text((place.x + 3, place.y + 1), label, fill=ink, font=_font(size))


def _draw_legend(draw: ImageDraw, x: float, y: float) -> None:
    width, top = 330, _SCALE[-1][0]
    for step in range(width):
        draw.line([(x + step, y), (x + step, y + 16)], fill=_mixed(top * step / width))
    for value, _ in _SCALE:
        text = f"{value:g}" + ("+" if value == top else "")
        at = x + width * value / top
        draw.text((at - draw.textlength(text, font=_font(13)) / 2, y + 19), text, fill=_SOFT, font=_font(13))


def _colour(branches: int, lines: int) -> tuple[int, int, int]:
    return _mixed(100.0 * branches / lines)


def _mixed(value: float) -> tuple[int, int, int]:
    for (low, first), (high, second) in pairwise(_SCALE):
        if value <= high:
            part = (value - low) / (high - low)
            red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
            return red, green, blue
    return _SCALE[-1][1]


def _corners(rect: Rect) -> tuple[float, float, float, float]:
    x, y = round(rect.x), round(rect.y)
    right, bottom = round(rect.x + rect.width) - 1, round(rect.y + rect.height) - 1
    return x, y, max(x, right), max(y, bottom)


def _fitted(draw: ImageDraw, text: str, width: float, size: int) -> str:
    """The text, shortened with an ellipsis until it fits; empty when nothing does."""
    font = _font(size)
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…" if len(text) > 1 else ""


_fonts: dict[int, FreeTypeFont | ImageFont] = {}


def _font(size: int) -> FreeTypeFont | ImageFont:
    if size not in _fonts:
        from PIL import ImageFont

        _fonts[size] = ImageFont.load_default(size)
    return _fonts[size]
