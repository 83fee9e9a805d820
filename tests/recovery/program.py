"""The program that is killed: starts or resumes one job, as a user's script would, and says how far it is.

``python -m tests.recovery.program <flow> <checkpoint dir> <job id> start|resume|adopt|read [setting=value …]``;
``adopt`` resumes with the code that the checkpoint holds, ``read`` tells what several ended jobs came to. It
prints one JSON line per milestone.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from routilux_mp import JobState, Runtime
from tests.recovery.flows import CASES


def say(what: str, **more: Any) -> None:
    print(json.dumps({"what": what, **more}), flush=True)


def outcome(state: JobState) -> dict[str, Any]:
    """Everything of an ended job that must not depend on what happened to it on the way."""
    results: dict[str, list[Any]] = {}
    for routine, event in sorted(state._live_or_fail().handle.view.results_count):
        results[f"{routine}.{event}"] = list(state.results(routine, event))
    return {
        "status": str(state.status),
        "error": state.error,
        "results": results,
        "shared": dict(state.shared_data),
        "log": [{key: value for key, value in entry.items() if key != "timestamp"} for entry in state.shared_log],
        "sums": {
            rid: {k: v for k, v in s.items() if k in ("total", "last")} for rid, s in state.routine_states.items()
        },
        "dead": len(state.dead_letters),
        "unconsumed": state.unconsumed,
    }


def main(name: str, root: str, job_id: str, how: str, *settings: str) -> None:
    case = CASES[name]
    flow = case.make(case.items)
    options = dict(pair.split("=", 1) for pair in settings)
    with Runtime(4, checkpoint_dir=root, **options) as runtime:
        if how == "read":
            say("read", outcomes={one: outcome(runtime.resume_job(one, flow)) for one in job_id.split(",")})
            return
        if how == "start":
            state = JobState(flow.flow_id)
            state.job_id = job_id
            runtime.exec(flow, {"n": case.items}, state, settle_s=0)
        else:
            state = runtime.resume_job(job_id, None if how == "adopt" else flow)
        say("accepted", job_id=state.job_id)
        if not JobState.wait_for_completion(flow, state, timeout=60):
            say("stuck", status=str(state.status), progress=state.progress, blocked=str(state.blocked))
            sys.exit(3)
        say("ended", outcome=outcome(state))


if __name__ == "__main__":
    main(*sys.argv[1:])
