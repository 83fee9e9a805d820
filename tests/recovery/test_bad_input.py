"""What a user may get wrong: each is an error that names the thing and the cure, before anything is changed."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import ErrorHandler, Flow, JobState, Routine, Runtime, batch_size_policy, upstream_done_policy
from routilux_mp.errors import (
    DefinitionError,
    FlowMismatch,
    NotShippable,
    RoutiluxError,
    SettingInvalid,
    UnknownName,
    UsageError,
)
from tests.recovery import processes

DEADLINE_S = 30.0


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, value: Any = 1) -> None:
        self.emit("out", value=value)


class Sink(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("in", handler=lambda value: None)
        self.define_event("out")


def flow_of(second: Routine | None = None) -> Flow:
    flow = Flow(flow_id="bad_input")
    flow.add_routine(Source(), "source")
    flow.add_routine(second or Sink(), "sink")
    return flow


def both_conventions() -> Routine:
    return Sink().set_logic(lambda slot_data: None)


def policy_without_logic() -> Routine:
    return Sink().set_activation_policy(batch_size_policy(2))


def on_a_cycle() -> Flow:
    flow = flow_of(Routine().set_logic(lambda slot_data: None).set_activation_policy(upstream_done_policy()))
    sink = flow.routines["sink"]
    sink.define_slot("in")
    sink.define_event("out")
    flow.connect("source", "out", "sink", "in")
    flow.connect("sink", "out", "sink", "in")
    return flow


# -- in the definition: found where it is written -----------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "error", "says"),
    [
        (lambda f: f.connect("sauce", "out", "sink", "in"), UnknownName, "Source routine 'sauce' not found in flow"),
        (lambda f: f.connect("source", "out", "sank", "in"), UnknownName, "Target routine 'sank' not found in flow"),
        (lambda f: f.connect("source", "oot", "sink", "in"), UnknownName, "Event 'oot' not found in routine 'source'"),
        (lambda f: f.connect("source", "out", "sink", "on"), UnknownName, "Slot 'on' not found in routine 'sink'"),
        (lambda f: f.add_routine(Sink(), "sink"), DefinitionError, "Routine ID 'sink' already exists in flow"),
        (
            lambda f: f.add_routine(f.routines["sink"], "again"),
            DefinitionError,
            "already in the flow as 'sink'; make another one for 'again'",
        ),
        (lambda f: f.add_routine(Sink, "class"), DefinitionError, "takes a Routine object"),
        (lambda f: f.add_routine(Sink(), ""), DefinitionError, "non-empty string"),
        (lambda f: f.add_routine(Sink(), "w", workers=0), DefinitionError, "Routine 'w': workers must be"),
        (lambda f: f.add_routine(Sink(), "w", timeout_s=0), DefinitionError, "Routine 'w': timeout_s must be above 0"),
        (lambda f: f.routines["sink"].define_slot("in"), DefinitionError, "Slot 'in' already exists in routine 'sink'"),
        (lambda f: f.routines["sink"].define_event("out"), DefinitionError, "Event 'out' already exists"),
        (lambda f: f.routines["sink"].define_slot("x", handler=3), DefinitionError, "'sink.x': the handler must be"),
        (lambda f: f.set_execution_strategy("fast"), DefinitionError, "'concurrent' or 'sequential', got 'fast'"),
        (lambda f: ErrorHandler("give up"), DefinitionError, "no error strategy 'give up'; there are: 'stop'"),
        (lambda f: batch_size_policy(0), DefinitionError, "batch_size_policy"),
        (lambda f: f.execute("nowhere"), UnknownName, "Entry routine 'nowhere' not found in flow"),
    ],
)
def test_a_definition_that_is_wrong(mistake: Callable[[Flow], Any], error: type[Exception], says: str) -> None:
    flow = flow_of()
    before = flow.serialize()["connections"], list(flow.routines)
    with pytest.raises(error, match=says) as caught:
        mistake(flow)
    assert isinstance(caught.value, ValueError)
    assert (flow.serialize()["connections"], list(flow.routines)) == before


# -- at submit: before a file is written or a job exists ----------------------------------------


class Unshippable(Routine):
    """Holds something that no other process can have."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = (line for line in ())
        self.define_slot("in", handler=lambda value: next(self.lines))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: flow_of(both_conventions()), DefinitionError, "'sink' .*logic and a handler on slot 'in'.*not both"),
        (
            lambda: flow_of(policy_without_logic()),
            DefinitionError,
            "'sink' .*activation policy but no logic.*set_logic",
        ),
        (on_a_cycle, DefinitionError, "'sink' uses upstream_done_policy but is on a cycle.*Take it off the cycle"),
        (lambda: Flow(flow_id="empty"), DefinitionError, "'empty' has no routines; add one with flow.add_routine"),
        (lambda: flow_of(Unshippable()), NotShippable, "Routine 'sink'.*lines"),
    ],
    ids=["both conventions", "policy without logic", "join on a cycle", "empty", "handler cannot be shipped"],
)
def test_a_flow_that_cannot_run(
    make: Callable[[], Flow], error: type[RoutiluxError], says: str, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    with Runtime(2, checkpoint_dir=str(root)) as runtime:
        with pytest.raises(error, match=says):
            runtime.exec(make(), {"value": 1})
        assert runtime.list_jobs() == []
        assert processes.family(os.getpid()).workers == ()
    assert jobs_in(root) == []


def jobs_in(root: Path) -> list[str]:
    """Job directories; what a runtime has of its own is not one."""
    return [path.name for path in root.glob("*") if path.name not in ("tmp", ".owners")] if root.exists() else []


def test_entry_parameters_that_cannot_be_serialised(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    with Runtime(2, checkpoint_dir=str(root)) as runtime:
        with pytest.raises(TypeError, match=r"value.*inner.*lock"):
            runtime.exec(flow_of(), {"value": {"inner": [threading.Lock()]}})
        with pytest.raises(DefinitionError, match="entry_params must be a dictionary, got list"):
            runtime.exec(flow_of(), [1])  # type: ignore[arg-type]
        assert runtime.list_jobs() == []
    assert jobs_in(root) == []


def test_names_that_do_not_exist(tmp_path: Path) -> None:
    flow = flow_of()
    with Runtime(2, checkpoint_dir=str(tmp_path)) as runtime:
        with pytest.raises(UnknownName, match="Flow 'nothing' not found in registry"):
            runtime.exec("nothing")
        state = runtime.exec(flow, {"value": 1})
        assert JobState.wait_for_completion(flow, state, timeout=DEADLINE_S)
        with pytest.raises(ValueError, match="Routine 'nobody' not found in flow"):
            list(state.results("nobody", "out"))
        with pytest.raises(ValueError, match="Event 'oot' not found in routine 'sink'"):
            list(state.results("sink", "oot"))
        with pytest.raises(UnknownName, match="has no job here that goes on; start one with exec"):
            runtime.post(flow, "sink", "in", {"value": 1})
        with pytest.raises(FlowMismatch, match="does not match Flow flow_id 'other'"):
            runtime.resume(Flow(flow_id="other"), state)


def test_posting_to_names_that_do_not_exist(tmp_path: Path) -> None:
    flow = Flow(flow_id="open")
    flow.add_routine(Sink(), "sink")
    with Runtime(2, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.exec(flow)  # no trigger: it stays open
        with pytest.raises(UnknownName, match="Routine 'sank' not found in flow"):
            runtime.post(flow, "sank", "in", {"value": 1})
        with pytest.raises(UnknownName, match="Slot 'on' not found in routine 'sink'"):
            runtime.post(flow, "sink", "on", {"value": 1})
        with pytest.raises(TypeError, match="lock"):
            runtime.post(flow, "sink", "in", {"value": threading.Lock()})
        assert state.progress["sink"] == (0, 0, 0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"no_such_setting": 1}, "no setting named 'no_such_setting'; there are: "),
        ({"durability": "maybe"}, "durability must be one of 'commit', 'none', got 'maybe'"),
        ({"backend": "cloud"}, "backend must be one of"),
        ({"slot_queue_max": 0}, "slot_queue_max must be at least 1"),
        ({"grace_s": -1}, "grace_s must not be negative"),
        ({"max_crashes": "many"}, "argument max_crashes: 'many' is not a int"),
    ],
)
def test_settings_that_are_impossible(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingInvalid, match=says):
        Runtime(2, **settings)


# -- in a handler: that activation fails, and nothing of it is kept -----------------------------


@pytest.mark.parametrize(
    ("emit", "says"),
    [
        (lambda r: r.emit("out", rows=[1, {"lock": threading.Lock()}]), r"Routine 'source', event 'out'.*rows.*lock"),
        (lambda r: r.emit("oot", value=1), "Event 'oot' not found in routine 'source'; its events: 'out'"),
    ],
    ids=["not serialisable", "no such event"],
)
def test_an_emission_that_is_wrong_fails_its_activation(
    emit: Callable[[Routine], None], says: str, tmp_path: Path
) -> None:
    flow = Flow(flow_id="emission")
    source = Routine()

    def go(n: int) -> None:
        source.emit("out", value="never seen")
        emit(source)

    source.define_slot("trigger", handler=go)
    source.define_event("out")
    flow.add_routine(source, "source")
    with Runtime(2, checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.exec(flow, {"n": 1})
        assert JobState.wait_for_completion(flow, state, timeout=DEADLINE_S)
        assert state.status == "failed"
        (record,) = [r for r in state.execution_history if r.event_name == "error"]
        assert re.search(says, record.data["error"]), record.data["error"]
        assert list(state.results("source", "out")) == []


def test_emitting_outside_of_a_handler() -> None:
    with pytest.raises(UsageError, match=r"(?is)cannot emit 'out' from routine .*no handler is running here"):
        Source().emit("out", value=1)
