"""Encoded emissions, as they gather, put together into the batches that travel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from .._core.batch import Batch
from .._core.stimuli import Emit
from .._serialization.batch import join_batches
from .._serialization.items import MARKED, WHOLE, join_items

#: (event, encoded item, how to join it); with ``READY`` a whole :class:`Batch` stands in place of the item.
Entry = tuple[int, Any, int]
READY = 3


def assemble(entries: Sequence[Entry], count_max: int, bytes_max: int) -> list[Emit]:
    """Batches of the entries: those of one event in their order, none larger than allowed but for single items."""
    if not entries:
        return []
    events = dict.fromkeys([entry[0] for entry in entries])
    if len(events) == 1:
        [event] = events
        return [Emit(event, batch) for batch in _join(entries, count_max, bytes_max)]
    return [
        Emit(event, batch)
        for event in events
        for batch in _join([entry for entry in entries if entry[0] == event], count_max, bytes_max)
    ]


def size_of(entries: Sequence[Entry]) -> int:
    """Bytes that the entries take."""
    return sum([len(data) if kind != READY else data.size for _, data, kind in entries])


def _join(entries: Sequence[Entry], count_max: int, bytes_max: int) -> list[Batch]:
    kinds = {entry[2] for entry in entries}
    if max(kinds) < WHOLE and len(entries) <= count_max:
        items = [entry[1] for entry in entries]
        data = join_items(items, has_marks=MARKED in kinds)
        if len(data) <= 2 * bytes_max:
            return [Batch(len(items), data)]  # the usual case, without a loop over items
    batches: list[Batch] = []
    run: list[tuple[bytes, int]] = []
    run_bytes = 0
    for _, data, kind in entries:
        is_full = len(run) >= count_max or run_bytes >= bytes_max
        if run and (kind == READY or is_full or len(data) >= bytes_max):
            batches.append(_batch_of(run))
            run, run_bytes = [], 0
        if kind == READY:
            batches.append(data)
        else:
            run.append((data, kind))
            run_bytes += len(data)
    if run:
        batches.append(_batch_of(run))
    return batches


def _batch_of(run: list[tuple[bytes, int]]) -> Batch:
    """One batch of items of any kind."""
    pieces: list[tuple[int, bytes]] = []
    for is_whole, group in groupby(run, lambda item: item[1] == WHOLE):
        if is_whole:
            pieces += [(1, data) for data, _ in group]
        else:
            items = list(group)
            has_marks = any(kind == MARKED for _, kind in items)
            pieces.append((len(items), join_items([data for data, _ in items], has_marks=has_marks)))
    return Batch(len(run), pieces[0][1] if len(pieces) == 1 else join_batches(pieces))
