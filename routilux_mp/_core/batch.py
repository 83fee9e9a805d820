"""A batch: emissions that were encoded together and move together. Opaque to everybody but workers."""

from __future__ import annotations


class Batch:
    """``count`` emissions in ``data``, or in the log at ``ref`` when memory was short.

    Shared by every slot that the event feeds. The only thing that ever changes is *where* the
    bytes are: ``ref`` is set once when the commit that carries them gets its place in the log, and
    ``data`` may then be dropped and read back.
    """

    __slots__ = ("count", "data", "ref", "size")

    def __init__(
        self, count: int, data: bytes | None, ref: tuple[int, int, int, int] | None = None, size: int | None = None
    ) -> None:
        self.count = count
        #: Encoded emissions (a whole batch, or a short reference to a blob file).
        self.data = data
        #: (epoch, commit, frame, number within the frame)
        self.ref = ref
        self.size = len(data or b"") if size is None else size

    def __repr__(self) -> str:
        return f"Batch({self.count}, {self.size} bytes, {self.ref})"
