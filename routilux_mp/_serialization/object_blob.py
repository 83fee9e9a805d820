"""The object blob of a batch: what is not plain, pickled item by item, with the buffers that lie beside it.

Not here: where it lies (``batch``), what a pickle is made of (``pickling``). The rule it owns: a blob is verified
whole, with its buffers and its place, before any of it is loaded; with a key that opens nothing it never is.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

from ..errors import CheckpointDamaged, EmissionNotSerializable, KeyUnavailable, RoutiluxError
from .pickling import Buffer, UnreadableObject, dump_objects, load_objects, refusal
from .sealed import ClosedObject
from .signing import Signer
from .values import Beside, Encoder

#: One pickle and where its buffers lie.
Part = tuple[bytes, list[tuple[int, int]]]

_COUNT: Final = struct.Struct("<I")
_PART: Final = struct.Struct("<QI")  # bytes of one part's pickle, its buffers
_SPAN: Final = struct.Struct("<QQ")  # offset and size of a buffer


class Unreadable:
    """Stands for an item whose objects cannot be built in this process."""

    __slots__ = ("error",)

    def __init__(self, error: EmissionNotSerializable) -> None:
        self.error = error


def dump_part(encoder: Encoder, item: Any, objects: list[Any], digests: Any) -> Part:
    """The objects of one item. Errors say where in the item they come from."""
    try:
        pickled, beside = dump_objects(objects)
    except RoutiluxError:
        raise
    except Exception as error:  # the user's __reduce__ and __getstate__ run here
        raise refusal(item, error) from error
    return pickled, place_beside(encoder, beside, digests)


def place_beside(encoder: Encoder, buffers: Sequence[Buffer], digests: Any) -> list[tuple[int, int]]:
    """Have the buffers written beside the values; where they will be."""
    spans = []
    for buffer in buffers:
        content = memoryview(buffer)
        digests.update(content)
        spans.append((encoder.place_beside(content), content.nbytes))
    return spans


def write_blob(parts: Sequence[Part]) -> bytes:
    """The blob: how many parts, their sizes, their pickles."""
    head = [_COUNT.pack(len(parts)), *(_PART.pack(len(pickled), len(spans)) for pickled, spans in parts)]
    head += [_SPAN.pack(*span) for _, spans in parts for span in spans]
    return b"".join(head + [pickled for pickled, _ in parts])


class ObjectBlob:
    """Verified whole when it is made, loaded part by part."""

    def __init__(
        self, blob: memoryview, beside: Beside, verifier: Signer | None, context: bytes, signature: memoryview
    ) -> None:
        if verifier is None:
            raise KeyUnavailable("the batch holds signed objects, and this process was given no key to verify them")
        try:
            self._read_head(blob, beside)
        except (struct.error, ValueError) as error:
            raise CheckpointDamaged(f"encoded objects are damaged: {error}") from None
        digests = hashlib.sha256()
        for _, buffers in self._parts:
            for buffer in buffers:
                digests.update(buffer)
        digests.update(blob)
        #: What the signature is made over.
        self.digest = digests.digest()
        verifier.verify(context, self.digest, bytes(signature))
        self._signer = verifier
        self._has_closed = False
        self._loaded: dict[int, list[Any]] = {}
        self.error: str | None = None

    def _read_head(self, blob: memoryview, beside: Beside) -> None:
        (count,) = _COUNT.unpack_from(blob)
        here = _COUNT.size
        if count * _PART.size > len(blob):
            raise ValueError("more parts than bytes")
        sizes = [_PART.unpack_from(blob, here + i * _PART.size) for i in range(count)]
        here += count * _PART.size
        span_count = sum(buffer_count for _, buffer_count in sizes)
        if here + span_count * _SPAN.size + sum(size for size, _ in sizes) != len(blob):
            raise ValueError("its lengths do not add up")
        spans = iter([beside.take(*_SPAN.unpack_from(blob, here + i * _SPAN.size)) for i in range(span_count)])
        ends = list(accumulate((size for size, _ in sizes), initial=here + span_count * _SPAN.size))
        self._parts = [
            (blob[ends[i] : ends[i + 1]], [next(spans) for _ in range(buffer_count)])
            for i, (_, buffer_count) in enumerate(sizes)
        ]

    def find(self, part: int, number: int) -> Any:
        """The object, or None with ``error`` set."""
        if part not in self._loaded:
            if part >= len(self._parts):
                raise ValueError("an object that is not there")
            if not self._signer.opens_objects:
                self._has_closed = True
                return ClosedObject(part, number)
            try:
                self._loaded[part] = load_objects(*self._parts[part])
            except UnreadableObject as error:
                self.error = str(error)
                return None
        objects = self._loaded[part]
        if number >= len(objects):
            raise ValueError("an object that is not there")
        return objects[number]

    def met_closed(self) -> bool:
        """Whether objects were met since this was asked last, and not opened."""
        met, self._has_closed = self._has_closed, False
        return met

    def repack(self, encoder: Encoder, numbers: Sequence[int], digests: Any) -> list[Part]:
        """These parts as they are, for another batch."""
        used = [self._parts[number] for number in numbers]
        return [(bytes(pickled), place_beside(encoder, buffers, digests)) for pickled, buffers in used]

    def unreadable(self) -> Unreadable:
        """The item that ``error`` is about; clears it for the next."""
        text, self.error = self.error, None
        return Unreadable(EmissionNotSerializable(f"an object of this value cannot be built here: {text}"))
