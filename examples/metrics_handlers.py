"""The main job in handler style: metrics of a source tree, drawn as a treemap.

python examples/metrics_handlers.py [FOLDER]      (default: the package's own sources)

No `if __name__ == "__main__"` guard is needed: the classes below run in worker processes all the same.
"""

import sys
from pathlib import Path

import routilux_mp
from routilux_mp import Flow, Routine
from routilux_mp.activation_policies import upstream_done_policy
from routilux_mp.demo.metrics import measure, summarise, summary_text
from routilux_mp.demo.treemap import draw_treemap


class Find(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("trigger", handler=self.find)
        self.define_event("file", ["root", "path"])

    def find(self, root):
        paths = sorted(path.relative_to(root).as_posix() for path in Path(root).rglob("*.py"))
        start = self.resume_cursor or 0  # after a crash: go on behind the last committed cursor
        for number, path in enumerate(paths[start:], start + 1):
            self.emit("file", root=root, path=path)
            if number % 50 == 0:
                yield number


class Measure(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("file", handler=self.measure)
        self.define_event("measured", ["record"])

    def measure(self, root, path):
        self.emit("measured", record={"path": path, **measure(Path(root, path).read_bytes())})


class Draw(Routine):
    def __init__(self):
        super().__init__()
        self.define_slot("measured")
        self.define_event("drawn", ["picture", "summary"])
        self.set_logic(self.draw).set_activation_policy(upstream_done_policy())  # once, when all is measured

    def draw(self, slot_data, policy_message, job_state):
        summary = summarise([item["record"] for item in slot_data["measured"]])
        with self.output_file("out/handlers.png", "wb") as file:  # appears whole, when this commits
            file.write(draw_treemap(summary, "Complexity, in handler style"))
        self.emit("drawn", picture="out/handlers.png", summary=summary_text(summary))


flow = Flow(flow_id="metrics_handlers")
flow.add_routine(Find(), "find")
flow.add_routine(Measure(), "measure", workers="auto")
flow.add_routine(Draw(), "draw")
flow.connect("find", "file", "measure", "file")
flow.connect("measure", "measured", "draw", "measured")

Path("out").mkdir(exist_ok=True)
root = sys.argv[1] if len(sys.argv) > 1 else str(Path(routilux_mp.__file__).parent)
job_state = flow.execute("find", entry_params={"root": root})
flow.wait_for_completion(job_state=job_state)
print(job_state.status)
for result in job_state.results("draw", "drawn"):
    print(result["summary"], result["picture"], sep="\n")
