"""Going on with a job: one of this process, one of this root, or one that only a document tells of.

The rule owned here: where this root has a log of the job, the log counts and an older document does not.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ._compile import compile_flow
from ._documents import ENGINE, Document
from ._state_values import Values
from ._supervisor.compiled import CompiledFlow
from ._transfer import edits_of, import_job, is_older, job_of
from .errors import UnknownName
from .job_state import JobState
from .settings import ON_CODE_CHANGE, check_choice
from .status import JobStatus

if TYPE_CHECKING:
    from ._supervisor.supervisor import Supervisor
    from .flow import Flow
    from .runtime import Runtime

_log = logging.getLogger(__name__)


def go_on(
    runtime: Runtime, flow: Flow, job_state: JobState, takeover: bool, on_code_change: str | None = None
) -> JobState:
    """See ``Runtime.resume``."""
    runtime._check_open()
    job_state._check_flow(flow)
    live = job_state._live
    has_ended = job_state.status.is_terminal if live is None else live.handle.view.is_terminal
    if has_ended and job_state.status == JobStatus.PAUSED and live is not None:
        live.curtain.resume()
    if has_ended and job_state.status != JobStatus.FAILED:
        return job_state
    supervisor = runtime._supervisor()
    compiled = compile_flow(flow, runtime.settings)
    if has_ended and not _may_be_tried_again(supervisor, compiled, job_state):
        return job_state
    if not has_ended and live is not None and live.handle.lost is None and live.handle in supervisor.handles():
        supervisor.resume(compiled, job_state.job_id)
        return job_state
    was_paused = job_state.status == JobStatus.PAUSED
    document = job_state._document
    edits = None if document is None else edits_of(document, Values(job_state.job_id, supervisor.signer))
    try:
        handle = supervisor.resume(compiled, job_state.job_id, takeover=takeover, edits=edits,
                                   on_code_change=_checked(on_code_change))  # fmt: skip
    except UnknownName:
        if document is None:
            raise
        return _import(runtime, compiled, job_state, document)
    if handle.job_id != job_state.job_id:
        return runtime._state_of(handle)  # it runs again, with the code as it is now
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


def _may_be_tried_again(supervisor: Supervisor, compiled: CompiledFlow, job_state: JobState) -> bool:
    """Whether something of this failed job has retries left by the rules of the flow that it is resumed with."""
    from ._supervisor.recovery import may_be_tried_again

    live, document = job_state._live, job_state._document
    if live is not None:
        return supervisor.is_durable and may_be_tried_again(live.handle.live.job, compiled)
    if document is None or ENGINE not in document.unknown:
        return False
    return may_be_tried_again(job_of(supervisor, document), compiled)


def go_on_by_id(
    runtime: Runtime, job_id: str, flow: Flow | CompiledFlow | None, takeover: bool, on_code_change: str | None = None
) -> JobState:
    """See ``Runtime.resume_job``."""
    runtime._check_open()
    compiled = flow if flow is None or isinstance(flow, CompiledFlow) else compile_flow(flow, runtime.settings)
    from ._supervisor.serving import document_of

    supervisor = runtime._supervisor()
    try:
        return runtime._state_of(
            supervisor.resume(compiled, job_id, takeover=takeover, on_code_change=_checked(on_code_change))
        )
    except UnknownName:
        data = document_of(supervisor.store, job_id) if compiled is not None else None
        if compiled is None or data is None:
            raise
        state = JobState.deserialize(data)
        assert state._document is not None
        return _import(runtime, compiled, state, state._document)


def _checked(on_code_change: str | None) -> str | None:
    if on_code_change is not None:
        check_choice("on_code_change", on_code_change, ON_CODE_CHANGE)
    return on_code_change


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
