"""Source lines that are in no file: cells of a notebook travel with the code that was typed there.

Where a handler fails, its traceback shows the line, as the notebook itself would; and whoever asks for the source of a
function (``inspect.getsource``, compilers of functions) finds it in a worker, too.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping


def lines_of(files: Iterable[str]) -> dict[str, str]:
    """The text of those of these "files" that somebody typed."""
    found = {}
    for name in files:
        entry = linecache.cache.get(name)
        if entry is not None and len(entry) == 4 and entry[1] is None:  # no time of change: there is no file
            found[name] = "".join(entry[2])
    return found


def remember(texts: Mapping[str, str]) -> None:
    """Have them found in this process."""
    for name, text in texts.items():
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
