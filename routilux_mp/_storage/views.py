"""`flow.json` and `job_state.json`: what people open and other tools exchange. Views, never the truth.

Each is replaced as a whole, carries the (epoch, commit) it shows and a checksum, and does not
replace one that shows a later position. The file lock keeps two writers from overtaking one another
where locks work; where they do not, a view may be stale for a moment and nothing else happens.
This module is the package's one door to `filelock`.

A document is wrapped by text at both of its ends, so that a cut or a flipped bit always leaves one
of the two, and a file without either is somebody's own (`job_state.save()`, an editor): it is read
as it is, and counts as older than anything.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Final
from zlib import crc32

from ..errors import CheckpointDamaged
from .files import let_go
from .layout import FLOW_VIEW, LOCK_FILE, STATE_VIEW, TMP, VIEW_BYTES_MAX
from .place import Place
from .put import blocked

_log = logging.getLogger(__name__)

#: How long a writer waits for the lock; a view is not worth more.
_LOCK_WAIT_S: Final = 0.5
_HEAD_BYTES_MAX: Final = 128
_HEAD = re.compile(rb'\{"checkpoint": \{"epoch": (\d{1,10}), "commit": (\d{1,10})\}(, )?')
_TAIL = re.compile(rb'(, )?"crc32": "([0-9a-f]{8})"\}')
_TAIL_BYTES: Final = len(b', "crc32": "00000000"}')


def wrap(document: bytes, position: tuple[int, int]) -> bytes:
    """A JSON object with its position and checksum inside."""
    body = document.strip()
    if not (body.startswith(b"{") and body.endswith(b"}")):
        raise ValueError("a view is a JSON object")
    inner = body[1:-1].strip()
    separator = b", " if inner else b""
    head = b'{"checkpoint": {"epoch": %d, "commit": %d}, ' % position
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
    if wrap(document, position) != raw:
        raise CheckpointDamaged(
            f"{where} is damaged: its checksum does not match. If it was edited by hand, take its keys "
            f"'checkpoint' and 'crc32' out"
        )
    return position, document


def write(place: Place, documents: Mapping[str, bytes], position: tuple[int, int], *, is_new: bool = False) -> None:
    """Replace the views named in `documents`, unless what is there shows a later position.

    `is_new`: the job is being created, so there is nobody to be polite to (and a first result does
    not wait for the lock's library).

    Raises:
        StorageBlocked: not written (disk full, read-only); the old ones are there as they were.
    """
    root = place.root
    with blocked(place.where()):
        tmp = root.handle(TMP)
        job = place.open_plainly()
    try:
        with nullcontext() if is_new else polite_lock(place):
            for name, document in documents.items():
                shown = None if is_new else _shown(place, job, name)
                if shown is None or shown <= position:
                    _replace(place, tmp, job, name, wrap(document, position))
    finally:
        let_go(place.fs, job)


def _replace(place: Place, tmp: int, job: int, name: str, raw: bytes) -> None:
    fs = place.fs
    private = place.root.putter.private_name()
    with blocked(place.where(name)):
        handle = fs.create(private, tmp)
        try:
            try:
                fs.write(handle, raw)
                fs.fsync(handle)
            finally:
                fs.close(handle)
            # The directory is not fsynced: after a power cut the old view is as good.
            fs.replace(private, tmp, name, job)
        except OSError:
            try:
                fs.unlink(private, tmp)
            except OSError:
                pass  # it is swept from tmp/ a day later
            raise


def _shown(place: Place, job: int, name: str) -> tuple[int, int] | None:
    """The position that a view shows, from its first bytes; None when it has none."""
    try:
        head = _HEAD.match(place.fs.read_range(name, job, 0, _HEAD_BYTES_MAX))
    except OSError:
        return None  # not there, or not readable: replacing it is the cure
    return (int(head[1]), int(head[2])) if head else None


def read(place: Place) -> tuple[bytes | None, bytes | None]:
    """The documents of `flow.json` and `job_state.json`, each None when it is not there."""
    found: list[bytes | None] = []
    for name in (FLOW_VIEW, STATE_VIEW):
        try:
            with place.dir() as job:
                raw = place.read(job, name, VIEW_BYTES_MAX)
        except FileNotFoundError:
            found.append(None)
        else:
            found.append(unwrap(raw, place.where(name))[1])
    return found[0], found[1]


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
