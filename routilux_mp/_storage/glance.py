"""A cheap look at a job: who opened its newest epoch, and whether and why that is sealed.

Not a reading: nothing is replayed and no chain is checked, and what a listing does not show is
missed. It decides nothing but whether a closer look is worth it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import CheckpointDamaged
from . import frames
from .frames import SEAL
from .layout import COMMIT_FILE_BYTES_MAX, EPOCHS, commit_name, epoch_name, parse_commit, parse_epoch
from .owner import OwnerInfo
from .place import Place
from .reader import document_of


class Glance(NamedTuple):
    """Where a job's log ends, as far as a listing shows."""

    epoch: int
    number: int
    owner: OwnerInfo
    #: Why the epoch is sealed; None while it is open.
    seal_reason: str | None


def glance(place: Place) -> Glance | None:
    """The newest epoch that was opened; None when there is none.

    Raises:
        StorageError: it cannot be read.
        CheckpointDamaged: what is there is not what it should be.
    """
    epochs = sorted(filter(None, map(parse_epoch, place.names(EPOCHS))), reverse=True)
    for epoch in epochs[:2]:  # the newest may have been made and not opened yet
        found = _glance(place, epoch)
        if found is not None:
            return found
    return None


def _glance(place: Place, epoch: int) -> Glance | None:
    folder = (EPOCHS, epoch_name(epoch))
    number = max(filter(None, map(parse_commit, place.names(*folder))), default=0)
    try:
        with place.dir(*folder) as at:
            opened = frames.decode(place.read(at, commit_name(1), COMMIT_FILE_BYTES_MAX, *folder), place.where(*folder))
            reason = None
            if number > 1:
                name = commit_name(number)
                where = place.where(*folder, name)
                try:
                    head = place.fs.read_range(name, at, 0, frames.HEADER_BYTES)
                except OSError as error:
                    raise place.unreadable(error, *folder, name) from error
                if frames.unpack_header(head, where).kind == SEAL:
                    sealed = frames.decode(place.read(at, name, COMMIT_FILE_BYTES_MAX, *folder), where)
                    reason = str(document_of(sealed).get("reason", ""))
    except FileNotFoundError:
        return None
    if opened.header.kind != frames.OPEN:
        raise CheckpointDamaged(f"{place.where(*folder, commit_name(1))} is damaged: it is not an OPEN")
    return Glance(epoch, max(number, 1), OwnerInfo.from_document(document_of(opened)), reason)
