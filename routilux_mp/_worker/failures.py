"""What went wrong in a handler, as text: the exception itself never leaves its worker."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from .._core.stimuli import Failure
from ..errors import CheckpointDamaged, CheckpointFormat, KeyUnavailable, SignatureInvalid, StorageError

_A = TypeVar("_A")
_R = TypeVar("_R")
#: What no second look will change.
_LASTING = (CheckpointDamaged, CheckpointFormat, SignatureInvalid, KeyUnavailable)
_HERE = os.path.dirname(__file__)
_TRACEBACK_MAX = 64 * 1024
_MESSAGE_MAX = 8 * 1024


class InputUnreadable(Exception):
    """What an activation was to be given cannot be read. No handler is to blame, and none has run."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error))
        self.error = error


def reading(read: Callable[[_A], _R], what: _A) -> _R:
    """``read(what)``, where it is input that is read.

    Raises:
        InputUnreadable: in place of any ``StorageError``.
    """
    try:
        return read(what)
    except StorageError as error:
        raise InputUnreadable(error) from error


def raising(error: Exception) -> Callable[[Any], Any]:
    """What raises it when it is called."""

    def call(_: Any) -> Any:
        raise error

    return call


def describe(error: BaseException, is_retryable: bool) -> Failure:
    """The failure of an attempt that raised ``error``."""
    if isinstance(error, InputUnreadable):
        found = describe(error.error, not isinstance(error.error, _LASTING))
        return found._replace(kind="storage")
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return Failure("error", name, _message(error), _traceback(error), is_retryable)


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a user's __str__
        text = f"<{type(error).__name__} without a message>"
    return text if len(text) <= _MESSAGE_MAX else text[:_MESSAGE_MAX] + "…"


def _traceback(error: BaseException) -> str:
    """The whole traceback, from the user's first line on; shortened in the middle if it is enormous."""
    try:
        text = "".join(traceback.format_exception(type(error), error, _from_user_code(error.__traceback__)))
    except Exception:  # a user's __str__, or source that is no text
        text = f"{type(error).__name__}: the traceback cannot be shown\n"
    half = _TRACEBACK_MAX // 2
    return text if len(text) <= _TRACEBACK_MAX else f"{text[:half]}\n…\n{text[-half:]}"


def _from_user_code(trace: TracebackType | None) -> TracebackType | None:
    found = trace
    while found is not None and os.path.dirname(found.tb_frame.f_code.co_filename) == _HERE:
        found = found.tb_next
    return found if found is not None else trace
