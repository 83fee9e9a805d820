"""Payloads too big to travel: a worker writes them to a blob file, and a reference travels in their place.

The rule it owns: what a reference names is durable before the reference leaves the worker. Readers
of a batch ask :class:`PayloadReader` first; most payloads are themselves.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count

from .._serialization.packing import pack, unpack
from ..errors import CheckpointDamaged

#: Given the path of a file, and what is still to be done for it to be durable.
Later = Callable[[str, Callable[[], None]], None]
#: Of an encoded payload; what lies out of band is not copied before it is written.
Piece = bytes | memoryview
#: First byte of a reference. Encoded batches begin with their version, which is another one.
REFERENCE = b"\x01"
#: Batches with arrays in them are aligned to this, from their start.
_ALIGNMENT_BYTES = 64
_MAPPED_MAX = 8
#: Up to this size a blob is read as fast as it is mapped; larger ones take up to four times as long.
_READ_BYTES_MAX = 4 * 1024 * 1024
#: And so much of them is kept at hand.
_COPIED_BYTES_MAX = 16 * 1024 * 1024


def is_reference(data: bytes | memoryview) -> bool:
    """Whether these bytes only say where the payload is."""
    return data[:1] == REFERENCE


class PayloadReader:
    """Opens payloads of one job; keeps the last few blobs at hand.

    ``blob_dir``: where this job's writers put blobs now; those of earlier epochs lie beside it. ``is_copying``: blobs
    that are not very large are read, not mapped, since this process must outlive whatever is done to their files.
    """

    def __init__(self, blob_dir: str | None, *, is_copying: bool = False) -> None:
        self.blob_dir = blob_dir
        self._read_bytes_max = _READ_BYTES_MAX if is_copying else 0
        self._mapped: OrderedDict[str, memoryview] = OrderedDict()
        self._kept: dict[str, memoryview] = {}

    def keep(self, name: str) -> None:
        """Map a blob for as long as this reader lives, since its file is about to go."""
        try:
            self._kept[name] = self._map(name, None)
        except CheckpointDamaged:
            pass  # it is gone already: whoever asks for it is told

    def _map(self, name: str, expected: tuple[int, int] | None) -> memoryview:
        from .._storage.blobs import BlobRef, map_blob, path_of  # most workers never see a blob

        job_path = os.path.dirname(os.path.dirname(self.blob_dir or ""))
        ref = None if expected is None else BlobRef(name, *expected)
        return map_blob(path_of(job_path, name), ref, read_bytes_max=self._read_bytes_max)

    def _may_keep(self) -> bool:
        """All that is at hand, as far as it takes memory."""
        copied = sum(len(blob) for blob in self._mapped.values() if len(blob) <= self._read_bytes_max)
        return len(self._mapped) <= _MAPPED_MAX and copied <= _COPIED_BYTES_MAX

    def open(self, data: bytes | memoryview) -> bytes | memoryview:
        """The payload: ``data`` itself, or the part of the blob that it refers to.

        Raises:
            CheckpointDamaged: the blob is missing or damaged.
        """
        if not is_reference(data):
            return data
        name, size, checksum, offset, length = unpack(data[1:])
        if self.blob_dir is None:
            raise CheckpointDamaged(f"a payload refers to the blob {name}, but this job has no blobs")
        whole = self._kept.get(name) or self._mapped.get(name)
        if whole is None:
            whole = self._mapped[name] = self._map(name, (size, checksum))
            while len(self._mapped) > 1 and not self._may_keep():
                self._mapped.popitem(last=False)
        if not 0 <= offset <= offset + length <= len(whole):
            raise CheckpointDamaged(f"a payload lies outside of the blob {name}")
        return whole[offset : offset + length]


def describe_reference(data: bytes | memoryview) -> dict[str, object]:
    """What the history shows in place of a payload in a blob: its file, size and checksum, if it has one."""
    name, _, checksum, _, length = unpack(data[1:])
    return {"blob": name, "size_bytes": length} | ({"blob_crc32": f"{checksum:08x}"} if checksum else {})


def referred_blob(data: bytes | memoryview) -> str | None:
    """The name of the blob a reference points into; None for a payload that is there."""
    return unpack(data[1:])[0] if is_reference(data) else None


def referred_bytes(data: bytes | memoryview) -> int:
    """The size of the payload that a reference stands for; 0 for one that is there."""
    return int(unpack(data[1:])[4]) if is_reference(data) else 0


class Spiller:
    """Writes one worker's blobs. Names are never used again, by whichever process."""

    def __init__(self) -> None:
        self._nonce = ""
        self._pid = 0
        self._numbers = count(1)

    def put(
        self, blob_dir: str, payloads: Sequence[Sequence[Piece]], later: Later | None = None, is_checked: bool = True
    ) -> tuple[str, list[bytes]]:
        """Write the payloads, each in pieces, into one blob; its path and a reference to each payload.

        ``later`` is given the path and what waits for the disk, if that is not to be done here. ``is_checked``: with a
        checksum.

        Raises:
            StorageBlocked: nothing was written; try again.
        """
        from .._storage.blobs import begin_blob_file

        if self._pid != os.getpid():  # a forked worker must not use its sibling's names
            # The pid is there for whoever finds the blob of a worker that died (`_storage.leftovers`).
            self._pid, self._nonce = os.getpid(), f"{os.getpid()}.{os.urandom(8).hex()}"
        name = f"{self._nonce}-{next(self._numbers)}"
        chunks: list[Piece] = []
        places, end = [], 0
        for payload in payloads:
            gap, size = -end % _ALIGNMENT_BYTES, sum(map(len, payload))
            chunks += [bytes(gap), *payload]
            places.append((end + gap, size))
            end += gap + size
        blob, make_durable = begin_blob_file(blob_dir, name, chunks, is_checked=is_checked)
        references = [REFERENCE + pack((blob.name, blob.size_bytes, blob.crc32, *place)) for place in places]
        path = f"{blob_dir}/{name}"
        if later is None:
            make_durable()
        else:
            later(path, make_durable)
        return path, references
