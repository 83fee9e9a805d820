"""What went wrong in a handler, as text: the exception itself never leaves its worker."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

from .._core.stimuli import Failure

_HERE = os.path.dirname(__file__)
_TRACEBACK_MAX = 64 * 1024
_MESSAGE_MAX = 8 * 1024


def describe(error: BaseException, is_retryable: bool) -> Failure:
    """The failure of an attempt that raised ``error``."""
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
