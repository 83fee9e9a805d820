"""The door to MessagePack (the only module that imports ``msgpack``): messages between our own processes and
records of our own log.

Only plain structures of our own making pass here (tuples, lists, dicts, str, bytes, numbers, None), but with
texts and numbers of the users' in them: a text may hold lone surrogates (an error that names a file), a sum may
outgrow 64 bits. Users' values go through :mod:`values`, which keeps their exact types.
"""

from __future__ import annotations

from typing import Any

import msgpack
from msgpack import ExtType, OutOfData, Packer, Timestamp, Unpacker, UnpackException, unpackb

__all__ = [
    "ExtType", "OutOfData", "Packer", "Timestamp", "UnpackException", "Unpacker", "pack", "unpack", "unpackb"
]  # fmt: skip

_WIDE_INT = 1


def pack(value: Any) -> bytes:
    """MessagePack bytes of a plain structure; tuples and lists become arrays."""
    # A Packer of its own per call: threads share this module, and making one costs 0.4 us.
    return msgpack.packb(value, use_bin_type=True, unicode_errors="surrogatepass", default=_wide)  # type: ignore[no-any-return]


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The plain structure; arrays come back as tuples. Raises ``ValueError`` on anything else."""
    return msgpack.unpackb(
        data, use_list=False, raw=False, strict_map_key=False, unicode_errors="surrogatepass", ext_hook=_from_extension
    )


def _wide(value: Any) -> ExtType:
    """What MessagePack has no form for: of our own plain structures only an integer beyond 64 bits."""
    if type(value) is not int:
        raise TypeError(f"cannot pack {type(value).__name__}")
    return ExtType(_WIDE_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _from_extension(code: int, data: bytes) -> int:
    if code != _WIDE_INT:
        raise ValueError(f"an extension of kind {code} is none of ours")
    return int.from_bytes(data, "big", signed=True)
