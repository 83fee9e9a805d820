"""Random flows in which every routine has the same slot and event names, and what each of them must come to.

A plan is plain data, so that it can be drawn, shrunk and printed. What a routine emits is a digest of where the
input arrived and of all that it held: a single wrong connection or a swapped parameter changes everything
behind it. The digests do not depend on the order of arrival, so that a plan has one outcome, and
:func:`expected` computes it without any engine.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from typing import Any, NamedTuple

from hypothesis import strategies as st

from routilux_mp import (
    Flow,
    JobState,
    Routine,
    all_slots_ready_policy,
    batch_size_policy,
    immediate_policy,
    upstream_done_policy,
)
from routilux_mp.connection import map_params

SLOTS = ("input", "extra")
EVENTS = ("output", "other")
#: Ids that would do harm if anything were found by splitting or by prefix.
IDS = ("a", "a.b", "a/b", "b", "input", "output", "trigger", "x y", "ä")
POLICIES = {"immediate": immediate_policy, "ready": all_slots_ready_policy, "done": upstream_done_policy}
#: Those that keep the set of keys, and those that do not.
MAPPINGS = (None, {"a": "b", "b": "a"}, {"a": "c"}, {"b": "a"}, {"c": "d"})


class Link(NamedTuple):
    source: int
    event: str
    target: int
    slot: str
    mapping: dict[str, str] | None


class Plan(NamedTuple):
    #: Per routine: "handlers", or the activation policy of its logic.
    kinds: tuple[str, ...]
    #: Per routine and slot: its merge strategy.
    merges: tuple[tuple[str, str], ...]
    links: tuple[Link, ...]
    #: Order in which the routines are added; the first of ``kinds`` is the entry wherever it comes.
    order: tuple[int, ...]
    count: int


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


def counted(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A merge strategy: how many there were."""
    return {"n": old.get("n", 0) + 1}


class Handlers(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.begin)
        self.add_slot("input", handler=self.on_input)
        self.add_slot("extra", handler=self.on_extra)
        self.add_event("output")
        self.add_event("other")

    def begin(self, count: int) -> None:
        for number in range(count):
            self.answer("trigger", {"n": number})

    def on_input(self, **data: Any) -> None:
        self.answer("input", data)

    def on_extra(self, **data: Any) -> None:
        self.answer("extra", data)

    def answer(self, slot: str, data: dict[str, Any]) -> None:
        time.sleep(self.get_config("nap_s", 0.0))
        if slot != "trigger" and self._slots[slot].merge_strategy == "append":
            data = {"n": len(data["a"])}
        for event in EVENTS:
            self.emit(event, **answer_of(self.get_config("tag"), slot, data, event))


class Logic(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input")
        self.add_slot("extra")
        self.add_event("output")
        self.add_event("other")
        self.set_logic(self.work)

    def work(self, slot_data: dict[str, list[Any]], policy_message: Any, job_state: Any) -> None:
        items = [(slot, data) for slot in SLOTS for data in slot_data[slot]]
        if policy_message["reason"] == "upstream_done":
            items = [("*", {"all": sorted(digest(*item) for item in items)})]
        for slot, data in items:
            time.sleep(self.get_config("nap_s", 0.0))
            for event in EVENTS:
                self.emit(event, **answer_of(self.get_config("tag"), slot, data, event))


def answer_of(tag: int, slot: str, data: dict[str, Any], event: str) -> dict[str, str]:
    return {"a": digest(tag, slot, data, event), "b": f"{tag}{event}"}


def make_flow(plan: Plan, nap_s: float = 0.0) -> Flow:
    flow = Flow("random")
    for number in plan.order:
        kind = plan.kinds[number]
        routine: Routine = Handlers() if kind == "handlers" else Logic()
        if kind != "handlers":
            routine.set_activation_policy(batch_size_policy(2) if kind == "batch" else POLICIES[kind]())
        for slot, merge in zip(SLOTS, plan.merges[number]):
            found = routine.get_slot(slot)
            assert found is not None
            found.merge_strategy = counted if merge == "counted" else merge
        routine.set_config(tag=number, nap_s=nap_s)
        flow.add_routine(routine, IDS[number])
    for link in plan.links:
        flow.connect(IDS[link.source], link.event, IDS[link.target], link.slot, link.mapping)
    return flow


class Outcome(NamedTuple):
    """What must not depend on how, where and with how many interruptions a plan was run."""

    results: Counter[str]
    emissions: int


def expected(plan: Plan) -> Outcome:
    """What a plan comes to: routine after routine, since links only lead upwards."""
    arrived: list[list[tuple[str, dict[str, Any]]]] = [[] for _ in plan.kinds]
    results: Counter[str] = Counter()
    emissions = 0
    for number, kind in enumerate(plan.kinds):
        inputs = arrived[number]
        if number == 0:
            inputs = [("trigger", {"n": n}) for n in range(plan.count)]
        elif kind == "handlers":
            merges = dict(zip(SLOTS, plan.merges[number]))
            order = Counter(slot for slot, _ in inputs)
            inputs = [(slot, data) for slot, data in inputs if merges[slot] not in ("append", "counted")]
            for slot in SLOTS:
                if merges[slot] in ("append", "counted"):
                    inputs += [(slot, {"n": n + 1}) for n in range(order[slot])]
        elif kind == "done":  # also when nothing arrived: that is what it wants to know
            inputs = [("*", {"all": sorted(digest(*item) for item in inputs)})]
        for event in EVENTS:
            links = [link for link in plan.links if (link.source, link.event) == (number, event)]
            for slot, data in inputs:
                answer = answer_of(number, slot, data, event)
                emissions += 1
                for link in links:
                    arrived[link.target].append((link.slot, map_params(answer, link.mapping)))
                if not links:
                    results[json.dumps([IDS[number], event, answer])] += 1
    return Outcome(results, emissions)


def outcome_of(plan: Plan, state: JobState) -> Outcome:
    """What a job came to, by its history: the emissions of events that lead nowhere are the results."""
    connected = {(IDS[link.source], link.event) for link in plan.links}
    records = [r for r in state.execution_history if r.event_name in EVENTS]
    results = Counter(
        json.dumps([r.routine_id, r.event_name, r.data])
        for r in records
        if (r.routine_id, r.event_name) not in connected
    )
    return Outcome(results, len(records))


@st.composite
def plans(draw: st.DrawFn, emissions_max: int = 250) -> Plan:
    """Up to six routines: chains, diamonds, many to many, doubled connections, mapped parameters, merges."""
    size = draw(st.integers(2, 6))
    kind = st.sampled_from(("handlers", "handlers", "immediate", "batch", "done"))
    kinds = ("handlers", *(draw(kind) for _ in range(size - 1)))
    merge = st.sampled_from(("override", "override", "append", "counted", "no such strategy"))
    merges = tuple((draw(merge), draw(merge)) if kind == "handlers" else ("override", "override") for kind in kinds)
    links = []
    for target in range(1, size):
        for _ in range(draw(st.integers(1, 3))):
            slot = draw(st.sampled_from(SLOTS))
            # Merges that count need the same keys from everywhere.
            keeps_keys = merges[target][SLOTS.index(slot)] in ("append", "counted")
            mapping = draw(st.sampled_from(MAPPINGS[:2] if keeps_keys else MAPPINGS))
            links.append(Link(draw(st.integers(0, target - 1)), draw(st.sampled_from(EVENTS)), target, slot, mapping))
    order = tuple(draw(st.permutations(range(size))))
    plan = Plan(kinds, merges, tuple(draw(st.permutations(links))), order, draw(st.integers(0, 4)))
    while plan.count > 1 and expected(plan).emissions > emissions_max:
        plan = plan._replace(count=plan.count // 2)
    return plan
