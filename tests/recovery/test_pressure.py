"""Backpressure: the supervisor's memory is bounded by what is in flight, and no flow stands still for it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routilux_mp import Flow, JobState, Routine, Runtime, all_slots_ready_policy, batch_size_policy
from tests.recovery.torture import ROOT

DEADLINE_S = 60.0
#: Emissions that may wait in the slot by default, and what the source may add before it notices.
QUEUE_MAX = 10_000
OVERSHOOT = 10_000
#: What the supervisor's memory may grow by between the second quarter of the work and the last one, in the middle.
GROWTH_BYTES = 32 << 20
#: What it may reach for moments, as while the views are written.
MOST_BYTES = 384 << 20


@pytest.mark.parametrize(
    "emissions", [pytest.param(100_000, id="100k"), pytest.param(1_000_000, id="1M", marks=pytest.mark.slow)]
)
@pytest.mark.timeout(600)
def test_a_source_ten_times_faster_than_its_consumer(emissions: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.recovery.pressure", str(tmp_path), str(emissions)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=580,
        check=True,
    )
    told = json.loads(ended.stdout)
    assert told["status"] == "completed"
    assert told["sum"] == emissions * (emissions - 1) // 2
    samples = [tuple(sample) for sample in told["samples"]]
    quarters = [[memory for done, _, memory in samples if done * 4 // (emissions + 1) == q] for q in range(4)]
    _, early, _, late = (statistics.median(quarter) for quarter in quarters)
    most, waiting = max(memory for _, _, memory in samples), max(left for _, left, _ in samples)
    print(
        f"\n{emissions} emissions in {told['seconds']:.1f} s; most that waited: {waiting}; supervisor's memory: "
        f"{early / 2**20:.1f} MiB in the second quarter, {late / 2**20:.1f} MiB in the last, "
        f"{most / 2**20:.1f} MiB at most"
    )
    assert waiting <= QUEUE_MAX + OVERSHOOT
    assert late - early < GROWTH_BYTES
    assert most < MOST_BYTES


# -- no deadlock --------------------------------------------------------------------------------


class Origin(Routine):
    """A handler, or a generator with a cursor, that emits on two events."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("a")
        self.define_event("b")

    def go(self, n: int, step: int) -> Iterator[int]:
        for i in range(self.resume_cursor or 0, n):
            self.emit("a", tokens=[i], life=3)
            self.emit("b", tokens=[i], life=3)
            if i % step == step - 1:
                yield i + 1


class Relay(Routine):
    """Passes everything on; back through its loop as long as the tokens live."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in", handler=self.go)
        self.define_event("out")
        self.define_event("back")

    def go(self, tokens: list[int], life: int) -> None:
        self.emit("out", tokens=tokens, life=life)
        if life > 0 and self.get_config("loops", False):
            self.emit("back", tokens=[], life=life - 1)


class Join(Routine):
    """Takes one of each side, or a few together."""

    def __init__(self) -> None:
        super().__init__()
        self.define_slot("left")
        self.define_slot("right")
        self.define_event("out")
        self.set_logic(self.decide)

    def decide(self, slot_data: dict[str, list[Any]]) -> None:
        tokens = [token for items in slot_data.values() for item in items for token in item["tokens"]]
        self.emit("out", tokens=tokens, life=0)


class Network:
    """A random flow of relays and joins behind one origin; some relays loop."""

    def __init__(self, shape: list[tuple[str, int, int]], step: int) -> None:
        self.shape = shape
        self.step = step

    @property
    def is_determined(self) -> bool:
        """Whether the same tokens come out however the activations interleave: what a join leaves over may differ."""
        kinds = {kind for kind, _, _ in self.shape}
        return "join" not in kinds or not kinds & {"loop", "batch"}

    def __repr__(self) -> str:
        return f"Network({self.shape}, {self.step})"

    def flow(self) -> Flow:
        flow = Flow(flow_id="network")
        flow.add_routine(Origin(), "origin")
        ends: list[tuple[str, str]] = [("origin", "a"), ("origin", "b")]
        for number, (kind, first, second) in enumerate(self.shape):
            rid = f"{kind}{number}"
            one, other = ends[first % len(ends)], ends[second % len(ends)]
            if kind in ("relay", "loop"):
                relay = Relay()
                relay.set_config(loops=kind == "loop")
                flow.add_routine(relay, rid)
                flow.connect(*one, rid, "in")
                if kind == "loop":
                    flow.connect(rid, "back", rid, "in")
            else:
                join = Join()
                join.set_activation_policy(all_slots_ready_policy() if kind == "join" else batch_size_policy(2))
                flow.add_routine(join, rid)
                flow.connect(*one, rid, "left")
                flow.connect(*other, rid, "right")
            ends.append((rid, "out"))
        return flow


networks = st.builds(
    Network,
    st.lists(
        st.tuples(st.sampled_from(["relay", "loop", "join", "batch"]), st.integers(0, 6), st.integers(0, 6)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 4),
)


def outcome(network: Network, n: int, **options: Any) -> list[list[int]]:
    """Run it to its end: tokens of every result, sorted, of every event that nothing takes; [] if they may differ."""
    flow = network.flow()
    runtime = Runtime(options.pop("max_workers"), durability="none", verify=True, **options)
    try:
        state = runtime.exec(flow, {"n": n, "step": network.step}, settle_s=0)
        assert JobState.wait_for_completion(flow, state, timeout=DEADLINE_S), f"stands still: {state.progress}"
        assert state.status == "completed", state.error
        if not network.is_determined:
            return []
        taken = {(c.source_id, c.source_event.name) for c in flow.connections if c.source_event is not None}
        return [
            sorted(token for result in state.results(rid, event) for token in result["tokens"])
            for rid, routine in flow.routines.items()
            for event in routine._events
            if (rid, event) not in taken
        ]
    finally:
        runtime.shutdown(wait=False)


@given(networks, st.integers(1, 4), st.integers(0, 12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_stands_still_for_the_bound(network: Network, queue_max: int, n: int) -> None:
    tight = outcome(network, n, backend="inline", max_workers=1, slot_queue_max=queue_max)
    assert tight == outcome(network, n, backend="inline", max_workers=1, slot_queue_max=10_000)


@pytest.mark.slow
@given(networks, st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_stands_still_with_few_workers(network: Network, queue_max: int, workers: int) -> None:
    tight = outcome(network, 12, backend="local", max_workers=workers, slot_queue_max=queue_max)
    assert tight == outcome(network, 12, backend="inline", max_workers=1, slot_queue_max=10_000)
