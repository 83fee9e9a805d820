"""The door to ``multiprocess``: a fresh interpreter that inherits nothing but the descriptors it is given.

Only its process launcher is used. Its ``Process`` would import the user's main module in the child (a
script without a ``__main__`` guard dies of that) and start a resource tracker beside it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def spawn_python(statement: str, pass_fds: Sequence[int]) -> int:
    """Run one Python statement in a fresh process with this one's ``sys.path``; its process id."""
    from multiprocess import spawn, util  # 30 ms that only who starts processes pays

    command = f"import sys; sys.path[:] = {[str(entry) for entry in sys.path]!r}; {statement}"
    arguments = [spawn.get_executable(), *util._args_from_interpreter_flags(), "-c", command]
    return int(util.spawnv_passfds(arguments[0], arguments, tuple(sorted(pass_fds))))


def open_standard_descriptors() -> None:
    """Have 0 to 2 open, on nothing if need be: whatever is opened next in a closed one's place becomes an output."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
