"""Files that handlers wrote with ``output_file``: moved into place when their commit stands.

The record of the commit names each private file and where it belongs, so that a successor finishes
what a killed supervisor had not moved yet. The rule it owns: moving is done at least once and is
idempotent; what is not there any more was moved before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator

from .._core.records import Durable

_log = logging.getLogger(__name__)


def outputs_of(records: Iterable[Durable]) -> Iterator[tuple[str, str]]:
    """(private file, final place) of every output that these records commit."""
    for record in records:
        for op in getattr(record, "ops", ()):
            if op.op == "output":
                private, final = op.value
                yield private, final


def put_in_place(outputs: Iterable[tuple[str, str]]) -> None:
    """Move the files whose commit stands; one that cannot be moved stays beside its place and is named in the log."""
    folders = set()
    for private, final in outputs:
        try:
            os.replace(private, final)
        except FileNotFoundError:
            if not os.path.exists(final):
                _log.warning("output %s is gone: neither it nor %s is there", final, private)
        except OSError as error:
            _log.error("output %s could not be put in place and stays at %s: %s", final, private, error.strerror)
        else:
            folders.add(os.path.dirname(final))
    for folder in folders:
        _sync(folder)


def _sync(folder: str) -> None:
    """The new name itself is on stable storage; where folders cannot be synced, it soon will be."""
    try:
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
