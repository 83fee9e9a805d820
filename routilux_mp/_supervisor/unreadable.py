"""What becomes of a job whose input cannot be read: the error that says so, for whoever waits for the job."""

from __future__ import annotations

import logging

from .. import errors
from .._core.effects import Unreadable
from .._core.topology import Topology

log = logging.getLogger(__name__)


def error_of(effect: Unreadable, job_id: str, topology: Topology) -> errors.StorageError | None:
    """Why the job must be given up; None (and a warning) when it is tried again."""
    routine, failure = effect
    text = f"job {job_id}: input of routine '{topology.routines[routine].routine_id}' cannot be read: {failure.message}"
    if failure.is_retryable:
        log.warning("%s; it is tried again", text)
        return None
    kind = getattr(errors, failure.type_name.rpartition(".")[2], None)
    if not (isinstance(kind, type) and issubclass(kind, errors.StorageError)):
        kind = errors.CheckpointDamaged
    # Nothing of the job is decided and nothing deleted: it can be looked at, repaired and resumed.
    return kind(
        f"{text}. Nothing was lost or changed; see `routilux-mp fsck`, repair what is damaged, and resume the job"
    )
