"""One job's directory: opening what is below it, and reading single checkpoint files from there.

Not here: what the files mean together (`replay`). The rule it owns: a job directory or a directory
in it that is a symbolic link is refused, and an I/O error while reading is neither "not there" nor
"damaged" but a StorageError that names the file.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import CheckpointDamaged, StorageError, UnknownName
from .files import FileSystem, FileTooLarge, NotARegularFile, let_go
from .layout import FORMAT_FILE
from .put import Method, Putter

#: Jobs that may share one format.json: what damages the file damages all of them.
FORMAT_LINKS_MAX = 100


class Root:
    """The checkpoint root: two open directories and the way to put, shared by all jobs of a store."""

    def __init__(self, fs: FileSystem, putter: Putter, path: str) -> None:
        self.fs = fs
        self.putter = putter
        self.path = path
        self._handles: dict[str, int] = {}
        self._lock = threading.Lock()
        #: The job whose format.json is linked into others, and how often it still may be.
        self._lender: tuple[str, int] = ("", 0)

    def handle(self, tmp: str = "", *, create: bool = False) -> int:
        """The open root, or its directory `tmp`; kept open until `close`."""
        with self._lock:
            if "" not in self._handles:
                self._handles[""] = self.fs.open_root(self.path, create=create)
            if tmp and tmp not in self._handles:
                # Perhaps made by a reader's process that has no right to write: only writers ask for it.
                self.fs.make_dir(tmp, self._handles[""])
                self._handles[tmp] = self.fs.open_dir(tmp, self._handles[""])
            return self._handles[tmp]

    def borrow_format(self, job_id: str) -> None:
        """This process has put the format.json of `job_id`, and may link the same file into others."""
        self._lender = (job_id, FORMAT_LINKS_MAX if self.putter.method is not Method.MOVED else 0)

    def lend_format(self, job: int) -> bool:
        """Link a format.json that is durable already into the directory `job`; False: one has to be put there."""
        lender, left = self._lender
        if not left:
            return False
        self._lender = (lender, left - 1)
        try:
            source = self.fs.open_dir(lender, self.handle())
            try:
                self.fs.link(FORMAT_FILE, source, FORMAT_FILE, job)
            finally:
                let_go(self.fs, source)
        except OSError:
            # Deleted, one too many, there already, or not known: the same bytes are put, or found, the usual way.
            self._lender = ("", 0)
            return False
        return True

    def close(self) -> None:
        with self._lock:
            while self._handles:
                let_go(self.fs, self._handles.popitem()[1])


class Place:
    """The directory of one job."""

    def __init__(self, root: Root, job_id: str) -> None:
        self.root = root
        self.fs = root.fs
        self.job_id = job_id

    @property
    def path(self) -> str:
        return f"{self.root.path}/{self.job_id}"

    def where(self, *names: str) -> str:
        """How a message names a file of this job."""
        return "/".join((self.path, *names))

    @contextmanager
    def dir(self, *names: str) -> Iterator[int]:
        """An open directory of the job; FileNotFoundError when it is not there."""
        handle = self.open(*names)
        try:
            yield handle
        finally:
            let_go(self.fs, handle)

    def open(self, *names: str) -> int:
        """As `dir`, for the caller to close; errors are named, absence is passed on."""
        try:
            return self.open_plainly(*names)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise StorageError(
                    f"{self.where(*names)} or a directory above it is a symbolic link or no directory; it is not "
                    f"followed. Put the directory itself in its place"
                ) from error
            raise self.unreadable(error, *names) from error

    def open_plainly(self, *names: str) -> int:
        """As `open`, with the operating system's own errors."""
        handle, owned = self.root.handle(), False
        try:
            for name in (self.job_id, *names):
                child = self.fs.open_dir(name, handle)
                if owned:
                    let_go(self.fs, handle)
                handle, owned = child, True
        except OSError:
            if owned:
                let_go(self.fs, handle)
            raise
        return handle

    def read(self, at: int, name: str, limit_bytes: int, *folders: str) -> bytes:
        """A whole file; FileNotFoundError is passed on, everything else is named."""
        try:
            return self.fs.read(name, at, limit_bytes)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.unreadable(error, *folders, name) from error

    def unreadable(self, error: OSError, *names: str) -> StorageError:
        """What an error while reading means."""
        where = self.where(*names)
        if isinstance(error, (NotARegularFile, FileTooLarge)):
            return CheckpointDamaged(f"{where} is damaged: {error.strerror}")
        if error.errno == errno.ELOOP:
            return CheckpointDamaged(f"{where} is a symbolic link where a file must be; it was not followed")
        return StorageError(f"{where} cannot be read: {error.strerror or error}")

    def names(self, *folders: str) -> list[str]:
        """A fresh listing, empty when the directory is not there. A hint, never a proof of absence."""
        try:
            with self.dir(*folders) as at:
                return self.fs.names(at)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self.unreadable(error, *folders) from error

    def look_again(self, wait_s: float, *folders: str) -> None:
        """Wait, then list every directory on the way: what a network client saw missing it now looks up (rule 6)."""
        self.root.putter.sleep(wait_s)
        for depth in range(len(folders) + 1):
            self.names(*folders[:depth])

    def unknown(self) -> UnknownName:
        return UnknownName(f"there is no job '{self.job_id}' in {self.root.path}")
