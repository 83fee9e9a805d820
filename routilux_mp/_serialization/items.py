"""Emissions encoded one by one, when they are made, and joined into batches later, when they are sent.

An emission must be the value as it was when it was emitted, whatever the handler does with its lists
afterwards; and its error must come while its handler runs. The bytes that come out are those of
``batch``: joining costs a concatenation. What holds objects or large arrays is a batch within the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from .batch import _MARKED_PREFIX, _PLAIN_PREFIX, encode_in_pieces, encode_plain
from .packing import Packer
from .signing import Signer

#: What cannot be changed in place and has one encoding.
ATOMS: Final = frozenset((int, str, float, bool, type(None), bytes))

#: ``data.translate(AMBIGUOUS) is data`` says that nothing in packed data is of a form that several types have
#: (``bytes`` and ``bytearray``, extensions): those begin with one of eleven bytes, all of which this table changes.
#: A few bytes are looked through sooner than the types of the values are looked at.
AMBIGUOUS: Final = bytes(0 if 0xC4 <= n <= 0xC9 or 0xD4 <= n <= 0xD8 else n for n in range(256))
LOOKED_THROUGH_BYTES_MAX: Final = 256

#: What a packer of simple values raises about others.
NOT_SIMPLE: Final = (TypeError, ValueError, OverflowError)

#: Above so many elements looking at all types at once is quicker than a loop.
_MANY: Final = 8

#: How an encoded item is to be joined.
PLAIN, MARKED, WHOLE = 0, 1, 2
#: Too large to be joined: the pieces of a batch of one.
PIECES: Final = 4


def simple_packer() -> Callable[[dict[str, Any]], bytes]:
    """A function that packs a dictionary of simple values as a ``PLAIN`` item; not for use by two threads at once.

    Of others it raises ``NOT_SIMPLE``, and of lone surrogates and huge numbers; but ``AMBIGUOUS`` ones it packs.
    """
    return Packer(strict_types=True).pack  # type: ignore[no-any-return]


def is_simple(value: Any, depth_max: int = 4) -> bool:
    """Whether the value is made of atoms, lists and dictionaries only. No, when it is not quickly found out."""
    kind = type(value)
    if kind is dict:
        if len(value) > _MANY:
            return ATOMS.issuperset(map(type, value)) and ATOMS.issuperset(map(type, value.values()))
        for key, item in value.items():
            if type(key) not in ATOMS:
                return False
            if type(item) not in ATOMS and not (depth_max and is_simple(item, depth_max - 1)):
                return False
        return True
    if kind is not list:
        return kind in ATOMS
    if len(value) > _MANY:
        return ATOMS.issuperset(map(type, value))
    for item in value:
        if type(item) not in ATOMS and not (depth_max and is_simple(item, depth_max - 1)):
            return False
    return True


def encode_item(
    value: Any, signer: Signer | None, context: bytes, bytes_max: int | None = None
) -> tuple[bytes | list[bytes | memoryview], int]:
    """Any value as an item, and how it is to be joined; one of more than ``bytes_max`` in ``PIECES``.

    Raises:
        EmissionNotSerializable, KeyUnavailable: as ``encode_batch``.
    """
    plain = encode_plain(value)
    if plain is not None:
        packed, has_marks = plain
        return packed, MARKED if has_marks else PLAIN
    pieces = encode_in_pieces([value], signer, context)
    if bytes_max is not None and sum(map(len, pieces)) > bytes_max:
        return pieces, PIECES
    data = b"".join(pieces)
    # Strings with lone surrogates are plain, and known as such only now. A batch of one starts with its
    # prefix and the one-byte header of an array of one.
    if data[:1] == _PLAIN_PREFIX:
        return data[2:], PLAIN
    if data[:1] == _MARKED_PREFIX:
        return data[2:], MARKED
    return data, WHOLE


def join_items(items: Sequence[bytes], *, has_marks: bool) -> bytes:
    """A batch of items that are not ``WHOLE``."""
    count = len(items)
    if count < 16:
        header = bytes((0x90 | count,))
    elif count < 1 << 16:
        header = b"\xdc" + count.to_bytes(2, "big")
    else:
        header = b"\xdd" + count.to_bytes(4, "big")
    return b"".join((_MARKED_PREFIX if has_marks else _PLAIN_PREFIX, header, *items))
