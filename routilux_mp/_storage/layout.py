"""Names and places inside a checkpoint root, and the limits on what is read from there.

Nothing here touches a disk. The rule it owns: a name that came from outside (a job id, a directory
listing, a blob reference) becomes part of a path only after it matched one of these patterns.
"""

from __future__ import annotations

import re
from typing import Final

from ..errors import CheckpointDamaged, UsageError

#: The on-disk format this version writes, and the newest `min_reader` it understands.
FORMAT: Final = 1
#: Written into every OPEN, for people who look for who wrote what.
WRITER_VERSION: Final = "0.1.0"

COMMIT_FILE_BYTES_MAX: Final = 256 * 1024 * 1024
SNAPSHOT_BYTES_MAX: Final = 1024 * 1024 * 1024
ARCHIVE_BYTES_MAX: Final = 4 * 1024 * 1024 * 1024
VIEW_BYTES_MAX: Final = 256 * 1024 * 1024
SMALL_FILE_BYTES_MAX: Final = 64 * 1024
LISTING_COUNT_MAX: Final = 1_000_000

TMP: Final = "tmp"
OWNERS: Final = ".owners"
CONTROL: Final = "control"
EPOCHS: Final = "epochs"
SNAPSHOTS: Final = "snapshots"
ARCHIVE: Final = "archive"
BLOBS: Final = "blobs"
FORMAT_FILE: Final = "format.json"
FLOW_VIEW: Final = "flow.json"
STATE_VIEW: Final = "job_state.json"
LOCK_FILE: Final = "lock"

_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EPOCH = re.compile(r"e(\d{7,10})")
_COMMIT = re.compile(r"c(\d{8,10})")
_TOKEN = re.compile(r"[0-9a-f]{32}")
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_BLOB = re.compile(r"e\d{7,10}/[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_job_id(text: str) -> bool:
    """Whether `text` may name a job directory (`tmp` is the root's own)."""
    return _JOB_ID.fullmatch(text) is not None and text.lower() != TMP


def check_job_id(text: str) -> str:
    """`text`, or UsageError: the id becomes a directory name on every file system there is."""
    if not is_job_id(text):
        raise UsageError(
            f"job id {text!r} cannot be used: 1 to 64 letters, digits, '.', '_', '-', "
            f"the first a letter or digit, and not 'tmp'"
        )
    return text


def epoch_name(epoch: int) -> str:
    return f"e{epoch:07d}"


def commit_name(number: int) -> str:
    return f"c{number:08d}"


def parse_epoch(name: str) -> int | None:
    """The epoch that a file or directory name stands for; None when it is not exactly such a name."""
    match = _EPOCH.fullmatch(name)
    return int(match[1]) if match and epoch_name(int(match[1])) == name else None


def parse_commit(name: str) -> int | None:
    """The number that a commit file's name stands for; None when it is not exactly such a name."""
    match = _COMMIT.fullmatch(name)
    return int(match[1]) if match and commit_name(int(match[1])) == name else None


def is_token(text: str) -> bool:
    """Whether `text` may name a heartbeat: an owner's token as hex."""
    return _TOKEN.fullmatch(text) is not None


def is_request_id(text: str) -> bool:
    """Whether `text` may name a request: a ULID."""
    return _ULID.fullmatch(text) is not None


def check_blob_name(name: str) -> str:
    """`name` as "e0000007/<file>", or CheckpointDamaged: it came out of a checkpoint file."""
    if _BLOB.fullmatch(name) is None:
        raise CheckpointDamaged(f"{name!r} does not name a blob; nothing was opened")
    return name
