"""Snapshots: the folded state at the start of an epoch, so that replay need not begin at the first.

Not here: what the state is (bytes), when an epoch is rolled, when an old one goes. The rule it
owns: a snapshot belongs to one history; it carries the SHA-256 of the OPEN of its epoch, and one
that follows another OPEN is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import CheckpointDamaged
from . import frames
from .frames import SNAPSHOT
from .layout import SNAPSHOT_BYTES_MAX, SNAPSHOTS, epoch_name, parse_epoch
from .place import Place


class Snapshot(NamedTuple):
    """A snapshot that was read and found whole."""

    epoch: int
    state: bytes
    #: Blobs that no later state names, each with the epoch in which it was released.
    released: tuple[tuple[int, str], ...]
    open_digest: bytes


def encode(
    epoch: int, state: bytes, released: Sequence[tuple[int, str]], *, owner: bytes, nonce: bytes, open_digest: bytes
) -> bytes:
    """The bytes of a snapshot file."""
    document = frames.encode_document({"released": [list(item) for item in released]})
    raw, _ = frames.encode(
        SNAPSHOT, epoch, 1, owner=owner, nonce=nonce, predecessor=open_digest, frames=(state, document)
    )
    return raw


def listed(place: Place) -> list[int]:
    """Epochs that seem to have a snapshot, newest first."""
    return sorted((e for e in map(parse_epoch, place.names(SNAPSHOTS)) if e is not None), reverse=True)


def read(place: Place, epoch: int) -> Snapshot:
    """The snapshot of `epoch`; FileNotFoundError when there is none, CheckpointDamaged when it is not whole."""
    name = epoch_name(epoch)
    with place.dir(SNAPSHOTS) as at:
        raw = place.read(at, name, SNAPSHOT_BYTES_MAX, SNAPSHOTS)
    where = place.where(SNAPSHOTS, name)
    file = frames.decode(raw, where)
    if file.header.kind != SNAPSHOT or file.header.epoch != epoch or len(file.frames) != 2:
        raise CheckpointDamaged(f"{where} is damaged: it is not the snapshot of epoch {epoch}")
    items = frames.decode_document(file.frames[1], where).get("released")
    if not isinstance(items, list):
        raise CheckpointDamaged(f"{where} is damaged: it does not say which blobs were released")
    released = []
    for item in items:
        match item:
            case [int(at_epoch), str(blob)]:
                released.append((at_epoch, blob))
            case _:
                raise CheckpointDamaged(f"{where} is damaged: {item!r} is not a released blob")
    return Snapshot(epoch, file.frames[0], tuple(released), file.header.predecessor)
