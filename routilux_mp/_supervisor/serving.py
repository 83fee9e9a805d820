"""What a supervisor's loop, workers and documents are made from: which backend, what workers are told, the views.

Nothing is kept here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._core.batch import Batch
from .._core.job import Job
from .._core.topology import Topology
from .._storage.codec import batches_of, decode_record
from .._storage.layout import BLOBS, epoch_name
from .._storage.log import Tenure as DurableTenure
from .._storage.replay import LogRef
from .._worker.spill import PayloadReader
from ..backends.base import Backend, JobInfo
from ..errors import StorageError
from .commits import MakeViews
from .compiled import CompiledFlow, unportable
from .live import LiveJob

if TYPE_CHECKING:
    from .._storage.store import Store
    from .handle import JobHandle
    from .supervisor import Supervisor

log = logging.getLogger(__name__)


def make_backend(name: str) -> Backend:
    """The backend of this name, its nursery on its way."""
    if name == "inline":
        from ..backends.inline import InlineBackend

        return InlineBackend()
    from ..backends.local import LocalBackend

    backend = LocalBackend()
    backend.prepare()
    return backend


def info_of(supervisor: Supervisor, live: LiveJob) -> JobInfo:
    """Everything that a worker must know of a job."""
    s = supervisor.settings
    return JobInfo(
        live.job.job_id, live.code_id, live.job.topology.flow_id, live.job.topology.to_plain(),
        _blob_dir(supervisor.store, live), supervisor.signer.keys, s.batch_count_max, s.batch_bytes_max, s.flush_ms,
        s.payload_inline_bytes_max, s.value_bytes_max, supervisor.is_durable, live.job.metadata,
    )  # fmt: skip


def documents_of(live: LiveJob, describe: Callable[[JobHandle], bytes] | None) -> MakeViews:
    """What makes the views of a job; it opens users' values, so it never runs in the loop."""
    handle = live.handle

    def make() -> tuple[bytes | None, bytes]:
        if describe is not None and handle is not None:
            return live.owed_flow, describe(handle)
        view = live.view
        return live.owed_flow, json.dumps({"_type": "JobState", "job_id": view.job_id, "status": view.status}).encode()

    return make


def owed_flow(store: Store, job: Job, flow: CompiledFlow | None) -> bytes | None:
    """flow.json for a job whose own is missing or damaged, from whoever goes on with it; None: it is there."""
    try:
        if store.read_flow(job.job_id) is not None:
            return None
    except StorageError as error:  # a view: no job waits for one
        log.warning("flow.json of job %s is left as it is: %s", job.job_id, error)
        return None
    return flow.flow_doc if flow is not None else unportable_flow(job.topology)


def flow_doc_of(store: Store, job: Job) -> bytes:
    """flow.json as it is there, else what the job itself keeps of its flow."""
    try:
        found = store.read_flow(job.job_id)
    except StorageError:
        found = None
    return found or unportable_flow(job.topology)


def unportable_flow(topology: Topology) -> bytes:
    """flow.json from a process that has the code which a job keeps, and not its flow."""
    why = "It was lost, and whoever went on with the job had no more of the flow than what the job itself keeps."
    return json.dumps(unportable(topology, why)).encode()


def document_of(store: Store, job_id: str) -> dict[str, Any] | None:
    """The JobState document of a job that only has its documents here; None if it has a log, or nothing."""
    if not store.has_only_views(job_id):
        return None
    _, state = store.read_views(job_id)
    document = None if state is None else json.loads(state)
    return document if isinstance(document, dict) else None


def read_batch(store: Store, live: LiveJob, batch: Batch) -> bytes:
    """The bytes of a batch whose copy in memory was dropped."""
    assert batch.ref is not None
    epoch, commit, frame, number = batch.ref
    ref = LogRef(epoch, commit, frame)
    tenure = live.tenure
    # A job that had ended before this process looked at it was never owned here.
    owned = tenure if isinstance(tenure, DurableTenure) else None
    record = decode_record(owned.read(ref) if owned is not None else store.read_frame(live.job.job_id, ref))
    data = list(batches_of(record))[number].data
    assert data is not None
    return data


def payloads_of(store: Store, live: LiveJob) -> PayloadReader:
    """Opens the payloads of a job, also those that lie in blobs."""
    if live.payloads is None:
        is_kept = live.memory is None  # else its files are nobody else's
        folder = store.view_paths(live.job.job_id).job if live.memory is None else live.memory.shared_dir
        live.payloads = PayloadReader(None if folder is None else f"{folder}/{BLOBS}/-", is_copying=is_kept)
    return live.payloads


def _blob_dir(store: Store, live: LiveJob) -> str | None:
    if live.memory is not None and live.memory.shared_dir is not None:
        return f"{live.memory.shared_dir}/{BLOBS}/{epoch_name(1)}"
    if not isinstance(live.tenure, DurableTenure):
        return None
    # Most jobs have no blobs: the first worker that writes one makes the directory.
    return f"{store.view_paths(live.job.job_id).blobs}/{epoch_name(live.tenure.epoch)}"
