"""A program that is killed while a policy holds back data, and the flow that it shares with the test.

``python -m tests.recovery.half_filled <policy> <checkpoint dir> <gate> <job id>`` starts the job and says
``ready`` when everything that can be activated before the gate opens has been.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from routilux_mp import (
    Flow,
    JobState,
    Routine,
    Runtime,
    all_slots_ready_policy,
    batch_size_policy,
    custom_policy,
    immediate_policy,
    time_interval_policy,
    upstream_done_policy,
)

DEADLINE_S = 10.0
#: Items that were sent to (left, right) before the gate, and in all.
BEFORE, ALL = (6, 3), (10, 10)


class Case(NamedTuple):
    policy: Any
    #: Items of both slots that have been consumed when the program is killed; None: some.
    consumed: int | None
    slots: tuple[str, ...] = ("left", "right")


def enough(slots: Any, job_state: Any) -> bool:
    """A user's own: when all have come."""
    return all(slots[name].get_unconsumed_count() == count for name, count in zip(("left", "right"), ALL))


def twos(slots: Any, job_state: Any, final: bool = False) -> tuple[bool, dict[str, list[Any]], str]:
    """A user's own that takes a part only: two of each, and in the end what is left."""
    counts = [slots[name].get_unconsumed_count() for name in ("left", "right")]
    if min(counts) < 2 and not (final and any(counts)):
        return False, {}, ""
    taken = {name: [slots[name].consume_one_new() for _ in range(min(2, n))] for name, n in zip(slots, counts)}
    return True, taken, "the rest" if final else "two of each"


CASES = {
    "immediate": Case(immediate_policy(), 9),
    "batch": Case(batch_size_policy(4), 4, ("left",)),
    "ready": Case(all_slots_ready_policy(), 6),
    "done": Case(upstream_done_policy(), 0),
    "once an hour": Case(time_interval_policy(3600), None),
    "custom check": Case(custom_policy(enough), 0),
    "custom slice": Case(twos, 4),
}


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("left")
        self.add_event("right")

    def send(self, gate: str) -> Iterator[str]:
        if self.resume_cursor is None:
            self.part((0, 0), BEFORE)
            yield "before the gate"
        deadline = time.monotonic() + DEADLINE_S
        while not Path(gate).exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.part(BEFORE, ALL)

    def part(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        for event, first, last in zip(("left", "right"), start, end):
            for number in range(first, last):
                self.emit(event, number=number)


class Collect(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_event("slice")
        self.set_logic(self.collect)

    def collect(self, slot_data: dict[str, list[Any]], policy_message: Any, job_state: Any) -> None:
        numbers = {name: [item["number"] for item in items] for name, items in slot_data.items()}
        self.emit("slice", message=policy_message, **numbers)


def make_flow(case: str) -> Flow:
    flow = Flow("half_filled")
    flow.add_routine(Source(), "source")
    collect = Collect()
    collect.set_activation_policy(CASES[case].policy)
    flow.add_routine(collect, "collect")
    for name in CASES[case].slots:
        collect.add_slot(name)
        flow.connect("source", name, "collect", name)
    return flow


def slices(state: JobState) -> list[dict[str, Any]]:
    return list(state.results("collect", "slice"))


def consumed(state: JobState) -> int:
    return sum(len(one.get(name, ())) for one in slices(state) for name in ("left", "right"))


def main(case: str, root: str, gate: str, job_id: str) -> None:
    flow = make_flow(case)
    with Runtime(2, checkpoint_dir=root) as runtime:
        state = JobState(flow.flow_id)
        state.job_id = job_id
        runtime.exec(flow, {"gate": gate}, state, settle_s=0)
        wanted = CASES[case].consumed

        def is_ready(_: Any, seen: JobState) -> bool:
            sent = [r for r in seen.execution_history if r.routine_id == "source" and r.event_name != "start"]
            return len(sent) == sum(BEFORE) and (consumed(seen) == wanted if wanted is not None else consumed(seen) > 0)

        is_there = JobState.wait_until_condition(flow, state, is_ready, DEADLINE_S, 0.01)
        print("ready" if is_there else f"not ready: {slices(state)}", flush=True)
        sys.stdin.read()  # to be killed


if __name__ == "__main__":
    main(*sys.argv[1:])
