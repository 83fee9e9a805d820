"""Forked workers are copies of one process: each must draw random numbers of its own."""

from __future__ import annotations

import sys


def diverge(worker: int) -> None:
    """Give numpy's global generator a state of this worker's own, if user code has loaded it before the fork.

    CPython does so at every fork for the module ``random``; numpy does not, and all workers of a simulation would draw
    the same numbers. The new state follows from the old one: whoever seeded it has a stream per worker that follows
    from that seed.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None:
        return
    try:
        numpy_random.seed([*numpy_random.randint(0, 2**32, 4, dtype="uint32"), worker])
    except (TypeError, ValueError):
        pass  # a bit generator of the user's own, which takes no such seed
