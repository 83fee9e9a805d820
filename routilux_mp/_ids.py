"""Names of jobs and flows that nobody gave one."""

from __future__ import annotations

import os


def new_id() -> str:
    """A random UUID (version 4) as text. The module ``uuid`` takes 4 ms to import, at the start of every program."""
    bits = int.from_bytes(os.urandom(16), "big")
    bits = bits & ~(0xF << 76) | 0x4 << 76  # the version
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # the variant
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
