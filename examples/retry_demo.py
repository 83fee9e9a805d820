"""Retries go on where they were, on another host: five attempts are allowed, two are made on A, three on B.

python examples/retry_demo.py [own|shared]      (default: both, one after the other)

``own``: B has a checkpoint directory of its own, and A, which does not know of B, goes on as well.
``shared``: both use one directory. A pauses the job at two failures and B takes it from there.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from routilux_mp import ErrorHandler, ErrorStrategy, Flow, JobState, Routine, Runtime, register_serializable

MAX_RETRIES = 4
TARGET_FAILURES = 2


def note(what):
    """One line per attempt, so that they can be counted whoever makes them."""
    with open(os.environ["ATTEMPTS"], "a") as file:
        file.write(f"{os.environ['HOST']} {what}\n")


@register_serializable
class LongRunningRoutine(Routine):
    def __init__(self):
        super().__init__()
        self.trigger_slot = self.add_slot("trigger", handler=self.process)
        self.output_event = self.add_event("output", ["data"])

    def process(self, **kwargs):
        time.sleep(0.2)
        self.emit("output", data="long_running_result")


@register_serializable
class FailingRoutine(Routine):
    def __init__(self, delay=0.02):
        super().__init__()
        self.delay = delay
        self.input_slot = self.add_slot("input", handler=self.process)
        self.output_event = self.add_event("output", ["data"])

    def process(self, data=None, **kwargs):
        note(f"attempt {self.attempt}")
        time.sleep(self.delay)
        raise ValueError(f"Simulated failure on attempt {self.attempt}")


@register_serializable
class SuccessRoutine(Routine):
    def __init__(self):
        super().__init__()
        self.input_slot = self.add_slot("input", handler=self.process)

    def process(self, data=None, **kwargs):
        note("success")


def create_flow():
    flow = Flow(flow_id="retry_serialization_demo")
    failing = FailingRoutine()
    failing.set_error_handler(
        ErrorHandler(
            strategy=ErrorStrategy.RETRY,
            max_retries=MAX_RETRIES,
            retry_delay=0.3,
            retry_backoff=1.5,
            retryable_exceptions=(ValueError,),
        )
    )
    flow.add_routine(LongRunningRoutine(), "long_running")
    flow.add_routine(failing, "failing")
    flow.add_routine(SuccessRoutine(), "success")
    flow.connect("long_running", "output", "failing", "input")
    flow.connect("failing", "output", "success", "input")
    return flow


def failures_of(job_state):
    return [record for record in job_state.get_execution_history("failing") if record.event_name == "error"]


def host_a(way):
    os.environ |= {"HOST": "A", "ATTEMPTS": os.path.abspath(f"attempts_{way}.txt")}
    save_path = Path(f"flow_state_{way}.json")
    flow = create_flow()
    error_handler = flow.routines["failing"].get_error_handler()
    with Runtime(thread_pool_size=3, checkpoint_dir=f"host_a_{way}"):
        job_state = flow.execute("long_running", settle_s=0)
        print(f"Host A: {job_state.status}")
        JobState.wait_until_condition(flow, job_state, lambda flow, state: len(failures_of(state)) >= TARGET_FAILURES)
        if way == "shared":
            flow.pause(job_state, reason="2 failures detected")
        data = {"flow": flow.serialize(), "job_state": job_state.serialize()}
        failure_count, retry_count = len(failures_of(job_state)), error_handler.retry_count
        save_path.write_text(json.dumps({**data, "failure_count": failure_count, "retry_count": retry_count}))
        print(f"State saved at {failure_count} failures, retry count {retry_count}/{MAX_RETRIES}", flush=True)
        host_b = subprocess.Popen([sys.executable, __file__, "host_b", way], env={**os.environ, "HOST": "B"})
        assert host_b.wait() == 0
        if way == "own":
            JobState.wait_for_completion(flow, job_state)
            print(f"Host A in the end: {job_state.status}")

    attempts = Path(os.environ["ATTEMPTS"]).read_text().splitlines()
    for host in ("A", "B"):
        made = [line.split(" ", 1)[1] for line in attempts if line.startswith(host)]
        print(f"Attempts on {host}: {', '.join(what.removeprefix('attempt ') for what in made)}")
    print(f"SuccessRoutine executed: {any('success' in line for line in attempts)}")


def host_b(way):
    save_data = json.loads(Path(f"flow_state_{way}.json").read_text())
    new_flow = Flow()
    new_flow.deserialize(save_data["flow"])
    error_handler = new_flow.routines["failing"].get_error_handler()
    print(f"Host B: {list(new_flow.routines)}")
    print(f"  - Strategy: {error_handler.strategy}")
    print(f"  - Retry count: {error_handler.retry_count}")
    new_job_state = JobState()
    new_job_state.deserialize(save_data["job_state"])
    print(f"  - Status: {new_job_state.status}")
    with Runtime(thread_pool_size=3, checkpoint_dir="host_a_shared" if way == "shared" else "host_b_own"):
        # In the shared directory a living process has the job: it is asked to yield it. In B's own, nobody has.
        resumed_job_state = new_flow.resume(new_job_state, takeover=way == "shared")
        JobState.wait_for_completion(new_flow, resumed_job_state, timeout=60.0)
        print(f"  - Final status: {resumed_job_state.status}")
        print(f"  - Final retry count: {error_handler.retry_count}/{MAX_RETRIES}")
        print(f"  - Failed attempts in the history: {len(failures_of(resumed_job_state))}", flush=True)


if sys.argv[1:2] == ["host_b"]:
    host_b(sys.argv[2])
else:
    for directory in sys.argv[1:] or ["own", "shared"]:
        print(f"--- {directory} checkpoint directory")
        host_a(directory)
