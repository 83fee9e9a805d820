"""Handlers that cannot be interrupted: busy in C code for minutes, some of them with children of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable

from routilux_mp import Flow, JobState, Routine, Runtime


def power() -> None:
    """One long call that holds the interpreter lock."""
    3 ** (1 << 27)


def squeeze() -> None:
    data = os.urandom(1 << 20) * 32
    while True:
        zlib.compress(data, 9)


def derive() -> None:
    hashlib.pbkdf2_hmac("sha512", b"password", b"salt", 1 << 30)


WORK: dict[str, Callable[[], None]] = {"power": power, "squeeze": squeeze, "derive": derive}


class Busy(Routine):
    """Starts a child that outlives everything unless it is killed, says so, and never comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_slot("in", handler=self.go)
        self.define_event("out")

    def go(self, folder: str) -> None:
        kind = self.get_config("kind")
        # It has the pipes of its parent, as children of careless handlers do.
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
        with open(os.path.join(folder, f"{kind}.{os.getpid()}"), "w") as file:
            file.write(str(child.pid))
        WORK[kind]()


class Start(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, folder: str) -> None:
        self.emit("out", folder=folder)


def busy_flow() -> Flow:
    flow = Flow(flow_id="busy")
    flow.add_routine(Start(), "start")
    for kind in WORK:
        routine = Busy()
        routine.set_config(kind=kind)
        flow.add_routine(routine, kind)
        flow.connect("start", "out", kind, "in")
    return flow


def main(folder: str, root: str) -> None:
    """Run until killed. Prints the job id once it is known."""
    runtime = Runtime(5, checkpoint_dir=root)
    flow = busy_flow()
    state = runtime.exec(flow, {"folder": folder}, settle_s=0)
    print(json.dumps(state.job_id), flush=True)
    JobState.wait_for_completion(flow, state)


if __name__ == "__main__":
    main(*sys.argv[1:])
