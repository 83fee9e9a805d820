"""Blobs that nobody will ever name: what workers had written when they, or their supervisor, died.

Not here: blobs that were named and are not needed any more (they are released, see `housekeeping`). The rule it
owns (5): a blob goes only when nothing that stands names it and nothing that can still be committed will. The
commits that could were made by its writer's supervisor, so that is known in two cases: the writer belonged to an
earlier owner (our OPEN follows a SEAL: whatever that owner committed lies below it), or it is one of ours that
was dead when the epoch before the last one ended (whatever it reported was committed by then).

What is asked of the log is more than needed: a name counts as named wherever its letters stand in a commit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from .layout import BLOBS, parse_epoch
from .place import Place
from .reader import LogReader, LogRef, records_in

_NAME: Final = re.compile(rb"e\d{7,10}/[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Sweep(NamedTuple):
    """What is to be looked through."""

    #: Our epoch when this was decided; the log is read up to the SEAL before it.
    epoch: int
    #: Our first epoch: blobs of earlier ones were written by other owners' workers.
    first_epoch: int
    #: Pids of our workers that were alive when the epoch before `epoch` ended.
    living: Collection[int] = ()


def find(
    place: Place,
    sweep: Sweep,
    released: Collection[str],
    named: Callable[[LogRef, bytes], None],
    is_over: Callable[[], bool],
) -> list[str]:
    """The blobs that nobody names. `named` is called with each frame that names one of the others.

    `released`: those whose end is decided already. `is_over`: whether there is no need to go on.

    Raises:
        CheckpointDamaged: the log cannot be read, so nothing can be said.
    """
    left = _candidates(place, sweep).difference(released)
    if not left:
        return []
    reader = LogReader(place)
    unnamed = set(left)
    # What lies in the folder of an epoch was written in it, and is named there or later.
    for epoch in range(min(map(_epoch_of, left)), sweep.epoch):
        for file in reader.epoch_files(epoch):
            if is_over():
                return []
            for index in records_in(file):
                frame = file.frames[index]
                found = names_in(frame) & left
                if found:
                    unnamed -= found
                    named(LogRef(epoch, file.header.number, index), frame)
    return sorted(unnamed)


def names_in(frame: bytes) -> set[str]:
    """Everything in a frame that reads like the name of a blob."""
    return {match.decode("ascii") for match in _NAME.findall(frame)}


def may_be_left(name: str, sweep: Sweep) -> bool:
    """Whether no commit from `sweep.epoch` on can name the blob for the first time."""
    epoch, writer = _epoch_of(name), _writer_of(name)
    is_dead = epoch < sweep.epoch - 1 and writer is not None and writer not in sweep.living
    return epoch < sweep.epoch and (epoch < sweep.first_epoch or is_dead)


def _candidates(place: Place, sweep: Sweep) -> set[str]:
    folders = [folder for folder in place.names(BLOBS) if parse_epoch(folder) is not None]
    names = (f"{folder}/{name}" for folder in folders for name in place.names(BLOBS, folder))
    return {name for name in names if may_be_left(name, sweep)}


def _writer_of(name: str) -> int | None:
    """The pid of the worker that wrote the blob of this name; None when the name does not say."""
    pid, dot, _ = name.partition("/")[2].partition(".")
    return int(pid) if dot and pid.isascii() and pid.isdigit() else None


def _epoch_of(name: str) -> int:
    return parse_epoch(name.partition("/")[0]) or 0
