"""An ended epoch in one file: its commit files verbatim, one after the other, and where each ends.

Not here: when an epoch is archived (`housekeeping`). The rule it owns: an archive counts only when
every file in it is whole, follows the one before it, and the last one is the SEAL that the next
epoch's OPEN names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from zlib import crc32

from ..errors import CheckpointDamaged
from . import frames
from .frames import ARCHIVE, HEADER_BYTES, CheckpointFile, Header
from .layout import ARCHIVE as FOLDER
from .layout import ARCHIVE_BYTES_MAX, COMMIT_FILE_BYTES_MAX, epoch_name
from .place import Place

_CRC = struct.Struct("<I")


def pack(
    epoch: int, sizes: Sequence[int], *, owner: bytes, nonce: bytes, seal_digest: bytes
) -> tuple[bytes, bytes]:  # fmt: skip
    """What stands before and after commit files of these sizes, which themselves may never be in memory together."""
    ends = tuple(accumulate(sizes))
    header = Header(ARCHIVE, epoch, len(ends), len(ends), ends[-1], owner, nonce, seal_digest)
    index = struct.pack(f"<{len(ends)}Q", *ends)
    return frames.pack_header(header), index + _CRC.pack(crc32(index))


class Archive:
    """One archive, opened by reading its header and index; commit files are read when asked for."""

    def __init__(self, place: Place, epoch: int) -> None:
        """FileNotFoundError when there is none; CheckpointDamaged when its index is not whole."""
        self._place = place
        self._name = epoch_name(epoch)
        self.where = place.where(FOLDER, self._name)
        with place.dir(FOLDER) as at:
            self.header = frames.unpack_header(self._range(at, 0, HEADER_BYTES), self.where)
            header = self.header
            index_bytes = header.frame_count * 8
            if header.kind != ARCHIVE or header.epoch != epoch or header.frame_count < 2:
                raise CheckpointDamaged(f"{self.where} is damaged: it is not the archive of epoch {epoch}")
            if header.body_bytes + index_bytes > ARCHIVE_BYTES_MAX:
                raise CheckpointDamaged(f"{self.where} is damaged: it claims more than {ARCHIVE_BYTES_MAX} bytes")
            # One byte more than there may be, so that something after the end is seen.
            raw = self._range(at, HEADER_BYTES + header.body_bytes, index_bytes + _CRC.size + 1)
        if len(raw) != index_bytes + _CRC.size or _CRC.unpack_from(raw, index_bytes)[0] != crc32(raw[:index_bytes]):
            raise CheckpointDamaged(f"{self.where} is damaged: its index does not match")
        self._ends: tuple[int, ...] = (0, *struct.unpack_from(f"<{header.frame_count}Q", raw))
        if self._ends[-1] != header.body_bytes:
            raise CheckpointDamaged(f"{self.where} is damaged: its index ends elsewhere than its files")

    def __len__(self) -> int:
        return self.header.frame_count

    def file(self, number: int) -> CheckpointFile:
        """Commit file `number` (the OPEN is 1), verified."""
        if not 1 <= number <= len(self):
            raise CheckpointDamaged(f"{self.where} holds {len(self)} files, not file {number}")
        with self._place.dir(FOLDER) as at:
            return self._file(at, number)

    def raw(self, number: int) -> bytes:
        """The bytes of commit file `number`, as they were put."""
        self.file(number)
        with self._place.dir(FOLDER) as at:
            return self._range(at, HEADER_BYTES + self._ends[number - 1], self._ends[number] - self._ends[number - 1])

    def files(self) -> Iterator[CheckpointFile]:
        """All commit files in order, verified as a chain that ends where the header says."""
        previous: CheckpointFile | None = None
        with self._place.dir(FOLDER) as at:
            for number in range(1, len(self) + 1):
                file = self._file(at, number)
                if previous is not None and file.header.predecessor != previous.digest:
                    raise CheckpointDamaged(f"{self.where} is damaged: file {number} does not follow the one before it")
                yield file
                previous = file
        if previous is None or previous.digest != self.header.predecessor:
            raise CheckpointDamaged(f"{self.where} is damaged: its last file is not the SEAL that its header names")

    def _file(self, at: int, number: int) -> CheckpointFile:
        start, end = self._ends[number - 1], self._ends[number]
        if not 0 <= end - start <= COMMIT_FILE_BYTES_MAX:
            raise CheckpointDamaged(
                f"{self.where} is damaged: its index says that file {number} has {end - start} bytes"
            )
        where = f"{self.where} (file {number})"
        file = frames.decode(self._range(at, HEADER_BYTES + start, end - start), where)
        if (file.header.epoch, file.header.number) != (self.header.epoch, number):
            raise CheckpointDamaged(f"{where} is damaged: it is file {file.header.number} of epoch {file.header.epoch}")
        return file

    def _range(self, at: int, offset: int, length: int) -> bytes:
        try:
            return self._place.fs.read_range(self._name, at, offset, length)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._place.unreadable(error, FOLDER, self._name) from error
