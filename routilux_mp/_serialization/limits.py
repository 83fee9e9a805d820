"""How large a value may be that travels with its commit: state, log entries, cursors, parameters.

Emissions have no such limit, since large ones go to files of their own. What is checked here would be
read again with every recovery, and what no commit can hold would cost the job.
"""

from __future__ import annotations

from collections.abc import Sized

from ..errors import EmissionNotSerializable


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
