"""put-if-absent: the only safety primitive, and what each error of it means (rules 1, 6 and 9).

Not here: what is put. The rule it owns: an error before `link` changed nothing (StorageBlocked, the
same bytes may be tried again); an error at or after `link` means that the outcome is unknown
(OutcomeUnknown, whoever tried gives up); a failed fsync is never repeated on the same file.

The private file is one without a name where the probe found that `O_TMPFILE` and `link` work
together (one create and one unlink less: 0.05 to 0.1 ms of 0.4 ms a commit on local ext4, and a
killed writer leaves nothing behind); elsewhere it has a name in `tmp/`. Both are the same protocol:
written and fsynced privately, then given its name by one `link`. Where there is no `link` at all, an
operator whose root is used by one host only may opt in to a rename that replaces nothing: the same again, decided by
that host's kernel. (Never `O_EXCL` in place: a kill in the middle would leave a cut file that nobody can replace.)
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from itertools import chain, count
from typing import TypeVar

from ..errors import MultiHostUnsupported, OutcomeUnknown, StorageBlocked, StorageError
from .files import FileSystem, let_go
from .frames import HEADER_BYTES
from .layout import SMALL_FILE_BYTES_MAX

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Waits between looks at a file that must exist but is not seen yet: a network client answers
#: "not there" from its cache for up to 29 s.
LOOK_AGAIN_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class Method(Enum):
    """How a file gets its name."""

    UNNAMED = "unnamed private file, then link"
    NAMED = "private file in tmp/, then link"
    MOVED = "private file in tmp/, then a rename that replaces nothing"


class Putter:
    """Puts files, in the way that the probe found to work on this file system."""

    def __init__(self, fs: FileSystem, owner: bytes, sleep: Callable[[float], None] = time.sleep) -> None:
        self.fs = fs
        self.method = Method.NAMED
        self._prefix = owner.hex()
        self._serial = count(1)
        self.sleep = sleep

    def private_name(self) -> str:
        """A name in `tmp/` that no other process and no other call uses."""
        return f"{self._prefix}-{next(self._serial)}"

    def put(
        self, tmp: int, at: int, name: str, data: Sequence[bytes], *,
        where: str, is_synced: bool = True, above: Sequence[int] = (), rest: Iterable[bytes] = (),
    ) -> bool:  # fmt: skip
        """Put `name` into the directory `at`: True when ours stands, durable; False when another's does.

        The first HEADER_BYTES of `data` identify it (owner and nonce are among them). Without `is_synced`
        the content is durable and the caller has to fsync the directory before it relies on the name.
        `above`: directories that are made durable before the name is given. After the content, since on a
        journaling file system its fsync has done most of their work. `rest`: what follows `data`, made while it is
        written; what that raises is passed on, and nothing changed.

        Raises:
            StorageBlocked: nothing changed.
            OutcomeUnknown: it may stand or not.
        """
        private = "" if self.method is Method.UNNAMED else self.private_name()
        handle: int | None = self._write_private(tmp, at, private, chain(data, rest), where)
        try:
            if self.method is Method.MOVED:  # Windows renames no file that is open
                self._drop(handle, "", tmp)
                handle = None
            self._sync(above, where)
            with outcome_unknown(where):
                try:
                    if self.method is Method.MOVED:
                        self.fs.move(private, tmp, name, at)
                        private = ""  # it is the file itself now
                    elif private:
                        self.fs.link(private, tmp, name, at)
                    elif handle is not None:
                        self.fs.link_unnamed(handle, name, at)
                except FileExistsError:
                    # Perhaps ours: a network client repeats a request whose reply was lost.
                    if not self._is_ours(at, name, data):
                        return False
                except PermissionError as error:
                    # All that sshfs has for "exists". What is seen to stand there decides, else it is unknown.
                    if not self._is_ours(at, name, data, error):
                        return False
                if is_synced:
                    self.fs.fsync(at)
        finally:
            # The file stands and is durable, or its outcome is unknown already: trouble here adds nothing.
            self._drop(handle, private, tmp)
        return True

    def read_standing(self, at: int, read: Callable[[], T]) -> T:
        """A file that must be there because `link` said so (rule 6): look again until it is seen."""
        for wait_s in LOOK_AGAIN_S:
            try:
                return read()
            except FileNotFoundError:
                self.sleep(wait_s)
                self.fs.names(at)
        return read()

    def _sync(self, directories: Sequence[int], where: str) -> None:
        with outcome_unknown(where):
            for directory in directories:
                self.fs.fsync(directory)

    def _write_private(self, tmp: int, at: int, private: str, data: Iterable[bytes], where: str) -> int:
        with blocked(where):
            handle = self.fs.create(private, tmp) if private else self.fs.create_unnamed(at)
            try:
                for part in data:
                    self.fs.write(handle, part)
                self.fs.fsync(handle)
            except (OSError, StorageError):
                self._drop(handle, private, tmp)
                raise
        return handle

    def _is_ours(self, at: int, name: str, data: Sequence[bytes], doubt: OSError | None = None) -> bool:
        """Whether what stands there is ours; `doubt`: raised if nothing is seen there."""
        mine = data[0][:HEADER_BYTES]
        if doubt is None:
            there = self.read_standing(at, lambda: self.fs.read_range(name, at, 0, len(mine)))
        else:
            try:  # opened, not listed: a listing may be older than the file
                there = self.fs.read_range(name, at, 0, len(mine))
            except FileNotFoundError:
                raise doubt from None
        return there == mine

    def _drop(self, handle: int | None, private: str, tmp: int) -> None:
        try:
            if handle is not None:
                self.fs.close(handle)
        except OSError as error:
            _log.debug("private file not closed", extra={"file": private, "error": str(error)})
        if private:
            try:
                self.fs.unlink(private, tmp)
            except OSError as error:
                _log.debug("private file not removed", extra={"file": private, "error": str(error)})

    def make_dirs(self, at: int, names: Sequence[str], *, where: str) -> int:
        """Open the directory `names` below `at`, made where missing, each durable in its parent."""
        handle = at
        try:
            for name in names:
                with blocked(where):
                    self.fs.make_dir(name, handle)
                    child = self.fs.open_dir(name, handle)
                try:
                    # Also when it was there: its maker may have died before this fsync.
                    with outcome_unknown(where):
                        self.fs.fsync(handle)
                except OutcomeUnknown:
                    let_go(self.fs, child)
                    raise
                if handle != at:
                    let_go(self.fs, handle)
                handle = child
        except StorageError:
            if handle != at:
                let_go(self.fs, handle)
            raise
        return handle

    def probe(self, tmp: int, *, single_host: bool, where: str) -> None:
        """Find out how to put here: create, link twice (the second must fail), read back, fsync.

        Raises:
            MultiHostUnsupported: there is no working `link` and `single_host` is not set.
            StorageError: it is set, and nothing else works either.
            OSError: the directory cannot be written at all.
        """
        for method in (Method.UNNAMED, Method.NAMED, *([Method.MOVED] if single_host else [])):
            try:
                self._try(method, tmp)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
                    raise
                reason = error.strerror or str(error)
            else:
                self.method = method
                return
        if not single_host:
            raise MultiHostUnsupported(
                f"{where}: hard links do not work here ({reason}), so two hosts could both own a job. Choose a "
                f"checkpoint directory on another file system, or set single_host=True "
                f"(ROUTILUX_MP_SINGLE_HOST=1) if only this machine uses it"
            )
        raise StorageError(
            f"{where}: neither hard links nor renames that replace nothing work here ({reason}), so two processes "
            f"could both own a job. Choose a checkpoint directory on another file system"
        )

    def _try(self, method: Method, tmp: int) -> None:
        """One round of the probe. It leaves nothing behind."""
        private, target = self.private_name(), self.private_name()
        content = b"probe " + target.encode("ascii")
        linked = False
        handle: int | None
        handle = self.fs.create_unnamed(tmp) if method is Method.UNNAMED else self.fs.create(private, tmp)

        def link() -> None:
            if method is Method.UNNAMED:
                assert handle is not None, "it has no other name"
                self.fs.link_unnamed(handle, target, tmp)
            elif method is Method.NAMED:
                self.fs.link(private, tmp, target, tmp)
            else:
                self.fs.move(private, tmp, target, tmp)

        try:
            self.fs.write(handle, content)
            self.fs.fsync(handle)
            if method is Method.MOVED:
                self._drop(handle, "", tmp)
                handle = None
            link()
            linked = True
            if method is Method.MOVED:
                self.fs.close(self.fs.create(private, tmp))  # something to move there again
            try:
                link()
            except FileExistsError:
                pass
            else:
                raise OSError(errno.EOPNOTSUPP, "a second link to the same name did not fail")
            self.fs.fsync(tmp)
            if self.fs.read(target, tmp, SMALL_FILE_BYTES_MAX) != content:
                raise OSError(errno.EOPNOTSUPP, "what was written reads back differently")
        finally:
            self._drop(handle, "" if method is Method.UNNAMED else private, tmp)
            if linked:
                self.fs.unlink(target, tmp)


@contextmanager
def blocked(where: str) -> Iterator[None]:
    """An error in here happened before anything changed."""
    try:
        yield
    except OSError as error:
        raise StorageBlocked(
            f"{where} cannot be written: {error.strerror or error}. Nothing changed and nothing is lost; "
            f"it is tried again"
        ) from error


@contextmanager
def outcome_unknown(where: str) -> Iterator[None]:
    """An error in here may have come after the change took effect."""
    try:
        yield
    except OSError as error:
        raise OutcomeUnknown(
            f"{where}: {error.strerror or error} at or after it was put, so it may stand or not. "
            f"This owner gives the job up; resume it to read what stands"
        ) from error
