"""The files that the activations of one worker make: blobs of large payloads, and outputs not yet in place.

The rules it owns: a file belongs to the activation that made it, then to the report that names it; when
neither comes to anything, the file goes too. No report leaves before the blobs that it names are durable;
until then the handler goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from .._core.batch import Batch
from .._serialization.items import WHOLE
from ..errors import StorageBlocked
from .batches import Item
from .spill import Piece, Spiller, is_reference
from .wire import JobInfo
from .writing import Writers, Writing

_BLOCKED_RETRY_S = 0.2
#: Payloads that are kept in memory, and go into the log, while blobs cannot be written.
_BLOCKED_HELD_MAX = 8 * 1024 * 1024


class HandedBack(BaseException):
    """The work was revoked while its results waited for the disk, or was lost there; a handler must not catch this."""


class Files:
    """What was made and is in no report yet."""

    def __init__(self, *, may_overlap: bool = False) -> None:
        """``may_overlap``: other threads may wait for the disk."""
        self._spiller = Spiller()
        self._writers = Writers() if may_overlap else None
        self._writing: dict[str, Writing] = {}
        self._running: list[str] = []
        self._finished: list[str] = []

    def add(self, path: str) -> None:
        """The running activation has made this file."""
        self._running.append(path)

    def finish(self) -> None:
        """The running activation has returned, or committed a cursor."""
        self._finished += self._running
        self._running = []

    def give_away(self) -> None:
        """A report names what finished activations have made: it is the supervisor's, now that it is durable.

        Raises:
            HandedBack: the disk has lost some of it. The report must not leave.
        """
        if self._writing:
            self._wait()
        self._finished = []

    @property
    def is_writing(self) -> bool:
        """A report would have to wait for the disk, and may go later."""
        if not self._writing or self._writers is None or self._writers.is_behind:
            return False
        return any(not writing.is_over for _, writing in self._of_finished())

    @property
    def are_there(self) -> bool:
        """Finished activations have made blobs, and all of these are durable."""
        return bool(self._writing) and bool(self._of_finished()) and not self.is_writing

    def settle(self) -> None:
        """Wait until no report has to."""
        while self.is_writing:
            for _, writing in self._of_finished():
                writing.stands()

    def _write(self, size: int, path: str, make_durable: Callable[[], None]) -> None:
        self._writing[path] = writing = Writing(size, make_durable)
        assert self._writers is not None
        self._writers.submit(writing)

    def _of_finished(self) -> list[tuple[str, Writing]]:
        running = set(self._running)
        return [(path, writing) for path, writing in list(self._writing.items()) if path not in running]

    def _wait(self) -> None:
        for path, writing in self._of_finished():
            if not writing.stands():
                time.sleep(_BLOCKED_RETRY_S)
                raise HandedBack
            self._writing.pop(path, None)

    def undo(self, *, with_finished: bool = False) -> None:
        """Remove what the running activation has made; and what no report will name any more."""
        for path in [*self._running, *(self._finished if with_finished else ())]:
            try:
                os.unlink(path)
            except OSError:
                pass  # it was never made, or is not ours any more
            self._writing.pop(path, None)
        self._running = []
        if with_finished:
            self._finished = []
            self._writing = {}

    def close(self) -> None:
        """Nothing is made any more."""
        if self._writers is not None:
            self._writers.close()

    def put(
        self, info: JobInfo, payloads: Sequence[Sequence[Piece]], size: int, is_revoked: Callable[[], bool]
    ) -> tuple[str, list[bytes]] | None:
        """Payloads of this size in all into one blob: its path and the references; None if they must stay here.

        Raises:
            HandedBack: the disk is full, and the work was taken back meanwhile.
        """
        if info.blob_dir is None:
            return None
        later = partial(self._write, size) if self._writers is not None and info.is_durable else None
        while True:
            try:
                return self._spiller.put(info.blob_dir, payloads, later, info.is_durable)
            except StorageBlocked:
                # The disk is full: the job is blocked, not failed. In the report the payloads show the supervisor,
                # whose commit meets the same disk and says so; what is too much for that waits here.
                if size <= _BLOCKED_HELD_MAX or not info.is_durable:
                    return None
                if is_revoked():
                    raise HandedBack from None
                time.sleep(_BLOCKED_RETRY_S)

    def place(
        self, info: JobInfo, pieces: Sequence[Piece], is_revoked: Callable[[], bool]
    ) -> tuple[Item, bytes]:  # fmt: skip
        """One emission of the running activation that is too large for a message: its item, and the bytes in that.

        It goes to its blob at once, since put together here it would be copied first.
        """
        placed = self.put(info, [pieces], sum(map(len, pieces)), is_revoked)
        if placed is None:
            data = b"".join(pieces)
            return (data, WHOLE), data
        path, [data] = placed
        self.add(path)
        return Batch(1, data), data

    def spill(
        self, info: JobInfo, batches: Sequence[Batch], bytes_max: int, size: int, is_revoked: Callable[[], bool]
    ) -> str | None:
        """Put payloads above ``bytes_max`` into one blob, references in their place; its path, if there was one."""
        big = [(b, b.data) for b in batches if b.data is not None and b.size > bytes_max and not is_reference(b.data)]
        placed = self.put(info, [[data] for _, data in big], size, is_revoked) if big else None
        if placed is None:
            return None
        path, references = placed
        for (batch, _), reference in zip(big, references, strict=True):
            batch.data = reference
            batch.size = len(reference)
        return path
