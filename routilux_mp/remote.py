"""Asking for something of a job that runs in another process, or on another host.

Requests travel through the job's directory. The owner obeys each exactly once, also when it dies
meanwhile (its successor does then), and also when it is asked again with the same id.
"""

from __future__ import annotations

from typing import Any

from ._storage.control import Answer
from ._storage.store import Store
from ._supervisor import remote
from .settings import Settings

__all__ = ["Answer", "ask"]


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
