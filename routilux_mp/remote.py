"""A job that runs in another process, or on another host: asking for something of it, reading its results.

Requests travel through the job's directory. The owner obeys each exactly once, also when it dies
meanwhile (its successor does then), and also when it is asked again with the same id. Results are read
from the directory, by as many as like to, and whether the job still runs or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ._serialization.signing import Signer
from ._storage.control import Answer
from ._storage.store import Store
from ._supervisor import remote
from ._supervisor.onlooker import Onlooker
from .settings import Settings

__all__ = ["Answer", "ask", "results"]


def ask(
    job_id: str,
    kind: str,
    *,
    root: str | None = None,
    request_id: str | None = None,
    timeout_s: float = 10.0,
    **arguments: Any,
) -> Answer | None:
    """Ask the owner of a job, and wait for its answer.

    Args:
        job_id: the job.
        kind: ``pause`` (``reason``, ``handover``), ``resume``, ``cancel`` (``reason``), ``retry`` and ``skip``
            (``activation``: "routine/7", "routine", or nothing for all), ``post`` (``routine``, ``slot``,
            ``data``), ``yield``.
        root: the checkpoint root; default: the setting.
        request_id: that of an earlier call, to ask for its answer again.
        timeout_s: how long to wait, seconds.
        arguments: plain JSON values.

    Returns:
        The answer, or None when there was none in time. The request stands: whoever owns the job next obeys it.

    Raises:
        ValueError: there is no such job.
        StorageError: the request could not be written.
    """
    settings = Settings.load(checkpoint_dir=root)
    with Store(settings.checkpoint_dir, settings) as store:
        sent = remote.send(store, job_id, kind, arguments, request_id)
        return remote.wait_answer(store, job_id, sent, timeout_s)


def results(
    job_id: str, routine_id: str, event: str, *, root: str | None = None, follow: bool = False
) -> Iterator[dict[str, Any]]:
    """Emissions of an event that is connected to nothing, each exactly once, as they stand on disk.

    Args:
        job_id: the job, whoever runs it or ran it.
        routine_id: the routine that emits.
        event: its event.
        root: the checkpoint root; default: the setting.
        follow: go on, as they come, until the job has ended.

    Raises:
        ValueError: there is no such job, routine or event.
        CheckpointDamaged: the directory cannot be read.
        SignatureInvalid, KeyUnavailable: an object among them was not signed with a key of this process.
    """
    settings = Settings.load(checkpoint_dir=root)
    with Store(settings.checkpoint_dir, settings) as store:
        onlooker = Onlooker(store, settings, Signer.from_settings(settings), job_id)
        yield from onlooker.results(routine_id, event, is_following=follow)
