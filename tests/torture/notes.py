"""What the processes of a torture say in private files of their own, outside the store, for the checker.

Every line is appended by one ``write``, so that a process may be killed between any two; and what the leader has to
know at once goes through a pipe as well.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

#: The number of the supervisor among the processes of its run; its nursery and workers inherit it.
family = -1
_folder = ""
_files: dict[int, int] = {}


class Note(NamedTuple):
    """One line: who said what, when."""

    kind: str
    family: int
    time_ns: int
    words: tuple[str, ...]


def begin(number: int, folder: str) -> None:
    """This process, and those it forks, are the family ``number``."""
    global family, _folder
    family, _folder = number, folder


def note(kind: str, *words: object) -> None:
    """One line in this process's private file; its time is taken first."""
    now = time.monotonic_ns()
    pid = os.getpid()
    fd = _files.get(pid)
    if fd is None:
        _files.clear()
        fd = os.open(f"{_folder}/said-{family}-{pid}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        _files[pid] = fd
    os.write(fd, " ".join(map(str, (kind, family, now, *words))).encode() + b"\n")


def read(folder: Path) -> list[Note]:
    """Everything that was said, in order of time."""
    found = []
    for path in folder.glob("said-*"):
        for line in path.read_text().splitlines():
            kind, number, time_ns, *words = line.split(" ")
            found.append(Note(kind, int(number), int(time_ns), tuple(words)))
    return sorted(found, key=lambda line: line.time_ns)


class Notes:
    """The pipe to the leader: a line of JSON each, short enough to be written at once."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def event(self, what: str, **more: Any) -> None:
        line = json.dumps({"what": what, "family": family, "pid": os.getpid(), **more})
        os.write(self._pipe, line.encode() + b"\n")
