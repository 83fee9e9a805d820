"""How large a value may be that travels with its commit: state, log entries, cursors, parameters.

Emissions have no such limit, since large ones go to files of their own. What is checked here would be
read again with every recovery, and what no commit can hold would cost the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Protocol

from ..errors import EmissionNotSerializable

#: Values of one activation in all: they are one record, and a commit file takes no more.
ACTIVATION_BYTES_MAX = 192 * 1024 * 1024
#: The code of a flow, with all that its routines and globals hold: it stands in the first commit of every job.
CODE_BYTES_MAX = 192 * 1024 * 1024
#: More than that, and it is said once: each job writes it, and its directory keeps it.
CODE_BYTES_HEAVY = 32 * 1024 * 1024


def check_size(data: Sized, bytes_max: int, where: str) -> None:
    """Refuse encoded data above ``bytes_max`` before anything depends on it.

    Raises:
        EmissionNotSerializable: naming ``where`` it belongs, its size and what to do.
    """
    if len(data) > bytes_max:
        raise EmissionNotSerializable(
            f"{where}: {len(data)} bytes are more than value_bytes_max ({bytes_max}). Emit it, since large emissions "
            f"go to files of their own; or write it to a file and keep the path; or raise the setting value_bytes_max"
        )


class Written(Protocol):
    """A change of the state, for the routine or for all (``scope`` "")."""

    @property
    def scope(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def value(self) -> object: ...


def check_written(changes: Iterable[Written], bytes_max: int) -> None:
    """As :func:`check_size`, for encoded values of the state."""
    for one in changes:
        if isinstance(one.value, bytes):
            where = f"state of routine '{one.scope}'" if one.scope else "shared data"
            check_size(one.value, bytes_max, f"{where}, key '{one.key}'")


def check_total(values: Iterable[object]) -> None:
    """Refuse what one activation wrote if no commit can hold it.

    Raises:
        EmissionNotSerializable: its size and what to do.
    """
    total = sum([len(value) for value in values if isinstance(value, bytes)])
    if total > ACTIVATION_BYTES_MAX:
        raise EmissionNotSerializable(
            f"one activation wrote {total} bytes of state, log entries and outputs; more than {ACTIVATION_BYTES_MAX} "
            f"cannot be committed at once. Emit large data, commit cursors in between, or write it to a file"
        )
