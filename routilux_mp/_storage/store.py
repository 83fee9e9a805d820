"""The checkpoint root, as the supervisor sees it: prepare, create, read, take over, list.

Not here: what the bytes in the frames mean, and any decision about when to do something. The rule it
owns: reading never writes, and nothing is written before `prepare` has found out how to put safely.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from ..errors import CheckpointDamaged, StorageError
from ..settings import Settings
from . import takeover, views
from .control import Control
from .files import FileSystem, let_go
from .frames import TOKEN_BYTES, Frame
from .glance import Glance, glance
from .layout import BLOBS, FLOW_VIEW, FORMAT_FILE, LOCK_FILE, STATE_VIEW, TMP, check_job_id, is_job_id
from .lease import Heartbeat, Heartbeats
from .log import Tenure, Writer
from .owner import OwnerInfo, this_process
from .path_files import system_files
from .place import Place, Root
from .put import Putter
from .reader import LogReader, LogRef
from .replay import JobLog, read_job
from .watch import is_network

_log = logging.getLogger(__name__)

#: A network client may go on saying "there is no such file" for so long.
ABSENCE_STALE_S = 30.0
#: The lock may be held by a process that is stopped: no take-over waits long for it.
_TAKE_OVER_LOCK_S = 0.2
_BALLAST_BYTES = 64 * 1024
#: Private files of processes that died are swept after this time, by the file system's own clock.
_TMP_KEPT_S = 24 * 3600


class ViewPaths(NamedTuple):
    """Where a person finds a job."""

    job: str
    flow: str
    state: str
    blobs: str


class Store:
    """One per runtime and root. Different jobs may be used from different threads."""

    def __init__(
        self,
        root: str,
        settings: Settings,
        fs: FileSystem | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[int], bytes] = os.urandom,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is touched yet. `clock`, `random` and `sleep` are there for simulations."""
        try:
            self.path = os.path.abspath(root)
        except OSError as error:
            raise StorageError(
                f"the checkpoint directory '{root}' is meant from where this process is, and that was removed "
                f"({error.strerror}). Name it by its whole path"
            ) from error
        self._fs = fs or system_files(group_shared=settings.group_shared)
        self._settings = settings
        owner = random(TOKEN_BYTES)
        self._root = Root(self._fs, Putter(self._fs, owner, sleep), self.path)
        self._writer = Writer(owner, this_process(owner, settings.lease_s, settings.host_id), random, clock)
        self._writer.cost.budget_s = settings.replay_budget_s
        self._writer.cost.log_bytes_max = settings.log_bytes_max
        self._writer.cost.blob_bytes_max = settings.blob_bytes_max
        self._writer.cost.interval_s = settings.roll_interval_s
        self._writer.release_ballast = self._release_ballast
        self._ballast: str | None = None
        self._prepared = False
        self._lock = threading.Lock()

    @property
    def owner(self) -> OwnerInfo:
        """This process, as its OPEN files name it."""
        return self._writer.info

    def prepare(self) -> None:
        """Make the root and find out how to put there (rule 9); once, again after it failed.

        Raises:
            StorageError: it cannot be made or written, with the path and the cure.
            MultiHostUnsupported: hard links do not work there.
        """
        with self._lock:
            if self._prepared:
                return
            try:
                self._root.handle(create=True)
                tmp = self._root.handle(TMP)
                self._root.putter.probe(tmp, single_host=self._settings.single_host, where=self.path)
                self._keep_ballast(tmp)
            except OSError as error:
                raise StorageError(
                    f"the checkpoint directory {self.path} cannot be used: {error.strerror or error}. Make it "
                    f"writable, or name another one with checkpoint_dir=... or ROUTILUX_MP_CHECKPOINT_DIR"
                ) from error
            self._sweep(tmp)
            self._prepared = True

    def create(self, job_id: str, flow_doc: bytes | None, data: Sequence[Frame] = ()) -> Tenure:
        """Begin a job, with its first records. Without `flow_doc` the caller writes that view.

        Raises:
            UsageError: a job of this id exists.
            StorageBlocked: nothing has begun; it may be tried again.
            OutcomeUnknown: it may have begun, with its records, and be taken over as it is.
        """
        place = self.place(job_id)
        self.prepare()
        return takeover.create(place, self._writer, flow_doc, data)

    def read(self, job_id: str) -> JobLog:
        """A reading of the job; nothing is written. A job that only has views has position (0, 0).

        Raises:
            UnknownName: there is no such job.
            CheckpointDamaged: it cannot be read to its end.
        """
        place = self.place(job_id)
        try:
            let_go(place.fs, place.open())
        except FileNotFoundError:
            raise place.unknown() from None
        log = read_job(place, self._writer.clock)
        if log.epoch == 0 and not {FORMAT_FILE, FLOW_VIEW, STATE_VIEW} & set(place.names()):
            raise place.unknown()
        if log.epoch:
            log.unknown_format = takeover.read_format(place) or log.unknown_format
            self._writer.cost.observe(log.file_count, log.size_bytes, log.read_s)
        return log

    def has_only_views(self, job_id: str) -> bool:
        """Somebody put the two documents there; the job itself never ran in this root."""
        names = set(self.place(job_id).names())
        return bool(names) and names <= {FLOW_VIEW, STATE_VIEW, LOCK_FILE}

    def read_views(self, job_id: str) -> tuple[bytes | None, bytes | None]:
        """The documents of flow.json and job_state.json, None where there is none."""
        place = self.place(job_id)
        return views.read(place, FLOW_VIEW), views.read(place, STATE_VIEW)

    def read_flow(self, job_id: str) -> bytes | None:
        """The document of flow.json, None where there is none that is whole."""
        place = self.place(job_id)
        if FLOW_VIEW not in place.names():
            return None  # a fresh listing: what was missing a moment ago is not believed to be missing still
        try:
            return views.read(place, FLOW_VIEW)
        except CheckpointDamaged:
            return None

    def prepare_to_take_over(self) -> None:
        """As `prepare`, and spend now what a take-over should not spend."""
        self.prepare()
        views.load_lock_library()

    def take_over(
        self, job_id: str, reason: Literal["takeover", "handover"] = "takeover", log: JobLog | None = None
    ) -> tuple[JobLog, Tenure]:
        """Own the job: fence whoever owned it, and open the next epoch (rule 3).

        `log`: an earlier reading, on which the decision to take over was based. If another owner has
        opened an epoch since, it is that owner's: Fenced.
        """
        place = self.place(job_id)
        self.prepare()
        log = log if log is not None else self.read(job_id)
        with views.polite_lock(place, _TAKE_OVER_LOCK_S):  # keeps standbys of one host from futile races
            return takeover.take_over(place, self._writer, log, reason)

    def note_replay(self, log: JobLog, seconds: float) -> None:
        """How long reading and folding `log` took in all: what the replay budget is measured with."""
        self._writer.cost.observe(log.file_count, log.size_bytes, seconds)

    def jobs(self) -> list[str]:
        """Ids of the jobs that seem to be there, newest first. A hint, as every listing is."""
        try:
            entries = self._fs.entries(self._root.handle())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.path} cannot be listed: {error.strerror or error}") from error
        found = [entry for entry in entries if entry.is_dir and is_job_id(entry.name)]
        return [entry.name for entry in sorted(found, key=lambda entry: (-entry.mtime_ns, entry.name))]

    def job_ids(self) -> list[str]:
        """As `jobs`, in no order and for the price of one listing."""
        try:
            return [name for name in self._fs.names(self._root.handle()) if is_job_id(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.path} cannot be listed: {error.strerror or error}") from error

    def glance(self, job_id: str) -> Glance | None:
        """Who opened the job's newest epoch and whether it is sealed; None when nothing was ever written."""
        return glance(self.place(job_id))

    def read_frame(self, job_id: str, ref: LogRef) -> bytes:
        """One frame, without reading the log up to there."""
        return LogReader(self.place(job_id)).frame(ref)

    def read_first(self, job_id: str) -> bytes:
        """The first record, without reading the log."""
        return LogReader(self.place(job_id)).first()

    def control(self, job_id: str) -> Control:
        """The requests to a job."""
        self.prepare()
        return Control(self.place(job_id))

    def heartbeat(self) -> Heartbeat:
        """This process's heartbeat."""
        self.prepare()
        return Heartbeat(self._root, self.owner)

    def heartbeats(self) -> Heartbeats:
        """Everybody's, for one reader."""
        absence_s = ABSENCE_STALE_S if self._fs.has_paths and is_network(self.path) else 0.0
        return Heartbeats(self._root, absence_s=absence_s)

    def view_paths(self, job_id: str) -> ViewPaths:
        """Where the job's views and blobs are."""
        job = self.place(job_id).path
        return ViewPaths(job, f"{job}/{FLOW_VIEW}", f"{job}/{STATE_VIEW}", f"{job}/{BLOBS}")

    def close(self) -> None:
        """Let go of the root. Tenures are closed by who holds them."""
        try:
            self._release_ballast()
        finally:
            self._root.close()
            self._prepared = False

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def place(self, job_id: str) -> Place:
        """The job's directory; nothing is looked at."""
        return Place(self._root, check_job_id(job_id))

    def _keep_ballast(self, tmp: int) -> None:
        """A little space, given up when a full disk would keep us from sealing."""
        name = self._root.putter.private_name()
        handle = self._fs.create(name, tmp)
        try:
            self._fs.write(handle, bytes(_BALLAST_BYTES))
        finally:
            self._fs.close(handle)
        self._ballast = name

    def _release_ballast(self) -> bool:
        name, self._ballast = self._ballast, None
        if name is None:
            return False
        try:
            self._fs.unlink(name, self._root.handle(TMP))
        except OSError as error:
            _log.debug("ballast not released", extra={"error": str(error)})
        return True

    def _sweep(self, tmp: int) -> None:
        """Delete what dead processes left in tmp/. A live putter that loses its file just fails at `link`."""
        try:
            entries = self._fs.entries(tmp)
            now_ns = max((entry.mtime_ns for entry in entries), default=0)
            for entry in entries:
                if not entry.is_dir and now_ns - entry.mtime_ns > _TMP_KEPT_S * 1_000_000_000:
                    self._fs.unlink(entry.name, tmp)
        except OSError as error:
            _log.debug("tmp not swept", extra={"error": str(error)})
