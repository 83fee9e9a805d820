"""Programs for failover tests: a flow that leaves marks outside the job, as files that no supervisor touches."""

FLOW = """
import os, time
from routilux_mp import ErrorStrategy, Flow, Routine


class Source(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, n, pause_s=0.01, log="", poison=-1):
        for i in range(self.resume_cursor or 0, n):
            self.emit("out", i=i, pause_s=pause_s, log=log, poison=poison)
            yield i + 1


class Work(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("inp", handler=self.go)
        self.define_event("done")

    def go(self, i, pause_s, log, poison):
        mark(log, i)
        if i == poison and not os.path.exists(os.path.join(log, "..", "antidote")):
            os._exit(7)
        time.sleep(pause_s)
        self.emit("done", i=i)


def mark(log, i):
    host = os.environ.get("ROUTILUX_MP_HOST_ID", "here")
    fd = os.open(os.path.join(log, f"{host}.{os.getppid()}.{os.getpid()}"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{i} {time.time()}\\n".encode())
    os.close(fd)


flow = Flow("failover")
flow.add_routine(Source(), "source")
work = Work()
work.set_as_optional(ErrorStrategy.CONTINUE)
flow.add_routine(work, "work")
flow.connect("source", "out", "work", "inp")
"""
