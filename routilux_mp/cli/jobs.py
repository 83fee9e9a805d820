"""All jobs below a root, read from their files: dead ones too, and without touching anything.

``job_state.json`` says how a job stands and the log's newest epoch says who owns it, so that listing
many jobs stays quick; only a job that has no such view yet is folded from its log. The rule it owns:
one job that cannot be read is a line that says why, never the end of the listing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from .._storage import frames
from .._storage.files import FileSystem
from .._storage.layout import (
    COMMIT_FILE_BYTES_MAX,
    EPOCHS,
    STATE_VIEW,
    VIEW_BYTES_MAX,
    commit_name,
    epoch_name,
    is_job_id,
    parse_commit,
    parse_epoch,
)
from .._storage.lease import Sign, read_signs
from .._storage.owner import OwnerInfo, start_ticks, this_process
from .._storage.path_files import system_files
from .._storage.views import unwrap
from ..errors import NeverBegan, RoutiluxError, StorageError
from ..settings import Settings

_ENDED = frozenset({"completed", "failed", "cancelled"})
#: Made, and nothing of it is on record: just now, while the disk is full, or for ever.
_PENDING = "pending"


@dataclass(frozen=True, slots=True)
class ListedJob:
    """One line of ``status``."""

    job_id: str
    flow_id: str
    #: As the view says; empty when there is none.
    status: str
    created_at: str
    updated_at: str
    #: Activations that wait, as the view says.
    pending_count: int
    #: ``live``: its process runs here. ``gone``: it does not. ``elsewhere``: another host's. ``none``: nobody's.
    owner: str
    host: str
    pid: int
    path: str
    #: Why something of it could not be read, or empty.
    trouble: str = ""
    #: Why its owner cannot write it now, as its heartbeat says, or empty.
    blocked: str = ""

    @property
    def is_orphan(self) -> bool:
        """Whether it wants to be resumed: unfinished and nobody runs it."""
        return self.status not in (*_ENDED, "paused", _PENDING) and self.owner in ("gone", "none")

    @property
    def has_never_begun(self) -> bool:
        """Whether its maker ended before anything of it was written: there is nothing to resume."""
        return self.status == _PENDING and self.owner in ("gone", "none")

    def to_document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "is_orphan": self.is_orphan, "has_never_begun": self.has_never_begun}


def list_jobs(root: str) -> list[ListedJob]:
    """The jobs below a root, the latest changed first.

    Raises:
        StorageError: the root cannot be read.
    """
    files = system_files(group_shared=Settings.load().group_shared)
    try:
        at = files.open_root(root, create=False)
    except OSError as error:
        raise StorageError(f"{root} cannot be read: {error.strerror}; name the checkpoint root") from None
    try:
        signs = {sign.owner.token: sign for sign in read_signs(files, at)}
        found = [_Reader(files, at, root, entry.name, entry.mtime_ns).listed(signs) for entry in _entries(files, at)]
    finally:
        files.close(at)
    return sorted(found, key=lambda job: (job.updated_at, job.job_id), reverse=True)


def read_job(path: str) -> ListedJob:
    """One job by its directory.

    Raises:
        StorageError: it is no job's directory.
    """
    root, name = os.path.split(os.path.abspath(path))
    for job in list_jobs(root):
        if job.job_id == name:
            return job
    raise StorageError(f"{path} is not a job's directory; `routilux-mp status {root}` lists those there are")


def _entries(files: FileSystem, at: int) -> Iterator[Any]:
    for entry in files.entries(at):
        if entry.is_dir and is_job_id(entry.name):
            yield entry


class _Reader:
    """Reads what one line needs of one job."""

    def __init__(self, files: FileSystem, root: int, root_path: str, job_id: str, mtime_ns: int) -> None:
        self._files, self._root, self._job_id = files, root, job_id
        self._root_path, self._path = root_path, os.path.join(root_path, job_id)
        self._mtime_ns = mtime_ns
        self._trouble: list[str] = []

    def listed(self, signs: Mapping[str, Sign]) -> ListedJob:
        """The line; what could not be read is empty and named in ``trouble``."""
        view: dict[str, Any] = {}
        owner, sealed = None, False
        try:
            at = self._files.open_dir(self._job_id, self._root)
        except OSError as error:
            self._trouble.append(f"cannot be opened: {error.strerror}")
        else:
            try:
                view = self._view(at)
                owner, sealed = self._owner(at)
            finally:
                self._files.close(at)
        return ListedJob(
            job_id=self._job_id,
            flow_id=str(view.get("flow_id", "")),
            status=str(view.get("status", "")),
            created_at=str(view.get("created_at", "")),
            updated_at=str(view.get("updated_at", "")),
            pending_count=len(view.get("pending_tasks") or ()),
            owner="none" if owner is None or sealed else owner_state(owner),
            host="" if owner is None else owner.host,
            pid=0 if owner is None else owner.pid,
            path=self._path,
            trouble="; ".join(self._trouble),
            blocked=""
            if owner is None or owner.token not in signs
            else signs[owner.token].blocked.get(self._job_id, ""),
        )

    def _view(self, at: int) -> dict[str, Any]:
        try:
            raw = self._files.read(STATE_VIEW, at, VIEW_BYTES_MAX)
            view = json.loads(unwrap(raw, STATE_VIEW)[1])
        except FileNotFoundError:
            return self._folded()
        except OSError as error:
            self._trouble.append(f"{STATE_VIEW}: {error.strerror}")
        except ValueError as error:
            self._trouble.append(f"{STATE_VIEW}: {error}")
        except RoutiluxError as error:
            self._trouble.append(str(error))
        else:
            if isinstance(view, dict):
                return view
            self._trouble.append(f"{STATE_VIEW} holds no object")
        return {}

    def _folded(self) -> dict[str, Any]:
        """What the view will say, from the log: the job is young, or its owner died young."""
        from .folding import view_of_job

        try:
            view = view_of_job(self._root_path, self._job_id)
        except NeverBegan:
            return {"status": _PENDING}
        except RoutiluxError as error:
            self._trouble.append(str(error))
            return {}
        return {
            "flow_id": view.flow_id,
            "status": view.status,
            "created_at": datetime.fromtimestamp(view.created_ns / 1e9).isoformat(),
            "updated_at": datetime.fromtimestamp(view.updated_ns / 1e9).isoformat(),
            "pending_tasks": range(sum(left for _, left, _ in view.progress.values())),
        }

    def _owner(self, at: int) -> tuple[OwnerInfo | None, bool]:
        """Who opened the newest epoch, and whether that epoch is sealed."""
        try:
            epochs = self._files.open_dir(EPOCHS, at)
        except OSError:
            return None, False  # only the two views: somebody copied them here
        try:
            newest = max(filter(None, map(parse_epoch, self._files.names(epochs))), default=0)
            if not newest:
                return None, False
            folder = self._files.open_dir(epoch_name(newest), epochs)
            try:
                return self._owner_in(folder)
            finally:
                self._files.close(folder)
        except OSError as error:
            self._trouble.append(f"{EPOCHS}: {error.strerror}")
        except RoutiluxError as error:
            self._trouble.append(str(error))
        finally:
            self._files.close(epochs)
        return None, False

    def _owner_in(self, folder: int) -> tuple[OwnerInfo | None, bool]:
        last = max(filter(None, map(parse_commit, self._files.names(folder))), default=0)
        if not last:
            return None, False
        name = commit_name(last)
        header = frames.unpack_header(self._files.read_range(name, folder, 0, frames.HEADER_BYTES), self._path)
        is_sealed = header.kind == frames.SEAL and self._document(folder, name).get("reason") != "roll"
        return OwnerInfo.from_document(self._document(folder, commit_name(1))), is_sealed

    def _document(self, folder: int, name: str) -> dict[str, Any]:
        """What an OPEN or a SEAL says."""
        raw = self._files.read(name, folder, COMMIT_FILE_BYTES_MAX)
        return frames.decode_document(frames.decode(raw, self._path).frames[0], self._path)


def owner_state(owner: OwnerInfo) -> str:
    """``live``, ``gone``, or ``elsewhere`` when it cannot be looked up from this host."""
    here = this_process(b"", 0.0)
    if not owner.is_on_this_host(here):
        return "elsewhere"
    return "live" if owner.start_ticks and start_ticks(owner.pid) == owner.start_ticks else "gone"
