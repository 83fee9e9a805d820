"""What the supervisor needs of a store, so that a job that keeps nothing can have one too.

Two implementations: this package's (`store`, `log`, `replay`), and a supervisor's own for
`durability="none"`. Nothing here runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

from .blobs import BlobRef
from .frames import Frame
from .owner import OwnerInfo
from .reader import LogRef


class JobReading(Protocol):
    """As `replay.JobLog`."""

    job_id: str
    snapshot: bytes | None
    epoch: int
    commit: int
    is_sealed: bool
    seal_reason: str | None
    owner: OwnerInfo | None

    def frames(self) -> Iterator[tuple[LogRef, bytes]]: ...
    def history(self) -> Iterator[tuple[LogRef, bytes]]: ...
    def read(self, ref: LogRef) -> bytes: ...


class CommitRight(Protocol):
    """As `log.Tenure`."""

    job_id: str
    epoch: int
    number: int

    def next_position(self) -> tuple[int, int]: ...
    def commit(self, data: Sequence[Frame]) -> None: ...
    def should_roll(self, snapshot_bytes_estimate: int) -> bool: ...
    def roll(self, snapshot: bytes) -> None: ...
    def housekeep(self) -> None: ...
    def seal(self, reason: Literal["handover", "ended"]) -> None: ...
    def write_views(
        self, flow_doc: bytes | None, state_doc: bytes, position: tuple[int, int] | None = None
    ) -> None: ...
    def read(self, ref: LogRef) -> bytes: ...
    def release_blobs(self, names: Iterable[str]) -> None: ...
    def put_blob(self, name: str, chunks: Iterable[bytes]) -> BlobRef: ...
    def blob_dir(self) -> str: ...
    def blob_path(self, name: str) -> str: ...
    def close(self) -> None: ...
