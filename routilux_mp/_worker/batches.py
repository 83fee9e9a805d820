"""Encoded emissions, as they gather, put together into the batches that travel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from .._core.batch import Batch
from .._core.stimuli import Emit
from .._serialization.batch import join_batches
from .._serialization.items import MARKED, PLAIN, WHOLE, join_items
from .wire import JobInfo

#: What is kept of one emission: its bytes, and how to join them if that is not ``PLAIN``. A whole :class:`Batch`
#: stands for all that it holds.
Item = bytes | tuple[bytes, int] | Batch


def assemble(out: Sequence[Sequence[Item]], is_mixed: bool, info: JobInfo) -> list[Emit]:
    """Batches of what was emitted to each event, in order; none larger than allowed but for single items.

    ``is_mixed``: not all of them are plain bytes.
    """
    return [
        Emit(event, batch)
        for event, items in enumerate(out)
        if items
        for batch in _join(items, is_mixed, info.batch_count_max, info.batch_bytes_max)
    ]


def size_of(out: Sequence[Sequence[Item]]) -> int:
    """Bytes that the emissions take."""
    return sum([_bytes_of(item) for items in out for item in items])


def count_of(out: Sequence[Sequence[Item]]) -> int:
    """How many emissions there are."""
    return sum([item.count if type(item) is Batch else 1 for items in out for item in items])


def _bytes_of(item: Item) -> int:
    if type(item) is bytes:
        return len(item)
    return len(item[0]) if type(item) is tuple else item.size  # type: ignore[union-attr]


def _join(items: Sequence[Item], is_mixed: bool, count_max: int, bytes_max: int) -> list[Batch]:
    if not is_mixed and len(items) <= count_max:
        data = join_items(items, has_marks=False)  # type: ignore[arg-type]
        if len(data) <= 2 * bytes_max:
            return [Batch(len(items), data)]  # the usual case, without a loop over items
    batches: list[Batch] = []
    run: list[tuple[bytes, int]] = []
    run_bytes = 0
    for item in items:
        size = _bytes_of(item)
        is_full = len(run) >= count_max or run_bytes >= bytes_max
        if run and (is_full or size >= bytes_max or type(item) is Batch):
            batches.append(_batch_of(run))
            run, run_bytes = [], 0
        if type(item) is Batch:
            batches.append(item)
        else:
            run.append((item, PLAIN) if type(item) is bytes else item)  # type: ignore[arg-type]
            run_bytes += size
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
