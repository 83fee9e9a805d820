"""One job, two hosts: host A pauses it half way and sends it as JSON, host B finishes it.

python examples/cross_host.py [file|socket|sqlite]      (default: all three, one after the other)

The hosts are two processes that share nothing: each has a checkpoint directory of its own, and all
that B ever sees of A is the JSON. It travels in a file, over a TCP connection, or through a database.
"""

import json
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from routilux_mp import Flow, JobState, Routine, Runtime, register_serializable

COUNT = 40


@register_serializable
class DataSource(Routine):
    def __init__(self):
        super().__init__()
        self.trigger_slot = self.add_slot("trigger", handler=self.send)
        self.output_event = self.add_event("output", ["data"])

    def send(self, count=1):
        for number in range(count):
            self.emit("output", data=number)


@register_serializable
class DataProcessor(Routine):
    def __init__(self):
        super().__init__()
        self.input_slot = self.add_slot("input", handler=self.process)
        self.output_event = self.add_event("output", ["result"])

    def process(self, data):
        time.sleep(0.01)
        self.emit("output", result=f"Processed: {data}")


def make_flow():
    flow = Flow(flow_id="cross_host_flow")
    source_id = flow.add_routine(DataSource(), "source")
    processor_id = flow.add_routine(DataProcessor(), "processor")
    flow.connect(source_id, "output", processor_id, "input")
    return flow


def results_of(job_state):
    records = job_state.get_execution_history("processor")
    return [record.data["result"] for record in records if record.event_name == "output"]


# -- the ways from A to B ---------------------------------------------------------------------------


def send_by_file(text, address):
    Path(address).write_text(text)


def receive_by_file(address):
    return Path(address).read_text()


def send_by_socket(text, address):
    with socket.create_connection(("127.0.0.1", int(address))) as connection:
        connection.sendall(text.encode())


def receive_by_socket(server):
    connection, _ = server.accept()
    with connection, connection.makefile(encoding="utf-8") as stream:
        return stream.read()  # to the end: A closes the connection behind the text


def send_by_sqlite(text, address):
    data = json.loads(text)
    database = sqlite3.connect(address)
    with database:
        database.execute("CREATE TABLE IF NOT EXISTS executions (flow_id TEXT, job_id TEXT, flow TEXT, job_state TEXT)")
        row = (data["flow"]["flow_id"], data["job_state"]["job_id"])
        database.execute(
            "INSERT INTO executions VALUES (?, ?, ?, ?)",
            (*row, json.dumps(data["flow"]), json.dumps(data["job_state"])),
        )
    database.close()


def receive_by_sqlite(address):
    database = sqlite3.connect(address)
    flow, job_state = database.execute("SELECT flow, job_state FROM executions").fetchone()
    database.close()
    return json.dumps({"flow": json.loads(flow), "job_state": json.loads(job_state)})


# -- the hosts --------------------------------------------------------------------------------------


def host_a(way):
    flow = make_flow()
    with Runtime(thread_pool_size=2, checkpoint_dir=f"host_a_{way}"):
        job_state = flow.execute("source", entry_params={"count": COUNT}, settle_s=0)
        JobState.wait_until_condition(flow, job_state, lambda flow, state: len(results_of(state)) >= COUNT // 4)
        flow.pause(job_state, reason="Transfer to Host B")  # what runs commits, what is queued stays queued
        text = json.dumps({"flow": flow.serialize(), "job_state": job_state.serialize()})
        done = results_of(job_state)
        assert len(done) + len(job_state.pending_tasks) == COUNT
        print(f"Host A: {job_state.status}, a part is done", flush=True)

    address = {"file": "transfer.json", "socket": "0", "sqlite": "executions.db"}[way]
    command = [sys.executable, __file__, "host_b", way, address]
    if way == "socket":  # B listens first, and says where
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host_b:
            send_by_socket(text, host_b.stdout.readline())
            print(host_b.stdout.read(), end="")
    else:
        {"file": send_by_file, "sqlite": send_by_sqlite}[way](text, address)
        subprocess.run(command, check=True)
    finished = json.loads(Path(f"finished_{way}.json").read_text())
    assert finished == [f"Processed: {number}" for number in range(COUNT)], finished
    assert 0 < len(done) < COUNT
    print(f"By {way}: every result once, in order, the first ones made by A and the last ones by B")


def host_b(way, address):
    if way == "socket":
        with socket.create_server(("127.0.0.1", 0)) as server:
            print(server.getsockname()[1], flush=True)
            transfer = json.loads(receive_by_socket(server))
    else:
        transfer = json.loads({"file": receive_by_file, "sqlite": receive_by_sqlite}[way](address))

    new_flow = Flow()
    new_flow.deserialize(transfer["flow"])
    new_job_state = JobState()
    new_job_state.deserialize(transfer["job_state"])
    assert new_flow.flow_id == "cross_host_flow"
    assert new_job_state.status == "paused"

    with Runtime(thread_pool_size=2, checkpoint_dir=f"host_b_{way}"):
        resumed = new_flow.resume(new_job_state)
        JobState.wait_for_completion(new_flow, resumed, timeout=60.0)
        print(f"Host B: {resumed.status}, {len(resumed.execution_history)} records")
        Path(f"finished_{way}.json").write_text(json.dumps(results_of(resumed)))


if sys.argv[1:2] == ["host_b"]:
    host_b(*sys.argv[2:])
else:
    for transport in sys.argv[1:] or ["file", "socket", "sqlite"]:
        host_a(transport)
