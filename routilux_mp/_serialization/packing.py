"""The door to MessagePack (the only module that imports ``msgpack``): messages between our own processes and
records of our own log.

Only plain structures of our own making pass here (tuples, lists, dicts, str, bytes, numbers, None).
Users' values go through :mod:`values`, which keeps their exact types.
"""

from __future__ import annotations

from typing import Any

import msgpack
from msgpack import ExtType, OutOfData, Packer, Timestamp, Unpacker, UnpackException, unpackb

__all__ = [
    "ExtType", "OutOfData", "Packer", "Timestamp", "UnpackException", "Unpacker", "pack", "unpack", "unpackb"
]  # fmt: skip


def pack(value: Any) -> bytes:
    """MessagePack bytes of a plain structure; tuples and lists become arrays."""
    # A Packer of its own per call: threads share this module, and making one costs 0.4 us.
    return msgpack.packb(value, use_bin_type=True)  # type: ignore[no-any-return]


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The plain structure; arrays come back as tuples. Raises ``ValueError`` on anything else."""
    return msgpack.unpackb(data, use_list=False, raw=False, strict_map_key=False)
