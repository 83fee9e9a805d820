"""Emissions encoded one by one, when they are made, and joined into batches later, when they are sent.

An emission must be the value as it was when it was emitted, whatever the handler does with its lists
afterwards; and its error must come while its handler runs. The bytes that come out are those of
``batch``: joining costs a concatenation. What holds objects or large arrays is a batch within the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from .batch import _MARKED_PREFIX, _PLAIN_PREFIX, encode_batch
from .packing import Packer
from .signing import Signer

#: What cannot be changed in place and has one encoding: a dictionary of such values is packed without asking.
ATOMS: Final = frozenset((int, str, float, bool, type(None), bytes))

#: How an encoded item is to be joined.
PLAIN, MARKED, WHOLE = 0, 1, 2


def flat_packer() -> Callable[[dict[str, Any]], bytes]:
    """A function that packs a dictionary of atoms as a ``PLAIN`` item; not for use by two threads at once.

    It raises ``ValueError`` or ``OverflowError`` for the rare ones that need :func:`encode_item`.
    """
    return Packer(strict_types=True).pack  # type: ignore[no-any-return]


def encode_item(value: Any, signer: Signer | None, context: bytes) -> tuple[bytes, int]:
    """Any value as an item, and how it is to be joined.

    Raises:
        EmissionNotSerializable, KeyUnavailable: as ``encode_batch``.
    """
    data = encode_batch([value], signer, context).data
    # A batch of one starts with its prefix and the one-byte header of an array of one.
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
