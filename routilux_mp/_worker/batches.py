"""Encoded emissions, as they gather, put together into the batches that travel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from .._core.batch import Batch
from .._core.stimuli import Emit
from .._serialization.batch import join_batches
from .._serialization.items import MARKED, WHOLE, join_items
from .wire import JobInfo

#: What is kept of one emission: its bytes, with ``WHOLE`` if they are a batch of their own. A :class:`Batch` stands for
#: all that it holds.
Item = bytes | tuple[bytes, int] | Batch


def assemble(out: Sequence[Sequence[Item]], mix: int, info: JobInfo) -> list[Emit]:
    """Batches of what was emitted to each event, in order; none larger than allowed but for single items.

    ``mix``: what there is among them that is not ``PLAIN``, ``MARKED`` or ``WHOLE`` or both. Batches are ``WHOLE``.
    """
    return [
        Emit(event, batch)
        for event, items in enumerate(out)
        if items
        for batch in _join(items, mix, info.batch_count_max, info.batch_bytes_max)
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


def _join(items: Sequence[Item], mix: int, count_max: int, bytes_max: int) -> list[Batch]:
    has_marks = bool(mix & MARKED)
    if not mix & WHOLE and len(items) <= count_max:
        data = join_items(items, has_marks=has_marks)  # type: ignore[arg-type]
        if len(data) <= 2 * bytes_max:
            return [Batch(len(items), data)]  # the usual case, without a loop over items
    batches: list[Batch] = []
    run: list[bytes | tuple[bytes, int]] = []
    run_bytes = 0
    for item in items:
        size = _bytes_of(item)
        is_full = len(run) >= count_max or run_bytes >= bytes_max
        if run and (is_full or size >= bytes_max or type(item) is Batch):
            batches.append(_batch_of(run, has_marks))
            run, run_bytes = [], 0
        if type(item) is Batch:
            batches.append(item)
        else:
            run.append(item)  # type: ignore[arg-type]
            run_bytes += size
    if run:
        batches.append(_batch_of(run, has_marks))
    return batches


def _batch_of(run: list[bytes | tuple[bytes, int]], has_marks: bool) -> Batch:
    """One batch of items of any kind."""
    pieces: list[tuple[int, bytes]] = []
    for kind, group in groupby(run, type):
        if kind is tuple:
            pieces += [(1, data) for data, _ in group]  # type: ignore[misc]
        else:
            items: list[bytes] = list(group)  # type: ignore[arg-type]
            pieces.append((len(items), join_items(items, has_marks=has_marks)))
    return Batch(len(run), pieces[0][1] if len(pieces) == 1 else join_batches(pieces))
