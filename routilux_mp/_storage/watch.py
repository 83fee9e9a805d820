"""Being told soon that something changed below a checkpoint root. The package's one door to `watchdog`.

A hint and nothing else: inotify never reports what another host did, observers may fail, and
whoever uses this goes on looking at its own slow pace whatever happens here. Only named directories
are watched, not what is below them: a busy job commits thousands of times a second.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

_log = logging.getLogger(__name__)

#: File systems whose changes on other hosts the kernel does not report (and that are shared for that reason).
_NETWORK: Final = frozenset(
    ["9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
     "orangefs", "pvfs2", "smb2", "smb3", "smbfs", "virtiofs", "wekafs"]
)  # fmt: skip


def is_network(path: str) -> bool:
    """Whether the path is on a file system that other hosts may write to; False where it cannot be told."""
    kind = file_system_of(path)
    return kind in _NETWORK or kind.startswith("fuse")


def file_system_of(path: str) -> str:
    """The type of the file system that holds `path`, from /proc/self/mounts; empty where there is none."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            lines = [line.split(" ") for line in mounts]
    except OSError:
        return ""  # not Linux
    best, kind = "", ""
    path = os.path.join(os.path.realpath(path), "")
    for fields in lines:
        if len(fields) < 3:
            continue
        point = os.path.join(_unescaped(fields[1]), "")
        # The last mount on a point hides those before it.
        if path.startswith(point) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


class Watch:
    """Calls `wake`, in a thread of its own, when something changes in one of the watched directories."""

    def __init__(self, root: str, wake: Callable[[], None], poll_s: float) -> None:
        self._root = root
        self._wake = wake
        self._poll_s = poll_s
        self._observer: BaseObserver | None = None
        self._watches: dict[str, Any] = {}
        self._has_failed = False
        self._lock = threading.Lock()

    def add(self, path: str) -> bool:
        """Watch one directory; False when that cannot be done, now or at all."""
        with self._lock:
            if path in self._watches:
                return True
            if self._has_failed or not os.path.isdir(path):
                return False
            try:
                observer = self._started()
                self._watches[path] = observer.schedule(_handler(self._wake), path, recursive=False)
            except (OSError, RuntimeError) as error:
                # No more inotify watches or instances, say: the slow poll does it.
                _log.debug("not watched", extra={"path": path, "error": str(error)})
                return False
            return True

    def remove(self, path: str) -> None:
        """Watch it no longer."""
        with self._lock:
            watch = self._watches.pop(path, None)
            if watch is not None and self._observer is not None:
                try:
                    self._observer.unschedule(watch)
                except (KeyError, OSError, RuntimeError) as error:
                    _log.debug("not unwatched", extra={"path": path, "error": str(error)})

    def close(self) -> None:
        """Stop, and wait for the observer's threads."""
        with self._lock:
            self._has_failed = True
            observer, self._observer = self._observer, None
            self._watches.clear()
        if observer is not None:
            observer.stop()
            observer.join()

    def _started(self) -> BaseObserver:
        if self._observer is None:
            try:
                self._observer = _new_observer(self._root, self._poll_s)
            except (ImportError, OSError, RuntimeError) as error:
                self._has_failed = True
                raise OSError(f"no observer can be started: {error}") from error
        return self._observer


def _new_observer(root: str, poll_s: float) -> BaseObserver:
    # 40 ms: not at package import, and not before somebody waits for something.
    if is_network(root):
        from watchdog.observers.polling import PollingObserver as Observer
    else:
        from watchdog.observers import Observer  # type: ignore[assignment]
    logging.getLogger("watchdog.observers.inotify").addFilter(_is_news)
    observer = Observer(timeout=poll_s)
    observer.daemon = True
    try:
        observer.start()
    except (OSError, RuntimeError):
        observer.stop()  # it holds descriptors from the moment it is made
        raise
    return observer


def _is_news(record: logging.LogRecord) -> bool:
    """An observer that is stopped complains of having been stopped."""
    return "thread is inactive" not in record.getMessage()


def _handler(wake: Callable[[], None]) -> Any:
    from watchdog.events import FileSystemEventHandler

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: Any) -> None:
            # Looking is no change: opening a heartbeat to read it must not wake who reads it.
            if event.event_type not in ("opened", "closed_no_write"):
                wake()

    return Handler()


def _unescaped(point: str) -> str:
    """/proc/mounts writes blanks, tabs, newlines and backslashes in octal."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, char)
    return point
