"""`flow.json` and `job_state.json`: what people open and other tools exchange. Views, never the truth.

Each is replaced as a whole, carries the (epoch, commit) it shows and a checksum, and does not replace one that
shows a later position, however long its writer stood still in between. The file lock keeps two writers from
overtaking one another where locks work; nothing depends on it. This module is the package's one door to `filelock`.

A document is wrapped by text at both of its ends, so that a cut or a flipped bit always leaves one
of the two, and a file without either is somebody's own (`job_state.save()`, an editor): it is read
as it is, and counts as older than anything.

Why an owner that wakes up late cannot put its old view back:

- A private file is named after job, epoch and view, and is made *before* its writer looks at what is shown. So it
  can be taken away by others, and a writer without one makes another and looks again.
- At its first write an owner renames its own view in, takes away the private files of the owners before it, and
  looks whether its view is still there; if not, it does so again. When it is: whoever still has a private file has
  made it since, so it looks at what is shown now, and leaves it. From then on the earlier owners are fenced.
- Which may not be fenced yet? Who has written the view that is shown had fenced everybody before it, or says in the
  view since which epoch it had not (`since`: it may have died in the middle). No view says so: since the first.
- A view that is not seen may be there (a network client's caches): it is put, not renamed, so the server decides.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple
from zlib import crc32

from ..errors import CheckpointDamaged, OutcomeUnknown, StorageBlocked
from .files import NotARegularFile, let_go
from .layout import FLOW_VIEW, LOCK_FILE, STATE_VIEW, TMP, VIEW_BYTES_MAX, epoch_name
from .place import Place
from .put import blocked

_log = logging.getLogger(__name__)

#: How long a writer waits for the lock; a view is not worth more.
_LOCK_WAIT_S: Final = 0.5
#: How often a writer begins anew because others have been at it meanwhile.
_ROUNDS_MAX: Final = 10
#: A view that could not be read so often is not going to be: replacing it is the cure.
_UNREADABLE_MAX: Final = 3
_HEAD_BYTES_MAX: Final = 128
_HEAD = re.compile(rb'\{"checkpoint": \{"epoch": (\d{1,10}), "commit": (\d{1,10})(?:, "since": (\d{1,10}))?\}(, )?')
_TAIL = re.compile(rb'(, )?"crc32": "([0-9a-f]{8})"\}')
_TAIL_BYTES: Final = len(b', "crc32": "00000000"}')


class _Shown(NamedTuple):
    """What a view that is there says of itself."""

    position: tuple[int, int]
    #: Owners of this epoch and of later ones may not be fenced.
    since: int


#: Somebody's own, or nothing that can be read: older than anything, and replacing it is the cure.
_FOREIGN: Final = _Shown((0, 0), 1)


def wrap(document: bytes, position: tuple[int, int], since: int | None = None) -> bytes:
    """A JSON object with its position and checksum inside."""
    body = document.strip()
    if not (body.startswith(b"{") and body.endswith(b"}")):
        raise ValueError("a view is a JSON object")
    inner = body[1:-1].strip()
    separator = b", " if inner else b""
    mark = b"" if since is None else b', "since": %d' % since
    head = b'{"checkpoint": {"epoch": %d, "commit": %d%b}, ' % (*position, mark)
    checksum = crc32(inner, crc32(head))
    return head + inner + separator + b'"crc32": "%08x"}' % checksum


def unwrap(raw: bytes, where: str) -> tuple[tuple[int, int] | None, bytes]:
    """The position and the document; (None, `raw`) for a file that was not written by `wrap`."""
    head = _HEAD.match(raw)
    tail = _TAIL.fullmatch(raw[-_TAIL_BYTES:]) or _TAIL.fullmatch(raw[2 - _TAIL_BYTES :])
    if head is None and tail is None:
        try:
            json.loads(raw)
        except (ValueError, RecursionError):
            raise CheckpointDamaged(f"{where} is damaged: it is not JSON") from None
        return None, raw
    if head is None or tail is None:
        raise CheckpointDamaged(
            f"{where} is damaged: its {'beginning' if head is None else 'end'} is not as it was written"
        )
    inner = raw[head.end() : len(raw) - len(tail[0])]
    position = (int(head[1]), int(head[2]))
    document = b"{" + inner + b"}"
    if wrap(document, position, None if head[3] is None else int(head[3])) != raw:
        raise CheckpointDamaged(
            f"{where} is damaged: its checksum does not match. If it was edited by hand, take its keys "
            f"'checkpoint' and 'crc32' out"
        )
    return position, document


class Views:
    """The two views of a job, as one owner writes them."""

    def __init__(self, place: Place, epoch: int) -> None:
        """``epoch``: the one with which it began to own the job."""
        self._place = place
        self._epoch = epoch
        self._writing = {FLOW_VIEW: threading.Lock(), STATE_VIEW: threading.Lock()}
        #: Who begins a job is the first to show it, most likely: nobody to be polite to, and no library to load.
        self._is_new = {FLOW_VIEW, STATE_VIEW} if epoch == 1 else set()
        #: Views that no earlier owner can change any more.
        self._fenced: set[str] = set()
        self._unread = {FLOW_VIEW: 0, STATE_VIEW: 0}

    def write_flow(self, document: bytes, position: tuple[int, int]) -> None:
        """As `write`; a flow does not change while one process owns the job, so it is written once."""
        with self._writing[FLOW_VIEW]:
            if FLOW_VIEW not in self._fenced:
                self._write(FLOW_VIEW, document, position)

    def write_state(self, document: bytes, position: tuple[int, int]) -> None:
        """Show `document`, unless what is shown has a later position.

        Raises:
            StorageBlocked: not written (disk full, read-only), or not yet sure to stay; to be tried again.
        """
        with self._writing[STATE_VIEW]:
            self._write(STATE_VIEW, document, position)

    def _write(self, name: str, document: bytes, position: tuple[int, int]) -> None:
        place = self._place
        with blocked(place.where(name)):
            tmp = place.root.handle(TMP)
            job = place.open_plainly()
        try:
            is_new = name in self._is_new
            self._is_new.discard(name)
            if not (is_new and self._put(tmp, job, name, wrap(document, position))):
                with polite_lock(place):
                    self._replace(tmp, job, name, document, position)
            self._fenced.add(name)
        finally:
            let_go(place.fs, job)

    def _replace(self, tmp: int, job: int, name: str, document: bytes, position: tuple[int, int]) -> None:
        """Returns when the view is shown, or a later one, and no earlier owner can change that."""
        since = self._epoch
        with blocked(self._place.where(name)):
            if name not in self._fenced:
                shown = self._look(job, name)
                since = min(1 if shown is None else shown.since, self._epoch)
            raw = wrap(document, position, since if since < self._epoch else None)
            for _ in range(_ROUNDS_MAX):
                if not self._show(tmp, job, name, raw, position):
                    continue
                for epoch in range(since, self._epoch):
                    self._take_away(tmp, self._private(name, epoch))
                if since == self._epoch or self._is_shown(job, name, position):
                    return
        raise StorageBlocked(
            f"{self._place.where(name)} could not be shown: its private file was taken away {_ROUNDS_MAX} times, by "
            f"other owners or with the job's directory; it is tried again"
        )

    def _show(self, tmp: int, job: int, name: str, raw: bytes, position: tuple[int, int]) -> bool:
        """One attempt: False when somebody else was at it, so that what is shown has to be looked at again."""
        fs, private = self._place.fs, self._private(name, position[0])
        self._create(tmp, private, raw)
        try:
            shown = self._look(job, name)  # not before the private file is there
            if shown is None:
                fs.unlink(private, tmp)
                return self._put(tmp, job, name, raw)
            if shown.position <= position:
                # The directory is not fsynced: after a power cut the old view is as good.
                fs.replace(private, tmp, name, job)
            else:
                fs.unlink(private, tmp)
        except FileNotFoundError:
            return False  # taken away by a later owner, or swept; or it is done already, and the reply was lost
        except OSError:
            self._take_away(tmp, private, is_sure=False)
            raise
        return True

    def _put(self, tmp: int, job: int, name: str, raw: bytes) -> bool:
        """Show what nothing was shown in place of: False when something is there after all."""
        where = self._place.where(name)
        try:
            return self._place.root.putter.put(tmp, job, name, (raw,), where=where, is_synced=False)
        except OutcomeUnknown as error:
            raise StorageBlocked(str(error)) from error  # a view: whichever it is, it is written again

    def _create(self, tmp: int, private: str, raw: bytes) -> None:
        fs = self._place.fs
        try:
            handle = fs.create(private, tmp)
        except FileExistsError:
            # Nobody but this owner makes it, one at a time: it was left behind when something failed.
            fs.unlink(private, tmp)
            handle = fs.create(private, tmp)
        try:
            try:
                fs.write(handle, raw)
                fs.fsync(handle)
            finally:
                fs.close(handle)
        except OSError:
            self._take_away(tmp, private, is_sure=False)
            raise

    def _take_away(self, tmp: int, private: str, *, is_sure: bool = True) -> None:
        try:
            self._place.fs.unlink(private, tmp)
        except FileNotFoundError:
            pass
        except OSError:
            if is_sure:
                raise

    def _private(self, name: str, epoch: int) -> str:
        return f"{self._place.job_id}.{epoch_name(epoch)}.{name}"

    def _is_shown(self, job: int, name: str, position: tuple[int, int]) -> bool:
        shown = self._look(job, name)
        return shown is not None and shown.position >= position

    def _look(self, job: int, name: str) -> _Shown | None:
        """What a view that is there says in its first bytes."""
        try:
            head = _HEAD.match(self._place.fs.read_range(name, job, 0, _HEAD_BYTES_MAX))
        except FileNotFoundError:
            return None
        except OSError as error:
            if isinstance(error, NotARegularFile) or error.errno == errno.ELOOP:
                return _FOREIGN
            self._unread[name] += 1
            if error.errno in (errno.EIO, errno.EACCES, errno.EPERM) and self._unread[name] > _UNREADABLE_MAX:
                return _FOREIGN  # a bad sector, or a stranger's file: no job waits for that for ever
            raise
        self._unread[name] = 0
        return _FOREIGN if head is None else _Shown((int(head[1]), int(head[2])), int(head[3] or head[1]))


def read(place: Place, name: str) -> bytes | None:
    """The document of a view, None when it is not there."""
    try:
        with place.dir() as job:
            raw = place.read(job, name, VIEW_BYTES_MAX)
    except FileNotFoundError:
        return None
    return unwrap(raw, place.where(name))[1]


def load_lock_library() -> None:
    """Import it now: a standby should not spend 50 ms on that while a job waits."""
    import filelock  # noqa: F401


@contextmanager
def polite_lock(place: Place, wait_s: float = _LOCK_WAIT_S) -> Iterator[None]:
    """The job's file lock if it can be had. Politeness: whatever goes wrong, go on without."""
    if not place.fs.has_paths:
        yield
        return
    from filelock import FileLock, Timeout  # 50 ms: not at package import

    lock = FileLock(place.where(LOCK_FILE), timeout=wait_s, mode=0o600, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError, RuntimeError) as error:
        _log.debug("going on without the lock", extra={"job": place.job_id, "error": str(error)})
    try:
        yield
    finally:
        try:
            lock.release()
        except (OSError, RuntimeError) as error:
            _log.debug("lock not released", extra={"job": place.job_id, "error": str(error)})
