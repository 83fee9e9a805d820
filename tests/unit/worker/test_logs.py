"""Log records as text, levels, and who has a record already."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from routilux_mp._worker import logs
from routilux_mp._worker.logs import as_text, from_text, levels, take_levels
from routilux_mp._worker.wire import Text


@contextmanager
def bare_root() -> Iterator[logging.Logger]:
    """The root without the handlers that pytest puts there for each test; levels as they were afterwards."""
    before, handlers = levels(), logging.root.handlers
    logging.root.handlers = []
    try:
        yield logging.root
    finally:
        logging.root.handlers = handlers
        take_levels({name: before.get(name, logging.NOTSET) for name in levels()})


def test_a_record_is_the_same_again() -> None:
    try:
        raise KeyError("no")
    except KeyError as error:
        exc_info = (type(error), error, error.__traceback__)
    extra = {"job": "j", "of": 3, "thing": object()}
    record = logging.getLogger("a.b").makeRecord(
        "a.b", logging.INFO, "/x/m.py", 7, "%s is %d", ("it", 3), exc_info, "go", extra
    )
    again = from_text(as_text(record))
    assert again.getMessage() == "it is 3"
    assert (again.name, again.levelno, again.lineno, again.funcName, again.module) == ("a.b", 20, 7, "go", "m")
    assert (again.created, again.process, again.threadName) == (record.created, record.process, record.threadName)
    assert (again.job, again.of, hasattr(again, "thing")) == ("j", 3, False)  # type: ignore[attr-defined]
    shown = logging.Formatter("%(levelname)s %(message)s").format(again)
    assert shown.startswith("INFO it is 3\nTraceback")
    assert shown.endswith("KeyError: 'no'")


def test_levels_are_taken() -> None:
    with bare_root() as root:
        logging.getLogger("one").setLevel(logging.DEBUG)
        logging.disable(5)
        found = levels()
        assert (found["one"], found["*"], found[""]) == (logging.DEBUG, 5, root.level)
        take_levels({"one": logging.ERROR, "": logging.CRITICAL, "*": 0})
        assert not logging.getLogger("one").isEnabledFor(logging.WARNING)
        assert not logging.getLogger("other").isEnabledFor(logging.ERROR)
        assert root.manager.disable == 0


def test_what_is_logged_is_sent() -> None:
    with bare_root():
        sent: list[Text] = []
        logs.forward(sent.append)
        logging.getLogger("any").warning("%d of %d", 1, 2)
        (text,) = sent
        assert text.stream == "log"
        assert from_text(text.text).getMessage() == "1 of 2"


def test_what_a_handler_of_the_users_has_had_is_not() -> None:
    with bare_root():
        sent: list[Text] = []
        logs.forward(sent.append)
        logger, own = logging.getLogger("own"), logging.NullHandler()
        logger.addHandler(own)
        try:
            logging.getLogger("own.child").warning("not this")
            logging.getLogger("another").warning("this")
        finally:
            logger.removeHandler(own)
        assert [from_text(text.text).getMessage() for text in sent] == ["this"]


def test_nothing_is_sent_where_the_users_modules_have_set_logging_up() -> None:
    with bare_root() as root:
        sent: list[Text] = []
        root.addHandler(logging.NullHandler())
        logs.forward(sent.append)
        logging.getLogger("any").warning("no")
        assert sent == []


def test_arguments_that_do_not_fit_end_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bare_root():
        sent: list[Text] = []
        logs.forward(sent.append)
        logging.getLogger("any").warning("%d", "no number")
        assert sent == []
        assert "--- Logging error ---" in capsys.readouterr().err
