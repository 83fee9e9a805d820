"""Save an execution, load it again, run it once more: the second run goes on counting where the first one stopped.

python examples/resume_attempt.py
"""

import json
from pathlib import Path

from routilux_mp import Flow, JobState, Routine
from routilux_mp.activation_policies import immediate_policy
from routilux_mp.monitoring.flow_registry import FlowRegistry
from routilux_mp.runtime import Runtime


class DataSource(Routine):
    def __init__(self):
        super().__init__()
        self.trigger = self.add_slot("trigger")
        self.output = self.add_event("output", ["data"])

        def generate(slot_data, policy_message, job_state):
            trigger_list = slot_data.get("trigger", [])
            data = trigger_list[0].get("data", "default") if trigger_list else "default"
            self.emit("output", data=data)

        self.set_logic(generate)
        self.set_activation_policy(immediate_policy())


class Processor(Routine):
    def __init__(self):
        super().__init__()
        self.input = self.add_slot("input")
        self.output = self.add_event("output", ["result"])

        def process(slot_data, policy_message, job_state):
            # What an earlier execution left here is kept: it is part of the state that was saved.
            state = job_state.get_routine_state("processor", {})
            processed_count = state.get("count", 0)
            input_list = slot_data.get("input", [])
            data_value = input_list[0].get("data", "") if input_list else ""
            job_state.update_routine_state("processor", {"count": processed_count + 1})
            print(f"Processed: {data_value} (attempt #{processed_count + 1})")

        self.set_logic(process)
        self.set_activation_policy(immediate_policy())


flow = Flow(flow_id="resume_flow")
flow.add_routine(DataSource(), "source")
flow.add_routine(Processor(), "processor")
flow.connect("source", "output", "processor", "input")
FlowRegistry.get_instance().register_by_name("resume_flow", flow)

with Runtime(thread_pool_size=5) as runtime:
    job_state1 = runtime.exec("resume_flow", entry_params={"data": "first_input"})
    runtime.wait_until_all_jobs_finished(timeout=60.0)
    job_state1.save("state1.json")
    print(f"First execution. Job ID: {job_state1.job_id}")

saved_state = JobState.deserialize(json.loads(Path("state1.json").read_text()))
print(f"Loaded JobState. Status: {saved_state.status}")
print(f"Original Job ID: {saved_state.job_id}")

with Runtime(thread_pool_size=5) as runtime:
    # It has ended, so this is a new job: same parameters, its state as the old one left it.
    job_state2 = runtime.exec("resume_flow", job_state=saved_state)
    runtime.wait_until_all_jobs_finished(timeout=60.0)
    print(f"Resumed execution. Status: {job_state2.status}")
    print(f"A run of: {job_state2.metadata['rerun_of']}")
