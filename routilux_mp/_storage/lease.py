"""Heartbeats: who lives, as far as one can tell from a shared directory. Liveness only.

Not here: any right. Taking over a dead owner's job, or a living one's by mistake, is equally safe
(`takeover`); this only says when it is worth trying. The rule it owns: clocks of two hosts are never
compared. A reader times how long the *content* of a heartbeat has not changed, with its own clock; it
opens and reads each time, since what a network client knows of a file without opening it may be old.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

from .files import FileSystem, let_go
from .layout import OWNERS, SMALL_FILE_BYTES_MAX, is_token
from .owner import OwnerInfo
from .place import Root

_log = logging.getLogger(__name__)

#: An owner whose heartbeat has not changed for so many leases is taken to be dead.
SUSPECT_AFTER_LEASES: Final = 1.25
#: A heartbeat is rewritten so many times within a lease.
BEATS_PER_LEASE: Final = 3
#: Several standbys should not try at the same moment: one has the job in less than this time.
_JITTER_S: Final = 0.2
_JITTER_LEASES: Final = 0.1
#: Heartbeats that nobody has written for so long are swept.
_KEPT_S: Final = 24 * 3600
_BYTES_MAX: Final = 16 * SMALL_FILE_BYTES_MAX


def boot_time_s() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class Sign:
    """What a heartbeat says."""

    owner: OwnerInfo
    #: Jobs it owns.
    jobs: frozenset[str] = frozenset()
    #: Jobs it has sealed for whoever takes them: a remote client may not see the SEAL for half a minute.
    offered: frozenset[str] = frozenset()
    #: The epochs that it has sealed of those: it may have taken one again since, and have said so nowhere but there.
    sealed: Mapping[str, int] = field(default_factory=dict)
    #: Jobs it owns and cannot write, with the reason.
    blocked: Mapping[str, str] = field(default_factory=dict)
    #: It has left in good order and will write nothing more.
    is_leaving: bool = False


class Heartbeat:
    """This process's own heartbeat. One thread writes it."""

    def __init__(self, root: Root, info: OwnerInfo) -> None:
        self._root = root
        self._info = info
        self._count = 0

    def beat(
        self,
        jobs: Collection[str],
        *,
        offered: Collection[str] = (),
        sealed: Mapping[str, int] | None = None,
        blocked: Mapping[str, str] | None = None,
        is_leaving: bool = False,
    ) -> None:
        """Write it anew, in place; raises OSError."""
        self._count += 1
        document = self._info.to_document() | {
            "count": self._count,
            "jobs": sorted(jobs),
            "offered": sorted(offered),
            "sealed": dict(sealed or {}),
            "blocked": dict(blocked or {}),
            "leaving": is_leaving,
        }
        raw = _encode(document)
        at = self._root.handle(OWNERS)
        fs = self._root.fs
        try:
            fs.overwrite(self._info.token, at, raw)
        except FileNotFoundError:
            handle = fs.create(self._info.token, at)
            try:
                fs.write(handle, raw)
            finally:
                fs.close(handle)

    def remove(self) -> None:
        """Nobody has to be told anything any more."""
        if self._count:
            try:
                self._root.fs.unlink(self._info.token, self._root.handle(OWNERS))
            except OSError as error:
                _log.debug("heartbeat not removed", extra={"error": str(error)})


@dataclass
class _Seen:
    raw: bytes | None
    since_s: float
    #: 0 to 1: how much of the jitter is this reader's.
    jitter: float
    sign: Sign | None = None


def read_signs(fs: FileSystem, root: int) -> list[Sign]:
    """What all heartbeats below an open root say now, for who only lists: nothing is timed."""
    signs: list[Sign] = []
    try:
        at = fs.open_dir(OWNERS, root)
    except OSError:
        return signs
    try:
        for token in filter(is_token, fs.names(at)):
            try:
                sign = _decode(fs.read(token, at, _BYTES_MAX), token)
            except OSError:
                continue
            if sign is not None:
                signs.append(sign)
    except OSError as error:
        _log.debug("heartbeats not listed", extra={"error": str(error)})
    finally:
        let_go(fs, at)
    return signs


class Heartbeats:
    """All heartbeats below a root, and how long each has been silent. One thread uses it."""

    def __init__(
        self,
        root: Root,
        *,
        clock: Callable[[], float] = boot_time_s,
        chance: Callable[[], float] = random.random,
        absence_s: float = 0.0,
    ) -> None:
        """`absence_s`: how long "there is no such file" may be a network client's stale answer."""
        self._root = root
        self._clock = clock
        self._chance = chance
        self._absence_s = absence_s
        self._seen: dict[str, _Seen] = {}

    def look(self) -> list[Sign]:
        """Read them all. Those that cannot be read now say what they said last."""
        fs = self._root.fs
        try:
            at = fs.open_dir(OWNERS, self._root.handle())
        except OSError:
            return self.signs()
        try:
            for token in {*filter(is_token, fs.names(at)), *self._seen}:
                self._read(token, at)
        except OSError as error:
            _log.debug("heartbeats not listed", extra={"error": str(error)})
        finally:
            let_go(fs, at)
        return self.signs()

    def signs(self) -> list[Sign]:
        """What all of them said last."""
        return [seen.sign for seen in self._seen.values() if seen.sign is not None]

    def sign_of(self, owner: OwnerInfo) -> Sign | None:
        """What the owner's heartbeat said last."""
        seen = self._seen.get(owner.token)
        return seen.sign if seen is not None else None

    def content_of(self, owner: OwnerInfo) -> bytes | None:
        """The bytes of its heartbeat as last read: whether they change is the sign of life."""
        return self._timed(owner.token).raw

    def silent_s(self, owner: OwnerInfo) -> float:
        """How long its heartbeat has not changed, as far as this reader has looked."""
        return self._clock() - self._timed(owner.token).since_s

    def is_suspect(self, owner: OwnerInfo) -> bool:
        """Whether it has been silent for so long that it is worth trying to take over."""
        return self.suspect_in_s(owner) <= 0

    def suspect_in_s(self, owner: OwnerInfo) -> float:
        """How long until an owner that stays silent is suspected."""
        seen = self._timed(owner.token)
        jitter_s = seen.jitter * min(_JITTER_S, _JITTER_LEASES * owner.lease_s)
        limit_s = owner.lease_s * SUSPECT_AFTER_LEASES + jitter_s
        if seen.raw is None:
            limit_s = max(limit_s, self._absence_s)
        return limit_s - (self._clock() - seen.since_s)

    def remove(self, owner: OwnerInfo) -> None:
        """Delete the heartbeat of an owner that is gone for good. Its jobs are found without it."""
        self._seen.pop(owner.token, None)
        try:
            self._root.fs.unlink(owner.token, self._root.handle(OWNERS))
        except OSError as error:
            _log.debug("heartbeat not removed", extra={"error": str(error)})

    def sweep(self) -> None:
        """Delete heartbeats that nobody has written for a day, by the file system's own clock."""
        fs = self._root.fs
        try:
            at = self._root.handle(OWNERS)
            entries = [entry for entry in fs.entries(at) if is_token(entry.name)]
            now_ns = max((entry.mtime_ns for entry in entries), default=0)
            for entry in entries:
                if now_ns - entry.mtime_ns > _KEPT_S * 1_000_000_000:
                    fs.unlink(entry.name, at)
        except OSError as error:
            _log.debug("heartbeats not swept", extra={"error": str(error)})

    def _timed(self, token: str) -> _Seen:
        seen = self._seen.get(token)
        if seen is None:
            seen = self._seen[token] = _Seen(None, self._clock(), self._chance())
        return seen

    def _read(self, token: str, at: int) -> None:
        seen = self._timed(token)
        try:
            raw = self._root.fs.read(token, at, _BYTES_MAX)
        except FileNotFoundError:
            return  # removed, or not seen yet: what it said stands, and the time runs
        except OSError:
            seen.since_s = self._clock()  # nothing was learned, least of all that it is silent
            return
        if raw == seen.raw:
            return
        seen.raw, seen.since_s = raw, self._clock()
        sign = _decode(raw, token)
        if sign is not None:  # a torn one is a sign of life all the same
            seen.sign = sign


def _encode(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode("ascii")
    return b"%s\n%08x\n" % (text, crc32(text))


def _decode(raw: bytes, token: str) -> Sign | None:
    """The sign, or None when the bytes are torn or not its owner's."""
    text, _, check = raw.rstrip(b"\n").rpartition(b"\n")
    if check != b"%08x" % crc32(text):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("token") != token:
        return None
    blocked, sealed = document.get("blocked"), document.get("sealed")
    return Sign(
        OwnerInfo.from_document(document),
        _names(document.get("jobs")),
        _names(document.get("offered")),
        {str(k): v for k, v in sealed.items() if type(v) is int} if isinstance(sealed, dict) else {},
        {str(k): str(v) for k, v in blocked.items()} if isinstance(blocked, dict) else {},
        document.get("leaving") is True,
    )


def _names(value: object) -> frozenset[str]:
    return frozenset(filter(lambda name: isinstance(name, str), value)) if isinstance(value, list) else frozenset()
