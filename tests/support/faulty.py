"""A file system whose k-th operation fails, before or after it took effect, or never returns.

`crash` stands for the process: the operation, and every one after it, raises `Crashed`, which no
code catches because it is no `Exception`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

When = Literal["before", "after"]

#: Operations that change nothing on the disk.
READING = frozenset({"open_root", "open_dir", "names", "entries", "close", "read", "read_range", "map"})
OPERATIONS = READING | {
    "make_dir", "create", "create_unnamed", "write", "overwrite", "fsync", "link", "link_unnamed", "move",
    "replace", "unlink",
}  # fmt: skip


class Crashed(BaseException):
    """The process is gone."""


class FaultyFiles:
    """`inner`, with one operation made to fail; `journal` says what was asked for, in order."""

    def __init__(
        self,
        inner: Any,
        fail_at: int = 0,
        *,
        error: int | None = None,
        when: When = "before",
        only: Callable[[str, tuple[Any, ...]], bool] = lambda name, args: True,
        lasts: bool = False,
        action: Callable[[], None] | None = None,
    ) -> None:
        """The `fail_at`-th operation (from 1) that `only` accepts fails with `error`; None: the process dies.

        `action`: nothing fails; this is done just before the operation instead, once.
        `lasts`: all later ones that `only` accepts fail as well, as on a disk that is full.
        """
        self.inner = inner
        self.has_paths = inner.has_paths
        self.journal: list[str] = []
        self.fired: str | None = None
        self._fail_at = fail_at
        self._error = error
        self._when = when
        self._only = only
        self._lasts = lasts
        self._action = action
        self._count = 0
        self._crashed = False

    def heal(self) -> None:
        """From now on everything works."""
        self._fail_at = 0

    def __getattr__(self, name: str) -> Any:
        if name not in OPERATIONS:
            raise AttributeError(name)
        operation = getattr(self.inner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            if self._crashed:
                raise Crashed(name)
            self.journal.append(name)
            if not self._is_due(name, args):
                return operation(*args, **kwargs)
            self.fired = name
            if self._action is not None:
                self._action()
                return operation(*args, **kwargs)
            if self._when == "after":
                operation(*args, **kwargs)
            if self._error is None:
                self._crashed = True
                raise Crashed(name)
            raise OSError(self._error, os.strerror(self._error))

        return run

    def _is_due(self, name: str, args: tuple[Any, ...]) -> bool:
        if not self._fail_at or not self._only(name, args):
            return False
        self._count += 1
        return self._count == self._fail_at or (self._lasts and self._count > self._fail_at)
