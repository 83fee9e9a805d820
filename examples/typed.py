"""Both styles with full type annotations: `mypy --strict` and `pyright` have nothing to say about this file.

python examples/typed.py
"""

from __future__ import annotations

from typing import Any

from routilux_mp import (
    Connection,
    ErrorHandler,
    ErrorStrategy,
    Event,
    ExecutionRecord,
    Flow,
    FlowRegistry,
    JobState,
    Routine,
    Runtime,
    Slot,
    batch_size_policy,
    upstream_done_policy,
)


class Source(Routine):
    """Handler style: a slot's handler is called once per emission."""

    trigger: Slot
    output: Event

    def __init__(self) -> None:
        super().__init__()
        self.trigger = self.add_slot("trigger", handler=self.send)
        self.output = self.add_event("output", ["number"])

    def send(self, count: int = 0) -> None:
        for number in range(count):
            self.emit("output", number=number)


class Pairs(Routine):
    """Runtime style: the logic is called when the activation policy says so."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input")
        self.add_event("output")
        self.set_logic(self.add_up).set_activation_policy(batch_size_policy(2))

    def add_up(self, slot_data: dict[str, list[dict[str, int]]], policy_message: Any, job_state: JobState) -> None:
        state: dict[str, Any] | None = job_state.get_routine_state("pairs", {"seen": 0})
        assert state is not None
        job_state.update_routine_state("pairs", {"seen": state["seen"] + len(slot_data["input"])})
        self.emit("output", total=sum(item["number"] for item in slot_data["input"]))


class Total(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("total")
        self.add_event("done", ["total", "pairs"])
        self.set_logic(self.add_up).set_activation_policy(upstream_done_policy())

    def add_up(self, totals: list[dict[str, int]]) -> None:
        self.emit("done", total=sum(item["total"] for item in totals), pairs=len(totals))


def make_flow() -> Flow:
    flow = Flow(flow_id="typed")
    source_id: str = flow.add_routine(Source(), "source")
    flow.add_routine(Pairs(), "pairs")
    flow.add_routine(Total(), "total", workers=1)
    connection: Connection = flow.connect(source_id, "output", "pairs", "input")
    assert connection.param_mapping == {}
    flow.connect("pairs", "output", "total", "total")
    flow.set_error_handler(ErrorHandler(ErrorStrategy.RETRY, max_retries=2, retryable_exceptions=(OSError,)))
    return flow


def first_records(job_state: JobState) -> list[ExecutionRecord]:
    return job_state.execution_history[:3]


def main() -> None:
    FlowRegistry.get_instance().register_by_name("typed", make_flow())
    with Runtime(thread_pool_size=3) as runtime:
        job_state: JobState = runtime.exec("typed", entry_params={"count": 5})
        is_done: bool = runtime.wait_until_all_jobs_finished(timeout=60.0)
    print(is_done, job_state.status)
    print([record.event_name for record in first_records(job_state)])
    for result in job_state.results("total", "done"):
        print(result["total"], result["pairs"])


main()
