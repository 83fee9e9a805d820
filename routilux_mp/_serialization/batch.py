"""A batch: the emissions of one event (or one state value) as bytes, encoded once and decoded once.

Layout: one byte of version and flags, then, if something lies beside the values, three lengths; the packed
values; the object blob and its signature; the buffers of large arrays, each aligned to 64 bytes from the
start of the data. A batch of plain values is that byte and one MessagePack array, made and read by C code
without a loop over items in Python.

The rule it owns: nothing is unpickled before the signature over the whole blob, its buffers and its place
(the *context*: format, job, batch, field) has been verified; and an object that cannot be built spoils its
own emission only, never the batch.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import threading
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple

from ..errors import CheckpointDamaged, EmissionNotSerializable, KeyUnavailable
from . import arrays
from .object_blob import ObjectBlob, Part, dump_part, write_blob
from .object_blob import Unreadable as Unreadable
from .packing import Unpacker
from .paths import nesting_fault, path_to
from .places import DOCUMENT_PLACE
from .sealed import Sealed, seal
from .signing import SIGNATURE_BYTES, Signer
from .values import DAMAGE, DEPTH_MAX, Beside, Decoder, Encoder, ObjectFound, damaged, unpack_simple

_VERSION: Final = 0x10
_HAS_MARKS, _HAS_OBJECTS, _HAS_BESIDE, _IS_JOINED = 1, 2, 4, 8
_FLAGS: Final = _HAS_MARKS | _HAS_OBJECTS | _HAS_BESIDE
_LENGTHS: Final = struct.Struct("<QQ")  # packed values, object blob
_COUNT: Final = struct.Struct("<I")
_PIECE: Final = struct.Struct("<IQ")  # items and bytes of one of several batches that were joined
_PLAIN_PREFIX: Final = bytes([_VERSION])
_MARKED_PREFIX: Final = bytes([_VERSION | _HAS_MARKS])


class Encoded(NamedTuple):
    """A batch: how many items, and self-contained bytes."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a batch
    data: bytes


class _Tools(threading.local):
    """One encoder per thread: making one costs more than encoding a batch."""

    def __init__(self) -> None:
        self.encoder = Encoder()


_tools = _Tools()


def encode_batch(values: list[Any], signer: Signer | None, context: bytes) -> Encoded:
    """Encode the items of a batch.

    Args:
        values: the items, any values.
        signer: signs the objects among them; without it only plain values can be encoded.
        context: the place where the batch will be read, part of the signature.

    Raises:
        EmissionNotSerializable: names the path inside the item; ``item_index`` says which item.
        KeyUnavailable: there are objects to be signed and no key.
    """
    return Encoded(len(values), b"".join(encode_in_pieces(values, signer, context)))


def encode_in_pieces(values: list[Any], signer: Signer | None, context: bytes) -> list[bytes | memoryview]:
    """As :func:`encode_batch`, not put together: buffers of large arrays are given as they are, uncopied."""
    encoder = _tools.encoder
    try:
        packed = encoder.pack(values)
        if encoder.beside:
            return _pieces_of(encoder, [packed], b"", b"")
        return [_MARKED_PREFIX if encoder.has_marks else _PLAIN_PREFIX, packed]
    except (ObjectFound, ValueError, OverflowError, RecursionError):
        pass
    finally:
        encoder.reset()  # it would keep large arrays until the next value comes
    return _encode_each(values, signer, context)


def encode_plain(value: Any) -> tuple[bytes, bool] | None:
    """One value as it stands in a batch, and whether it has marks; None when it needs a batch of its own."""
    encoder = _tools.encoder
    try:
        packed = encoder.pack(value)
        return None if encoder.beside else (packed, encoder.has_marks)
    except (ObjectFound, ValueError, OverflowError, RecursionError):
        return None
    finally:
        encoder.reset()


def decode_batch(
    data: bytes | memoryview, verifier: Signer | None, context: bytes, start: int = 0, count: int | None = None
) -> list[Any]:
    """The items from *start*, *count* of them or all. Over a memoryview large arrays share its memory.

    An item whose objects cannot be built is given as ``Unreadable``. With a verifier that opens none, the
    objects are checked and passed on as ``Sealed``.

    Raises:
        CheckpointDamaged: these are not the bytes of a batch, or it has fewer items.
        SignatureInvalid, KeyUnavailable: the objects do not verify; nothing of them was loaded.
    """
    flags = data[0] ^ _VERSION if data else 0xFF
    if flags == _IS_JOINED:
        return _decode_joined(data, verifier, context, start, count)
    if flags > _FLAGS:
        raise CheckpointDamaged("encoded values are damaged: unknown version or flags")
    if flags & (_HAS_OBJECTS | _HAS_BESIDE):
        stop = sys.maxsize if count is None else start + count
        items = _decode_complex(data, flags, verifier, context, start, stop)
    else:
        body = memoryview(data)[1:]
        items = Decoder(has_marks=True).unpack(body) if flags else unpack_simple(body)
        if type(items) is not list:
            raise CheckpointDamaged("encoded values are damaged: not a list of items")
        if start or count is not None:
            items = items[start : None if count is None else start + count]
    if count is not None and len(items) != count:
        raise CheckpointDamaged(f"the batch has {start + len(items)} items, {start + count} were asked for")
    return items


def is_plain_batch(data: bytes | memoryview) -> bool:
    """Whether it holds neither objects nor large arrays: a :class:`PlainReader` can read it."""
    return bool(data) and data[0] ^ _VERSION <= _HAS_MARKS


class PlainReader:
    """A plain batch that is read in parts, in order: no item is decoded twice, or given to two handlers.

    Raises:
        CheckpointDamaged: these are not the bytes of a batch.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        packed = memoryview(data)[1:]
        self._decoder = Decoder(has_marks=bool(data[0] ^ _VERSION))
        self._size = len(packed)
        self._unpacker = Unpacker(max_buffer_size=self._size, **self._decoder.options())
        #: Items before this one are not to be had any more.
        self.given = 0
        try:
            self._unpacker.feed(packed)
            self._count = self._unpacker.read_array_header()
        except DAMAGE as error:
            raise damaged(error) from None

    def take(self, start: int, count: int) -> list[Any]:
        """The items from *start*, which is at least ``given``.

        Raises:
            CheckpointDamaged: these are not the bytes of a batch, or it has fewer items. Nothing more is to be had.
        """
        before, stop = self.given, start + count
        self.given = sys.maxsize
        if stop > self._count:
            raise CheckpointDamaged(f"the batch has {self._count} items, {stop} were asked for")
        try:
            for _ in range(start - before):
                self._unpacker.skip()
            items = [*islice(self._unpacker, count)]
            if len(items) != count or (stop == self._count and self._unpacker.tell() != self._size):
                raise ValueError("the array is shorter or longer than it says")
        except DAMAGE as error:
            raise damaged(error) from None
        self._decoder.check_marks()
        self.given = stop
        return items


def join_batches(batches: Sequence[tuple[int, bytes]]) -> bytes:
    """Several (count, data) for one place as one batch: items with objects are encoded, and signed, one by one."""
    pieces = [bytes([_VERSION | _IS_JOINED]), _COUNT.pack(len(batches))]
    pieces += [_PIECE.pack(count, len(data)) for count, data in batches]
    written = sum(map(len, pieces))
    for _, data in batches:
        pieces += [bytes(_aligned(written) - written), data]
        written = _aligned(written) + len(data)
    return b"".join(pieces)


def encode_value(value: Any, signer: Signer | None, context: bytes) -> bytes:
    """One value, as a batch of one."""
    return encode_batch([value], signer, context).data


def decode_value(data: bytes | memoryview, verifier: Signer | None, context: bytes) -> Any:
    """The value of ``encode_value``.

    Raises:
        EmissionNotSerializable: its objects cannot be built in this process.
        CheckpointDamaged, SignatureInvalid, KeyUnavailable: as ``decode_batch``.
    """
    [value] = decode_batch(data, verifier, context, 0, 1)
    if type(value) is Unreadable:
        raise value.error
    return value


def move_value(data: bytes | memoryview, signer: Signer, old: bytes, new: bytes) -> bytes:
    """What :func:`encode_value` made for the place *old*, for the place *new*. No object is opened.

    Raises:
        CheckpointDamaged, SignatureInvalid, KeyUnavailable: as ``decode_batch``.
    """
    flags = data[0] ^ _VERSION if data else 0xFF
    if flags > _FLAGS:
        raise CheckpointDamaged("encoded values are damaged: unknown version or flags")
    if not flags & _HAS_OBJECTS:
        return bytes(data)
    _, blob, signature, beside, end = _Layout.of(data, flags)
    objects = ObjectBlob(blob, beside, signer, old, signature)
    return b"".join((data[: end - SIGNATURE_BYTES], signer.sign(new, objects.digest), data[end:]))


# -- the slower way in: something is not plain, too deep, or not encodable at all -----------------


def _encode_each(values: list[Any], signer: Signer | None, context: bytes) -> list[bytes | memoryview]:
    encoder = Encoder(unicode_errors="surrogatepass")
    chunks = [encoder.array_header(len(values))]
    parts: list[Part] = []
    digests = hashlib.sha256()
    for index, item in enumerate(values):
        objects: list[Any] = []

        def keep(value: Any, objects: list[Any] = objects) -> tuple[int, int]:
            objects.append(value)
            return len(parts), len(objects) - 1

        encoder.keep_object = keep
        try:
            chunks.append(encoder.pack(item))
            if objects:
                if signer is None:
                    raise _needs_key(item, objects[0])
                parts.append(dump_part(encoder, item, objects, digests))
        except (ValueError, OverflowError, RecursionError) as error:
            raise _about(index, _not_plain(item, error)) from None
        except EmissionNotSerializable as error:
            raise _about(index, error)  # noqa: B904 - the same error, with its place
    if not parts or signer is None:
        return _pieces_of(encoder, chunks, b"", b"")
    return _signed_pieces(encoder, chunks, parts, digests, signer, context)


def _signed_pieces(
    encoder: Encoder, chunks: list[bytes], parts: list[Part], digests: Any,
    signer: Signer, context: bytes,
) -> list[bytes | memoryview]:  # fmt: skip
    blob = write_blob(parts)
    digests.update(blob)
    return _pieces_of(encoder, chunks, blob, signer.sign(context, digests.digest()))


def _pieces_of(encoder: Encoder, chunks: list[bytes], blob: bytes, signature: bytes) -> list[bytes | memoryview]:
    flags = _HAS_MARKS * encoder.has_marks | _HAS_OBJECTS * bool(blob) | _HAS_BESIDE * bool(encoder.beside)
    prefix = bytes([_VERSION | flags])
    if not flags & (_HAS_OBJECTS | _HAS_BESIDE):
        return [prefix, *chunks]
    packed_bytes = sum(map(len, chunks))
    pieces: list[bytes | memoryview] = [prefix, _LENGTHS.pack(packed_bytes, len(blob)), *chunks, blob, signature]
    written = 1 + _LENGTHS.size + packed_bytes + len(blob) + len(signature)
    base = _aligned(written)
    for offset, content in encoder.beside:
        pieces += [bytes(base + offset - written), content]
        written = base + offset + len(content)
    return pieces


def _aligned(offset: int) -> int:
    return -(-offset // arrays.ALIGNMENT_BYTES) * arrays.ALIGNMENT_BYTES


def _about(index: int, error: EmissionNotSerializable) -> EmissionNotSerializable:
    error.item_index = index  # type: ignore[attr-defined]
    return error


def _not_plain(item: Any, error: Exception) -> EmissionNotSerializable:
    if "recursion" in str(error):
        return EmissionNotSerializable(
            f"{nesting_fault(item, 'value', DEPTH_MAX)}; emit a flat structure, or wrap it in an object"
        )
    return EmissionNotSerializable(f"value cannot be serialized: {error}")


def _needs_key(item: Any, found: Any) -> KeyUnavailable:
    return KeyUnavailable(
        f"{path_to(item, 'value', found)} ({type(found).__name__}) is an object, which must be signed, "
        "and this process was given no key; emit plain data, or give the job a signing key"
    )


def _decode_joined(
    data: bytes | memoryview, verifier: Signer | None, context: bytes, start: int, count: int | None
) -> list[Any]:
    items: list[Any] = []
    try:
        (pieces,) = _COUNT.unpack_from(data, 1)
        table = 1 + _COUNT.size
        here = table + pieces * _PIECE.size
        if here > len(data):
            raise ValueError("more parts than bytes")
        first, stop = 0, sys.maxsize if count is None else start + count
        for number in range(pieces):
            size, length = _PIECE.unpack_from(data, table + number * _PIECE.size)
            here = _aligned(here)
            piece = data[here : here + length]
            if len(piece) != length or not piece or piece[0] ^ _VERSION > _FLAGS:
                raise ValueError("a part that is not there, or is no batch")
            low, high = max(start - first, 0), min(stop - first, size)
            if low < high:
                items += decode_batch(piece, verifier, context, low, high - low)
            first, here = first + size, here + length
    except (struct.error, ValueError) as error:
        raise CheckpointDamaged(f"encoded values are damaged: {error}") from None
    if count is not None and len(items) != count:
        raise CheckpointDamaged(f"the batch has {first} items, {start + count} were asked for")
    return items


# -- the slower way back ----------------------------------------------------------------------------


class _Layout(NamedTuple):
    """Where the pieces of a batch are that is not all plain."""

    packed: memoryview
    blob: memoryview
    signature: memoryview
    beside: Beside
    end: int  # of all of them; the buffers of large arrays come after it

    @classmethod
    def of(cls, data: bytes | memoryview, flags: int) -> _Layout:
        view = memoryview(data)
        here = 1 + _LENGTHS.size
        if len(view) < here:
            raise CheckpointDamaged("encoded values are damaged: cut off")
        packed_bytes, blob_bytes = _LENGTHS.unpack_from(view, 1)
        signature_bytes = SIGNATURE_BYTES if flags & _HAS_OBJECTS else 0
        end = here + packed_bytes + blob_bytes + signature_bytes
        if end > len(view) or (not signature_bytes and blob_bytes):
            raise CheckpointDamaged("encoded values are damaged: lengths reach beyond the end")
        if not flags & _HAS_BESIDE and end != len(view):
            raise CheckpointDamaged("encoded values are damaged: bytes are left over")
        beside = Beside(data, _aligned(end)) if flags & _HAS_BESIDE else Beside(b"")
        blob_at = here + packed_bytes
        return cls(
            view[here:blob_at], view[blob_at : end - signature_bytes], view[end - signature_bytes : end], beside, end
        )


def _decode_complex(
    data: bytes | memoryview, flags: int, verifier: Signer | None, context: bytes, start: int, stop: int
) -> list[Any]:
    packed, blob, signature, beside, _ = _Layout.of(data, flags)
    has_marks = bool(flags & _HAS_MARKS)
    if not signature:
        return list(Decoder(has_marks, beside).unpack_each(packed, start, stop))
    objects = ObjectBlob(blob, beside, verifier, context, signature)
    each = Decoder(has_marks, beside, objects.find).unpack_each(packed, start, stop)
    if verifier is not None and not verifier.opens_objects:
        close = partial(_closed, objects=objects, signer=verifier)
        return [seal(item, close) if objects.met_closed() else item for item in each]
    return [item if objects.error is None else objects.unreadable() for item in each]


def _closed(value: Any, objects: ObjectBlob, signer: Signer) -> Sealed:
    """A value with closed objects as a batch of one: their pickles as they were, signed for documents."""
    encoder = Encoder(unicode_errors="surrogatepass")
    numbers: dict[int, int] = {}
    encoder.keep_object = lambda found: (numbers.setdefault(found.part, len(numbers)), found.number)
    chunks = [encoder.array_header(1), encoder.pack(value)]
    digests = hashlib.sha256()
    parts = objects.repack(encoder, list(numbers), digests)
    return Sealed(b"".join(_signed_pieces(encoder, chunks, parts, digests, signer, DOCUMENT_PLACE)))
