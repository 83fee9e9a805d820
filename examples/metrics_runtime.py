"""The main job in runtime style: metrics of a source tree, drawn as a treemap.

python examples/metrics_runtime.py [FOLDER]      (default: the package's own sources)
"""

import sys
from pathlib import Path

import routilux_mp
from routilux_mp import Flow, Routine
from routilux_mp.activation_policies import immediate_policy, upstream_done_policy
from routilux_mp.demo.metrics import measure, summarise, summary_text
from routilux_mp.demo.treemap import draw_treemap
from routilux_mp.monitoring.flow_registry import FlowRegistry
from routilux_mp.runtime import Runtime


class Find(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger")
        self.add_event("file")

        def find(slot_data, policy_message, job_state):
            for order in slot_data["trigger"]:
                for path in sorted(Path(order["root"]).rglob("*.py")):
                    self.emit("file", root=order["root"], path=path.relative_to(order["root"]).as_posix())

        self.set_logic(find)
        self.set_activation_policy(immediate_policy())


class Measure(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("file")
        self.add_event("measured")

        def measure_all(slot_data, policy_message, job_state):
            for file in slot_data["file"]:  # an immediate policy takes all that is there
                source = Path(file["root"], file["path"]).read_bytes()
                self.emit("measured", record={"path": file["path"], **measure(source)})

        self.set_logic(measure_all)
        self.set_activation_policy(immediate_policy())


class Draw(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("measured")
        self.add_event("drawn")

        def draw(slot_data, policy_message, job_state):
            summary = summarise([item["record"] for item in slot_data["measured"]])
            with self.output_file("out/runtime.png", "wb") as file:
                file.write(draw_treemap(summary, "Complexity, in runtime style"))
            self.emit("drawn", picture="out/runtime.png", summary=summary_text(summary))

        self.set_logic(draw)
        self.set_activation_policy(upstream_done_policy())


flow = Flow(flow_id="metrics_runtime")
flow.add_routine(Find(), "find")
flow.add_routine(Measure(), "measure", workers=2)
flow.add_routine(Draw(), "draw")
flow.connect("find", "file", "measure", "file")
flow.connect("measure", "measured", "draw", "measured")
FlowRegistry.get_instance().register_by_name("metrics", flow)

Path("out").mkdir(exist_ok=True)
root = sys.argv[1] if len(sys.argv) > 1 else str(Path(routilux_mp.__file__).parent)
with Runtime(thread_pool_size=4) as runtime:
    job_state = runtime.exec("metrics", entry_params={"root": root})
    runtime.wait_until_all_jobs_finished(timeout=600)
print(job_state.status)
for result in job_state.results("draw", "drawn"):
    print(result["summary"], result["picture"], sep="\n")
