"""``logging`` in a worker process: records go to the caller, who has the handlers, filters and formats for them.

They travel as text of a stream of its own, beside what is printed. Levels come with the code, so that what nobody
wants to see is not sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from .wire import Text

#: The name of the stream.
LOG = "log"
_PLAIN = (str, int, float, bool, type(None))


def levels() -> dict[str, int]:
    """The levels that are set in this process, by logger ("" is the root), and "*": what is disabled everywhere."""
    found = {"*": logging.root.manager.disable, "": logging.root.level}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level:
            found[name] = logger.level
    return found


def take_levels(found: Mapping[str, int]) -> None:
    """Set them here."""
    for name, level in found.items():
        if name == "*":
            logging.disable(level)
        else:
            logging.getLogger(name).setLevel(level)


def forward(send: Callable[[Text], None]) -> None:
    """Send what is logged in this process, unless the user's modules have said where it goes."""
    if not logging.root.handlers:
        logging.root.addHandler(_Forwarder(send))


def as_text(record: logging.LogRecord) -> str:
    """The record as text: what is plain of it, with its message and traceback ready."""
    import json  # not for those who log nothing: a worker's first result would wait for it

    plain = {name: value for name, value in record.__dict__.items() if isinstance(value, _PLAIN)}
    exc_text = record.exc_text
    if record.exc_info and not exc_text:
        exc_text = logging.Formatter().formatException(record.exc_info)
    return json.dumps({**plain, "msg": record.getMessage(), "exc_text": exc_text})


def from_text(text: str) -> logging.LogRecord:
    """The record again. What no file can be written with (half of a surrogate pair) is escaped."""
    import json

    found: dict[str, Any] = json.loads(text)
    for name, value in found.items():
        if isinstance(value, str):
            found[name] = value.encode("utf-8", "backslashreplace").decode()
    return logging.makeLogRecord(found)


class _Forwarder(logging.Handler):
    """The root's handler in a worker process."""

    def __init__(self, send: Callable[[Text], None]) -> None:
        super().__init__()
        self._send_text = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send it, if no handler of the user's has had it before."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return
            logger = logger.parent
        try:
            self._send_text(Text(LOG, as_text(record)))
        except Exception:  # the user's arguments are formatted here
            self.handleError(record)
