"""Tells whoever emits much, or long, without committing that nobody downstream has anything to do meanwhile."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

_EMITTED_MAX = 10_000
LONG_NS = 5_000_000_000


class Uncommitted:
    """Warns once per worker."""

    def __init__(self) -> None:
        self._has_warned = False

    def look(self, routine_id: str, emitted: int, elapsed_ns: int) -> None:
        """So many emissions of one activation wait since it began, or last committed."""
        if self._has_warned or not (emitted >= _EMITTED_MAX or (emitted > 1 and elapsed_ns > LONG_NS)):
            return
        self._has_warned = True
        log.warning(
            "Routine '%s' has emitted %d times in one activation: nothing of it moves on until the handler returns. "
            "Make the handler a generator that says `yield cursor` now and then, or call `self.commit(cursor)`.",
            routine_id, emitted,
        )  # fmt: skip
