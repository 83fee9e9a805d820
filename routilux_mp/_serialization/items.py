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
from .values import MARK_RULES, has_impostor

#: ``data.translate(AMBIGUOUS) is data`` says that nothing in packed data is of a form that several types have
#: (``bytes`` and ``bytearray``, extensions): those begin with one of eleven bytes, all of which this table changes.
#: A few bytes are scanned sooner than the types of the values.
AMBIGUOUS: Final = bytes(0 if 0xC4 <= n <= 0xC9 or 0xD4 <= n <= 0xD8 else n for n in range(256))
SCANNED_BYTES_MAX: Final = 256

#: How an encoded item is to be joined.
PLAIN, MARKED, WHOLE = 0, 1, 2
#: Too large to be joined: the pieces of a batch of one.
PIECES: Final = 4


class ItemPacker:
    """Packs dictionaries of plain values before anybody has looked at them; not for use by two threads at once."""

    def __init__(self) -> None:
        #: Raises ``NOT_PACKED`` for what needs :func:`encode_item`, but not always: ``AMBIGUOUS`` bytes may be wrong.
        self.pack: Callable[[dict[str, Any]], bytes] = Packer(strict_types=True, default=self._mark).pack
        self._has_marked = False

    def kind_of(self, value: Any) -> int | None:
        """``PLAIN`` or ``MARKED``, if the bytes that ``value`` has just been packed to are right; else None."""
        has_marked, self._has_marked = self._has_marked, False
        if has_impostor(value):
            return None
        return MARKED if has_marked else PLAIN

    def _mark(self, value: Any) -> Any:
        rule = MARK_RULES.get(type(value))
        if rule is None:
            raise TypeError(f"{type(value).__name__} is not packed here")
        self._has_marked = True
        return rule(value)


#: What an :class:`ItemPacker` raises.
NOT_PACKED: Final = (TypeError, ValueError, OverflowError)


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
