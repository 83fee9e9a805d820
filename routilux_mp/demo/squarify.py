"""Squarified treemap layout (Bruls, Huizing, van Wijk 2000): areas to rectangles that are nearly square.

Pure arithmetic, no drawing. The rule it owns: rectangles never overlap, fill their frame, and have
the areas asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Rect(NamedTuple):
    """A rectangle in pixels (not rounded)."""

    x: float
    y: float
    width: float
    height: float

    def inset(self, left: float, top: float, right: float, bottom: float) -> Rect:
        """A smaller rectangle inside this one; never of negative size."""
        return Rect(
            self.x + left, self.y + top, max(0.0, self.width - left - right), max(0.0, self.height - top - bottom)
        )


def squarify(weights: Sequence[float], frame: Rect) -> list[Rect]:
    """One rectangle per weight, in the order given; give the weights in descending order for a good picture."""
    if any(weight <= 0 for weight in weights):
        raise ValueError("every weight must be positive: leave empty items out")
    total = sum(weights)
    if not total or frame.width <= 0 or frame.height <= 0:
        return [Rect(frame.x, frame.y, 0.0, 0.0) for _ in weights]
    scale = frame.width * frame.height / total
    areas = [weight * scale for weight in weights]
    out: list[Rect] = []
    start = 0
    while start < len(areas):
        side = min(frame.width, frame.height)
        end = _row_end(areas, start, side)
        is_last = end == len(areas)
        row, frame = _lay_row(areas[start:end], frame, is_last)
        out += row
        start = end
    return out


def _row_end(areas: Sequence[float], start: int, side: float) -> int:
    """Where the row that begins at ``start`` ends: as long as its worst aspect ratio gets better."""
    end, total = start + 1, areas[start]
    low = high = areas[start]
    worst = _worst(low, high, total, side)
    while end < len(areas):
        low, high, total = min(low, areas[end]), max(high, areas[end]), total + areas[end]
        with_next = _worst(low, high, total, side)
        if with_next > worst:
            break
        worst, end = with_next, end + 1
    return end


def _worst(low: float, high: float, total: float, side: float) -> float:
    thickness = total / side if side else 0.0
    if not thickness:
        return float("inf")
    return max(high / thickness**2, thickness**2 / low)


def _lay_row(areas: Sequence[float], frame: Rect, is_last: bool) -> tuple[list[Rect], Rect]:
    """Place one row along the shorter side; returns its rectangles and the frame that is left."""
    total = sum(areas)
    row: list[Rect] = []
    if frame.width >= frame.height:  # a column at the left edge
        thickness = frame.width if is_last else total / frame.height
        y = frame.y
        for area in areas:
            height = frame.height * area / total
            row.append(Rect(frame.x, y, thickness, height))
            y += height
        return row, Rect(frame.x + thickness, frame.y, max(0.0, frame.width - thickness), frame.height)
    thickness = frame.height if is_last else total / frame.width
    x = frame.x
    for area in areas:
        width = frame.width * area / total
        row.append(Rect(x, frame.y, width, thickness))
        x += width
    return row, Rect(frame.x, frame.y + thickness, frame.width, max(0.0, frame.height - thickness))
