"""The checker's own reading of a job's directory: plain files, ``struct`` and ``hashlib``, nothing of the package.

It is not clever: no snapshot, no healing of damage. Whatever is not as the format says raises ``NotWhole``.
"""

from __future__ import annotations

import hashlib
import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

_HEADER: Final = struct.Struct("<4sB3sIIIQ16s16s32sI")
_FRAME: Final = struct.Struct("<II")
OPEN, COMMIT, SEAL, ARCHIVE = 1, 2, 3, 5


class NotWhole(AssertionError):
    """The directory is not what the format says, or something of the job is not there."""


class Placed(NamedTuple):
    """One commit file."""

    epoch: int
    number: int
    kind: int
    owner: bytes
    predecessor: bytes
    digest: bytes
    frames: tuple[bytes, ...]

    @property
    def records(self) -> dict[int, bytes]:
        """By the number of the frame; an OPEN has them after its document."""
        return {n: data for n, data in enumerate(self.frames) if self.kind == COMMIT or (self.kind == OPEN and n)}

    @property
    def document(self) -> dict[str, Any]:
        """Of an OPEN or a SEAL: what it says."""
        return dict(json.loads(self.frames[0]))


def chain(job: Path) -> list[Placed]:
    """All commit files from the first OPEN to the end of the log; archives stand in for what was collected."""
    found: list[Placed] = []
    epoch = 1
    while (opened := _file(job, epoch, 1)) is not None:
        if found:
            _check_follows(found[-1], opened)
        part = [opened]
        while part[-1].kind != SEAL and (file := _file(job, epoch, part[-1].number + 1)) is not None:
            part.append(file)
        following = _file(job, epoch + 1, 1)
        if following is not None and not _is_end(part, following):
            part = _archived(job, epoch)
        for before, after in pairwise(part):
            if after.predecessor != before.digest or after.number != before.number + 1:
                raise NotWhole(f"epoch {epoch}: file {after.number} does not follow file {before.number}")
        found += part
        epoch += 1
    return found


def is_ended(job: Path) -> bool:
    """Whether the newest epoch is sealed for good."""
    epochs = sorted((job / "epochs").glob("e*")) if (job / "epochs").is_dir() else []
    for folder in reversed(epochs):
        files = sorted(folder.glob("c*"))
        if files:
            last = _decode(files[-1].read_bytes(), str(files[-1]))
            return last.kind == SEAL and last.document["reason"] == "ended"
    return False


def has_begun(job: Path) -> bool:
    """Whether the first record stands: with the OPEN, or after it."""
    opened = _file(job, 1, 1)
    if opened is not None and opened.records:
        return True
    return (job / "epochs/e0000001/c00000002").exists() or (job / "epochs/e0000002").exists()


def _check_follows(last: Placed, opened: Placed) -> None:
    said = opened.document["predecessor"]
    if last.kind != SEAL or said != {"files": last.number, "sha256": last.digest.hex()}:
        raise NotWhole(f"OPEN of epoch {opened.epoch} does not follow file {last.number} of epoch {last.epoch}: {said}")


def _is_end(part: list[Placed], following: Placed) -> bool:
    said = following.document["predecessor"]
    is_whole = all(a.digest == b.predecessor for a, b in pairwise(part))
    return is_whole and {"files": part[-1].number, "sha256": part[-1].digest.hex()} == said


def _file(job: Path, epoch: int, number: int) -> Placed | None:
    path = job / f"epochs/e{epoch:07d}/c{number:08d}"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    file = _decode(raw, str(path))
    if (file.epoch, file.number) != (epoch, number):
        raise NotWhole(f"{path} is file {file.number} of epoch {file.epoch}")
    return file


def _archived(job: Path, epoch: int) -> list[Placed]:
    path = job / f"archive/e{epoch:07d}"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise NotWhole(f"epoch {epoch} does not end as the next one says, and has no archive") from None
    _, kind, _, _, _, count, body_bytes, _, _, _, _ = _HEADER.unpack_from(raw)
    if kind != ARCHIVE:
        raise NotWhole(f"{path} is no archive")
    body = raw[_HEADER.size : _HEADER.size + body_bytes]
    ends = (0, *struct.unpack_from(f"<{count}Q", raw, _HEADER.size + body_bytes))
    return [_decode(body[begin:end], f"{path} from {begin}") for begin, end in pairwise(ends)]


def _decode(raw: bytes, where: str) -> Placed:
    if len(raw) < _HEADER.size:
        raise NotWhole(f"{where} has {len(raw)} bytes")
    magic, kind, _, epoch, number, count, body_bytes, owner, _, predecessor, check = _HEADER.unpack_from(raw)
    if magic != b"RMP1" or check != crc32(raw[: _HEADER.size - 4]) or len(raw) != _HEADER.size + body_bytes:
        raise NotWhole(f"{where} has no whole header")
    frames, at = [], _HEADER.size
    for _ in range(count):
        length, check = _FRAME.unpack_from(raw, at)
        data = raw[at + _FRAME.size : at + _FRAME.size + length]
        if crc32(data, length) != check:
            raise NotWhole(f"{where}: a frame's checksum does not match")
        frames.append(data)
        at += _FRAME.size + length
    return Placed(epoch, number, kind, owner, predecessor, hashlib.sha256(raw).digest(), tuple(frames))
