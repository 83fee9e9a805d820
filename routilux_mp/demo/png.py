"""Writing a PNG: eight bits of red, green and blue per pixel, the same bytes for the same pixels everywhere."""

from __future__ import annotations

import struct
import zlib


def png(width: int, height: int, pixels: bytes) -> bytes:
    """The file for `pixels`: rows from top to bottom, three bytes each."""
    stride = 3 * width
    if len(pixels) != stride * height:
        raise ValueError(f"{width} x {height} pixels are {stride * height} bytes, not {len(pixels)}")
    rows = b"".join(b"\0" + pixels[at : at + stride] for at in range(0, len(pixels), stride))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(rows, 6)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
