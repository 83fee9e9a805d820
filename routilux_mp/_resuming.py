"""Going on with a job: one of this process, one of this root, or one that only a document tells of.

The rule owned here: where this root has a log of the job, the log counts and an older document does not.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ._compile import compile_flow
from ._documents import ENGINE, Document
from ._state_values import Values
from ._transfer import edits_of, import_job, is_older
from .errors import UnknownName
from .job_state import JobState
from .status import JobStatus

if TYPE_CHECKING:
    from ._supervisor.compiled import CompiledFlow
    from .flow import Flow
    from .runtime import Runtime

_log = logging.getLogger(__name__)


def go_on(runtime: Runtime, flow: Flow, job_state: JobState, takeover: bool) -> JobState:
    """See ``Runtime.resume``."""
    runtime._check_open()
    job_state._check_flow(flow)
    live = job_state._live
    if live is not None and live.handle.view.is_terminal:
        if job_state.status == JobStatus.PAUSED:
            live.curtain.resume()
        return job_state
    if live is None and job_state.status.is_terminal:
        return job_state
    supervisor = runtime._supervisor()
    compiled = compile_flow(flow, runtime.settings)
    if live is not None and live.handle.lost is None and live.handle in supervisor.handles():
        live.handle.resume()
        return job_state
    was_paused = job_state.status == JobStatus.PAUSED
    document = job_state._document
    edits = None if document is None else edits_of(document, Values(job_state.job_id, supervisor.signer))
    try:
        handle = supervisor.resume(compiled, job_state.job_id, takeover=takeover, edits=edits)
    except UnknownName:
        if document is None:
            raise
        return _import(runtime, compiled, job_state, document)
    if document is not None and is_older(supervisor, document, handle.found_ns):
        _log.warning("job %s: its log in %s has gone on since this document was made, and counts",
                     job_state.job_id, runtime.settings.checkpoint_dir)  # fmt: skip
    if not handle.view.is_terminal:
        job_state._forget_edits()
    job_state._attach(handle, supervisor.signer)
    if handle.view.is_terminal and was_paused:
        job_state._live_or_fail().curtain.resume()
    runtime._know(job_state)
    return job_state


def go_on_by_id(runtime: Runtime, job_id: str, flow: Flow | None, takeover: bool) -> JobState:
    """See ``Runtime.resume_job``."""
    runtime._check_open()
    compiled = None if flow is None else compile_flow(flow, runtime.settings)
    from ._supervisor.serving import document_of

    supervisor = runtime._supervisor()
    try:
        return runtime._state_of(supervisor.resume(compiled, job_id, takeover=takeover))
    except UnknownName:
        data = document_of(supervisor.store, job_id) if compiled is not None else None
        if compiled is None or data is None:
            raise
        state = JobState.deserialize(data)
        assert state._document is not None
        return _import(runtime, compiled, state, state._document)


def _import(runtime: Runtime, compiled: CompiledFlow, state: JobState, document: Document) -> JobState:
    """Go on with a job that only a document tells of."""
    handle = import_job(runtime._supervisor(), compiled, state, document)
    if ENGINE in document.unknown:
        document.output_log = []  # the job has it now
        runtime._take(state, handle)
        if handle.view.is_terminal:  # it was paused after its end
            curtain = state._live_or_fail().curtain
            curtain.pause_points += document.pause_points[len(handle.view.pause_points) :]
            curtain.resume()
    else:
        history = list(document.execution_history)
        runtime._take(state, handle)
        state._live_or_fail().before = history
    return state
