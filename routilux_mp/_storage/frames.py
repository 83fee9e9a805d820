"""The bytes of a checkpoint file: a fixed header, then frames. Pure; no file is opened here.

Commit files, snapshots and archives share the header, because all of them must say what they are,
who wrote them and what they follow. The rule it owns: any cut and any flipped bit of a file ends in
CheckpointDamaged and in no other exception. The header has a checksum and no second spelling (it is
binary and of fixed size), it knows how many frames and how many bytes follow, and a frame's
checksum covers its length.

Payload bytes pass once through CRC-32 and once through SHA-256 and are copied once, into the one
buffer that is hashed and written.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

from ..errors import CheckpointDamaged, UsageError

OPEN: Final = 1
COMMIT: Final = 2
SEAL: Final = 3
SNAPSHOT: Final = 4
ARCHIVE: Final = 5
KIND_NAMES: Final[Mapping[int, str]] = {1: "OPEN", 2: "COMMIT", 3: "SEAL", 4: "SNAPSHOT", 5: "ARCHIVE"}

#: What the first file of a job follows.
NO_PREDECESSOR: Final = bytes(32)
TOKEN_BYTES: Final = 16
FRAME_BYTES_MAX: Final = 2**31 - 1

_MAGIC: Final = b"RMP1"
# magic, kind, three zeros, epoch, number, frame count, bytes after the header, owner, nonce, predecessor
_HEADER = struct.Struct("<4sB3sIIIQ16s16s32s")
_CRC = struct.Struct("<I")
_FRAME = struct.Struct("<II")
HEADER_BYTES: Final = _HEADER.size + _CRC.size

#: A frame is bytes, or the pieces of it, which are joined while they are written.
Frame = bytes | Sequence[bytes]


class Header(NamedTuple):
    """The first bytes of every checkpoint file."""

    kind: int
    epoch: int
    number: int
    frame_count: int
    body_bytes: int
    owner: bytes
    nonce: bytes
    predecessor: bytes


class CheckpointFile(NamedTuple):
    """A checkpoint file that was read and found whole."""

    header: Header
    frames: tuple[bytes, ...]
    digest: bytes
    size_bytes: int


def pack_header(header: Header) -> bytes:
    """The canonical bytes of a header."""
    kind, epoch, number, frame_count, body_bytes, owner, nonce, predecessor = header
    raw = _HEADER.pack(_MAGIC, kind, b"\0\0\0", epoch, number, frame_count, body_bytes, owner, nonce, predecessor)
    return raw + _CRC.pack(crc32(raw))


def unpack_header(raw: bytes, where: str) -> Header:
    """The header at the start of `raw`; an unknown kind is left to the caller, anything else is damage."""
    if len(raw) < HEADER_BYTES:
        raise _damaged(where, f"{len(raw)} bytes are less than a header")
    magic, kind, zeros, epoch, number, count, body_bytes, owner, nonce, predecessor = _HEADER.unpack_from(raw)
    if magic != _MAGIC:
        raise _damaged(where, "it does not begin like a checkpoint file")
    if _CRC.unpack_from(raw, _HEADER.size)[0] != crc32(raw[: _HEADER.size]) or zeros != b"\0\0\0":
        raise _damaged(where, "the header's checksum does not match")
    return Header(kind, epoch, number, count, body_bytes, owner, nonce, predecessor)


def encode(
    kind: int, epoch: int, number: int, *, owner: bytes, nonce: bytes, predecessor: bytes, frames: Sequence[Frame]
) -> tuple[bytes, bytes]:
    """A whole file and its SHA-256."""
    parts: list[bytes] = [b""]
    body_bytes = 0
    for frame in frames:
        if isinstance(frame, bytes):
            length = len(frame)
            parts.append(_FRAME.pack(length, crc32(frame, length)))
            parts.append(frame)
        else:
            length = sum(map(len, frame))
            checksum = length
            for piece in frame:
                checksum = crc32(piece, checksum)
            parts.append(_FRAME.pack(length, checksum))
            parts.extend(frame)
        if length > FRAME_BYTES_MAX:
            raise UsageError(f"a frame of {length} bytes is more than {FRAME_BYTES_MAX}; put it into a blob")
        body_bytes += length + _FRAME.size
    parts[0] = pack_header(Header(kind, epoch, number, len(frames), body_bytes, owner, nonce, predecessor))
    raw = b"".join(parts)
    return raw, hashlib.sha256(raw).digest()


def decode(raw: bytes, where: str) -> CheckpointFile:
    """The file in `raw`, checked from end to end.

    Raises:
        CheckpointDamaged: naming `where` and what does not match.
    """
    header = unpack_header(raw, where)
    if len(raw) - HEADER_BYTES != header.body_bytes:
        raise _damaged(where, f"{header.body_bytes} bytes should follow the header, {len(raw) - HEADER_BYTES} do")
    if header.frame_count * _FRAME.size > header.body_bytes:
        raise _damaged(where, f"{header.frame_count} frames do not fit into {header.body_bytes} bytes")
    frames = []
    at, end = HEADER_BYTES, len(raw)
    for index in range(header.frame_count):
        if at + _FRAME.size > end:
            raise _damaged(where, f"frame {index} is cut off")
        length, checksum = _FRAME.unpack_from(raw, at)
        at += _FRAME.size
        data = raw[at : at + length]
        # The checksum starts from the length, so that a changed length is found as well.
        if len(data) != length or crc32(data, length) != checksum:
            raise _damaged(where, f"the checksum of frame {index} does not match")
        frames.append(data)
        at += length
    if at != end:
        raise _damaged(where, f"{end - at} bytes follow the last frame")
    return CheckpointFile(header, tuple(frames), hashlib.sha256(raw).digest(), len(raw))


def encode_document(document: Mapping[str, Any]) -> bytes:
    """A small JSON document in its one canonical spelling."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def decode_document(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `raw`; unknown keys are the caller's to keep."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise _damaged(where, "its document is not JSON") from None
    if not isinstance(document, dict):
        raise _damaged(where, "its document is not a JSON object")
    return document


def _damaged(where: str, what: str) -> CheckpointDamaged:
    return CheckpointDamaged(f"{where} is damaged: {what}")
