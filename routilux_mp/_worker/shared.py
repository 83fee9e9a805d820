"""Files in memory: where payloads too big for a message go when nothing is kept.

They are made by the supervisor's side and removed with it; by the nursery if the supervisor is killed; and
by whoever comes next if both are. Nothing here decides what goes there. The rule it owns: a directory is
removed only when the process in its name is gone or asks for it.
"""

from __future__ import annotations

import os

_MEMORY = "/dev/shm"
_PREFIX = "routilux_mp-"


def new_path() -> str:
    """A path for this process's directory, which is not made yet; empty where files cannot be in memory."""
    if not os.access(_MEMORY, os.W_OK | os.X_OK):
        return ""
    return f"{_MEMORY}/{_PREFIX}{os.getpid()}-{os.urandom(8).hex()}"


def make(path: str) -> None:
    """Make the directory; and remove those of processes that died and could not."""
    for name in os.listdir(_MEMORY):
        if name.startswith(_PREFIX) and _is_orphaned(name):
            remove(f"{_MEMORY}/{name}")
    os.mkdir(path, 0o700)


def remove(path: str) -> None:
    """Remove a directory with all that is in it, as far as that can be done."""
    try:
        with os.scandir(path) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    remove(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(path)
    except OSError:
        pass  # it is gone already, or another user's


def _is_orphaned(name: str) -> bool:
    pid = name[len(_PREFIX) :].partition("-")[0]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False
