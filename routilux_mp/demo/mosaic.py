"""The Mandelbrot set in tiles: plan, draw each, put them together. What each host drew is tinted in a second picture.

    plan --tile--> draw --drawn--> assemble
    plan --order----------------->

The first picture does not depend on who drew what, or when: it is the same file for any number of
workers, hosts and take-overs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..activation_policies import upstream_done_policy
from ..flow import Flow
from ..routine import Routine
from .png import png

TILE_PIXELS = 32
_ITERATIONS_MAX = 700
_LEFT, _TOP, _SIZE = -2.15, -1.35, 2.7
#: What the tiles of the first, second, … host are mixed with.
_TINTS = ((255, 140, 40), (60, 130, 255), (80, 200, 90), (220, 80, 200))


class Plan(Routine):
    """Gives out the tiles, in an order that shows the whole picture growing."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.plan)
        self.add_event("tile", ["x", "y", "count", "log"])
        self.add_event("order", ["count", "out"])

    def plan(self, out: str, count: int = 16, log: str = "") -> Iterator[int]:
        """Emit every tile of ``count`` x ``count``; a resumed run goes on where it was."""
        start = self.resume_cursor or 0
        if start == 0:
            self.emit("order", count=count, out=out)
        for number in range(start, count * count):
            self.emit("tile", x=number % count, y=number // count, count=count, log=log)
            if (number + 1) % count == 0:
                yield number + 1


class Draw(Routine):
    """Computes one tile: the CPU-heavy step."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("tile", handler=self.draw)
        self.add_event("drawn", ["x", "y", "host", "pixels"])

    def draw(self, x: int, y: int, count: int, log: str) -> None:
        """The iteration counts of a tile's pixels, a byte each."""
        host = os.environ.get("ROUTILUX_MP_HOST_ID") or os.uname().nodename
        _noted(log, host, f"{x},{y}")
        self.emit("drawn", x=x, y=y, host=host, pixels=tile_levels(x, y, count))


class Assemble(Routine):
    """Puts the tiles together, once, when all are there."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("drawn")
        self.add_slot("order")
        self.add_event("done", ["picture", "by_host", "tiles"])
        self.set_logic(self.assemble)
        self.set_activation_policy(upstream_done_policy())

    def assemble(self, slot_data: dict[str, list[dict[str, Any]]], policy_message: Any, job_state: Any) -> None:
        """``mosaic.png``, and ``by_host.png`` where every tile shows who drew it."""
        order, tiles = slot_data["order"][0], slot_data["drawn"]
        hosts = sorted({tile["host"] for tile in tiles})
        tints = {host: _TINTS[number % len(_TINTS)] for number, host in enumerate(hosts)}
        pictures = {"mosaic.png": {}, "by_host.png": tints}
        for name, tint_of in pictures.items():
            with self.output_file(Path(order["out"], name), "wb") as file:
                file.write(picture(tiles, order["count"], tint_of))
        counts = Counter(tile["host"] for tile in tiles)
        paths = [str(Path(order["out"], name)) for name in pictures]
        self.emit("done", picture=paths[0], by_host=paths[1], tiles=dict(sorted(counts.items())))


def tile_levels(x: int, y: int, count: int) -> bytes:
    """How soon each pixel of a tile leaves the set, 0 (never) to 255."""
    step = _SIZE / (count * TILE_PIXELS)
    levels = bytearray()
    for row in range(TILE_PIXELS):
        im = _TOP + (y * TILE_PIXELS + row + 0.5) * step
        for column in range(TILE_PIXELS):
            c = complex(_LEFT + (x * TILE_PIXELS + column + 0.5) * step, im)
            levels.append(_level(c))
    return bytes(levels)


def _level(c: complex) -> int:
    z = 0j
    for n in range(_ITERATIONS_MAX):
        z = z * z + c
        if z.real * z.real + z.imag * z.imag > 4.0:
            return 255 - min(254, 9 * n) if n < 28 else max(1, 255 - min(254, 224 + n // 24))
    return 0


def picture(tiles: list[dict[str, Any]], count: int, tint_of: dict[str, tuple[int, int, int]]) -> bytes:
    """The tiles as a PNG; those of a host in ``tint_of`` are mixed with its colour."""
    width = count * TILE_PIXELS
    pixels = bytearray(3 * width * width)
    for tile in tiles:
        palette = _palette(tint_of.get(tile["host"]))
        for row in range(TILE_PIXELS):
            line = tile["pixels"][row * TILE_PIXELS : (row + 1) * TILE_PIXELS]
            at = 3 * ((tile["y"] * TILE_PIXELS + row) * width + tile["x"] * TILE_PIXELS)
            pixels[at : at + 3 * TILE_PIXELS] = b"".join([palette[level] for level in line])
    return png(width, width, bytes(pixels))


def _palette(tint: tuple[int, int, int] | None) -> list[bytes]:
    """Colours of the levels: night outside, light at the rim, black inside."""
    colours = []
    for level in range(256):
        far = 255 - level
        colour = (0, 0, 0) if level == 0 else (min(255, far * far // 300), min(255, far * 7 // 8), 40 + far * 4 // 5)
        if tint is not None:
            colour = tuple((c * 5 + t * 4) // 9 for c, t in zip(colour, tint, strict=True))  # type: ignore[assignment]
        colours.append(bytes(min(255, c) for c in colour))
    return colours


def _noted(log: str, host: str, tile: str) -> None:
    """A mark outside the job: what the demonstration counts with. One write, so that a kill leaves whole lines."""
    if log:
        fd = os.open(Path(log, f"{host}.{os.getpid()}"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, f"{tile}\n".encode())
        finally:
            os.close(fd)


def mosaic_flow(workers: int = 2) -> Flow:
    """The flow, with so many workers that draw."""
    flow = Flow(flow_id="mosaic")
    flow.add_routine(Plan(), "plan")
    flow.add_routine(Draw(), "draw", workers=workers)
    flow.add_routine(Assemble(), "assemble")
    flow.connect("plan", "tile", "draw", "tile")
    flow.connect("plan", "order", "assemble", "order")
    flow.connect("draw", "drawn", "assemble", "drawn")
    return flow


def flow() -> Flow:
    """The flow for the command line: as many workers that draw as there are cores."""
    return mosaic_flow(os.cpu_count() or 1)
