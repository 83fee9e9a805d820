"""Flow: building, checking, compiling, and its document."""

from __future__ import annotations

import functools
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import (
    ErrorHandler,
    ErrorStrategy,
    Flow,
    JobState,
    Routine,
    batch_size_policy,
    custom_policy,
    immediate_policy,
    register_serializable,
    upstream_done_policy,
)
from routilux_mp._compile import compile_flow
from routilux_mp._core.topology import ConnectionSpec, ErrorSpec, PolicySpec
from routilux_mp.errors import CheckpointDamaged, NotSerializable, SignatureInvalid, UsageError
from routilux_mp.serilux import Serializable
from routilux_mp.settings import Settings

SETTINGS = Settings()


def module_function(data: Any) -> None: ...


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {**old, **new}


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("output", ["data"])

    def send(self, **kwargs: Any) -> None: ...


class Logic(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input")
        self.add_slot("other")
        self.add_event("output")

        def process(slot_data: Any, policy_message: Any, job_state: Any) -> str:
            return f"made for {self._id}"

        self.set_logic(process)
        self.set_activation_policy(batch_size_policy(3))


class Needy(Routine):
    def __init__(self, required: int, other: int, optional: int = 1) -> None:
        super().__init__()


@register_serializable
class Point(Serializable):
    def __init__(self) -> None:
        super().__init__()
        self.x = 0
        self.add_serializable_fields(["x"])


class Rich(Source):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.add_serializable_fields(["total", "missing", "point"])


def two() -> Flow:
    flow = Flow("two")
    flow.add_routine(Source(), "a")
    flow.add_routine(Logic(), "b")
    flow.connect("a", "output", "b", "input")
    return flow


# -- building -------------------------------------------------------------------------------------


def test_ids_are_unique_and_the_same_in_every_run() -> None:
    flow = Flow()
    assert [flow.add_routine(Source()), flow.add_routine(Source()), flow.add_routine(Logic())] == [
        "Source",
        "Source_2",
        "Logic",
    ]
    assert flow.add_routine(Source(), "x") == "x"
    with pytest.raises(ValueError, match="Routine ID 'x' already exists in flow"):
        flow.add_routine(Source(), "x")
    assert Flow().flow_id != Flow().flow_id


def test_one_object_has_one_place() -> None:
    flow, routine = Flow(), Source()
    flow.add_routine(routine, "a")
    with pytest.raises(ValueError, match="already in the flow as 'a'"):
        flow.add_routine(routine, "b")
    with pytest.raises(ValueError, match="Routine object"):
        flow.add_routine(Source, "c")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        (("x", "output", "b", "input"), "Source routine 'x' not found in flow"),
        (("a", "e", "b", "input"), "Event 'e' not found in routine 'a'"),
        (("a", "output", "x", "input"), "Target routine 'x' not found in flow"),
        (("a", "output", "b", "s"), "Slot 's' not found in routine 'b'"),
    ],
)
def test_connections_between_what_does_not_exist(ends: tuple[str, str, str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        two().connect(*ends)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"workers": 0}, "workers"), ({"workers": "many"}, "workers"), ({"timeout_s": 0}, "timeout_s")],
)
def test_impossible_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Flow().add_routine(Source(), "a", **options)


def test_impossible_strategies() -> None:
    with pytest.raises(ValueError, match="'concurrent' or 'sequential'"):
        Flow(execution_strategy="parallel")
    with pytest.raises(ValueError, match="max_workers"):
        Flow(max_workers=-1)


def test_there_is_no_execution_state_in_a_flow() -> None:
    flow = two()
    with pytest.raises(AttributeError):
        flow.job_state  # noqa: B018
    with pytest.raises(KeyError):
        flow.serialize()["job_state"]
    with pytest.raises(TypeError):
        flow.serialize(include_execution_state=True)  # type: ignore[call-arg]
    assert repr(flow) == "Flow[two]"


def test_pipe_and_find() -> None:
    flow = Flow("piped")
    source, logic = Source(), Logic()
    flow.pipe(source, logic)
    assert [(c.source_id, c.target_id) for c in flow.connections] == [("Source", "Logic")]
    assert flow.find_routines_by_type(Logic) == [("Logic", logic)]
    assert flow.find_routines_by_type(Routine) == [("Source", source), ("Logic", logic)]


def test_calls_on_another_flows_job() -> None:
    flow, state = two(), JobState("other")
    for call in (flow.pause, flow.resume, flow.cancel):
        with pytest.raises(ValueError, match="JobState flow_id 'other' does not match Flow flow_id 'two'"):
            call(state)
    with pytest.raises(ValueError, match="does not match"):
        JobState.wait_for_completion(flow, state)


def test_unknown_entry() -> None:
    with pytest.raises(ValueError, match="Entry routine 'x' not found in flow"):
        two().execute("x")


def test_a_state_that_runs_an_unknown_routine() -> None:
    flow, state = two(), JobState("two")
    state.status = "running"  # type: ignore[assignment]
    state.current_routine_id = "gone"
    with pytest.raises(ValueError, match="Current routine 'gone' not found in flow"):
        flow.resume(state)


# -- compiling ------------------------------------------------------------------------------------


def test_compiled_flow_is_plain_data() -> None:
    flow = Flow("c", "sequential", max_workers=3)
    flow.add_routine(Source(), "a", workers="auto", ordered=True, timeout_s=2.5)
    flow.add_routine(Logic(), "b")
    flow.connect("a", "output", "b", "other", {"data": "x"})
    flow.connect("a", "output", "b", "input")
    compiled = compile_flow(flow, SETTINGS)
    a, b = compiled.topology.routines
    assert (a.style, a.workers, a.is_ordered, a.timeout_s, a.policy) == ("handler", 0, True, 2.5, PolicySpec())
    assert (b.style, b.slots, b.policy) == ("logic", ("input", "other"), PolicySpec("batch_size", 3))
    assert compiled.topology.connections == (ConnectionSpec(0, 0, 1, 1), ConnectionSpec(0, 0, 1, 0))
    assert compiled.topology.strategy == "sequential"
    assert compile_flow(flow, SETTINGS, "concurrent").topology.strategy == "concurrent"
    assert compiled.max_workers == 3
    assert flow.routines["b"]._incoming == {0: {"data": "x"}, 1: None}
    assert json.loads(compiled.flow_doc)["flow_id"] == "c"


def test_the_routines_own_error_handler_goes_before_the_flows() -> None:
    flow = two()
    assert [r.error for r in compile_flow(flow, SETTINGS).topology.routines] == [None, None]
    flow.set_error_handler(ErrorHandler("skip"))
    flow.routines["a"].set_error_handler(ErrorHandler("retry", max_retries=7, retry_delay=0.1))
    a, b = compile_flow(flow, SETTINGS).topology.routines
    assert a.error == ErrorSpec("retry", 7, 0.1, 2.0, False)
    assert b.error == ErrorSpec("skip")
    assert flow.routines["b"]._effective_error_handler is flow.error_handler


def test_queue_limit_is_the_smallest_slots() -> None:
    flow = Flow()
    routine = Routine()
    routine.add_slot("a", handler=module_function, max_queue_length=50)
    routine.add_slot("b", handler=module_function)
    flow.add_routine(routine, "r")
    assert compile_flow(flow, SETTINGS).topology.routines[0].queue_max == 50
    assert compile_flow(two(), SETTINGS).topology.routines[0].queue_max == SETTINGS.slot_queue_max


def test_both_conventions_on_one_routine() -> None:
    flow = Flow()
    routine = Logic()
    routine.add_slot("extra", handler=module_function)
    flow.add_routine(routine, "both")
    with pytest.raises(ValueError, match=r"Routine 'both' \(Logic\) has a logic and a handler on slot 'extra'"):
        compile_flow(flow, SETTINGS)


@pytest.mark.parametrize("is_logic", [False, True])
def test_what_is_asynchronous(is_logic: bool) -> None:
    class Waits(Routine):
        async def go(self, *data: object) -> None: ...

    flow, routine = Flow(), Waits()
    if is_logic:
        routine.set_logic(routine.go)
    else:
        routine.add_slot("in", handler=routine.go)
    flow.add_routine(routine, "waits")
    with pytest.raises(ValueError, match=r"Routine 'waits' \(Waits\): a handler or logic must be an ordinary function"):
        compile_flow(flow, SETTINGS)


def test_policy_without_logic() -> None:
    flow = Flow()
    flow.add_routine(Source().set_activation_policy(immediate_policy()), "p")
    with pytest.raises(ValueError, match=r"'p'.*no logic"):
        compile_flow(flow, SETTINGS)


def test_upstream_done_on_a_cycle() -> None:
    flow = two()
    flow.add_routine(Logic().set_activation_policy(upstream_done_policy()), "loop")
    flow.connect("b", "output", "loop", "input")
    compile_flow(flow, SETTINGS)
    flow.connect("loop", "output", "b", "other")
    with pytest.raises(ValueError, match=r"'loop' uses upstream_done_policy but is on a cycle \(through 'b'\)"):
        compile_flow(flow, SETTINGS)


def test_empty_flow() -> None:
    with pytest.raises(ValueError, match="has no routines"):
        compile_flow(Flow("empty"), SETTINGS)


def test_validate_tells_everything() -> None:
    flow = Flow("v")
    assert flow.validate() == ["Flow 'v' has no routines; add one with flow.add_routine(routine, 'name')"]
    flow = two()
    silent = Routine()
    silent.add_slot("in")
    flow.add_routine(silent, "silent")
    found = flow.validate()
    assert any("Slot 'silent.in' has no handler" in text for text in found)
    assert any("Slot 'b.other' is not connected" in text for text in found)


def test_a_flow_that_cannot_travel_as_data_says_why() -> None:
    flow = Flow("closure")
    routine, running = Routine(), (number for number in ())
    routine.add_slot("trigger", handler=lambda: running)
    flow.add_routine(routine, "r")
    document = json.loads(compile_flow(flow, SETTINGS).flow_doc)
    assert document["portable"] is False
    assert "Slot 'r.trigger'" in document["why"]
    with pytest.raises(ValueError, match=r"Slot 'r\.trigger'"):
        flow.serialize()
    with pytest.raises(ValueError, match="cannot be rebuilt"):
        Flow.deserialize(document)


# -- document -------------------------------------------------------------------------------------


def full() -> Flow:
    flow = Flow("full", "sequential", max_workers=2, execution_timeout=60.0)
    flow.add_routine(Rich(), "rich", workers=3, ordered=True, timeout_s=1.5)
    flow.add_routine(Logic(), "logic")
    outside = Routine()
    outside.add_slot("input", handler=module_function, merge_strategy=merge)
    flow.add_routine(outside, "outside")
    flow.connect("rich", "output", "logic", "other", {"data": "x"})
    flow.connect("rich", "output", "outside", "input")
    flow.set_error_handler(ErrorHandler("continue"))
    rich: Any = flow.routines["rich"]
    rich.set_config(threshold=10, sizes=(1, 2), names={"a", "b"}, raw=b"\x00", nested={"f": module_function, 3: None})
    rich.set_error_handler(ErrorHandler(ErrorStrategy.RETRY, 4))
    rich.total = 12
    rich.point = Point()
    rich.point.x = 5
    return flow


@pytest.mark.parametrize("restore", [Flow.deserialize, lambda d: Flow().deserialize(d)], ids=["class", "object"])
def test_a_flow_comes_back_as_it_was(restore: Any) -> None:
    flow = full()
    data = json.loads(json.dumps(flow.serialize()))
    again = restore(data)
    assert type(again) is Flow
    assert (again.flow_id, again.execution_strategy, again.max_workers, again.execution_timeout) == (
        "full",
        "sequential",
        2,
        60.0,
    )
    assert list(again.routines) == ["rich", "logic", "outside"]
    assert [type(r) for r in again.routines.values()] == [Rich, Logic, Routine]
    ends = [(c.source_id, c.source_event.name, c.target_id, c.target_slot.name) for c in again.connections]
    assert ends == [("rich", "output", "logic", "other"), ("rich", "output", "outside", "input")]
    assert [c.param_mapping for c in again.connections] == [{"data": "x"}, {}]
    rich = again.routines["rich"]
    assert rich.config() == flow.routines["rich"].config()
    assert (rich.total, rich.point.x, rich.missing) == (12, 5, None)
    assert rich.get_slot("trigger").handler == rich.send
    assert rich.get_error_handler().max_retries == 4
    assert again.error_handler.strategy is ErrorStrategy.CONTINUE
    logic = again.routines["logic"]
    assert logic._logic({}, None, None) == "made for logic"
    assert logic._logic is not flow.routines["logic"]._logic
    assert logic._activation_policy == batch_size_policy(3)
    outside = again.routines["outside"].get_slot("input")
    assert (outside.handler, outside.merge_strategy) == (module_function, merge)
    assert compile_flow(again, SETTINGS).topology == compile_flow(flow, SETTINGS).topology
    assert again.serialize() == flow.serialize()


def test_document_keys() -> None:
    data = two().serialize()
    assert {"_type", "flow_id", "_paused", "execution_strategy", "max_workers", "error_handler"} <= data.keys()
    assert (data["_type"], data["_paused"], list(data["routines"])) == ("Flow", False, ["a", "b"])
    assert isinstance(data["connections"], list)


def test_restoring_in_place_returns_the_same_object() -> None:
    target = two()
    target.add_routine(Source(), "third")
    assert target.deserialize(full().serialize()) is target
    assert list(target.routines) == ["rich", "logic", "outside"]


def test_custom_policies_are_found_by_name() -> None:
    flow = Flow("p")
    flow.add_routine(Logic().set_activation_policy(custom_policy(is_ready)), "r")
    again = Flow.deserialize(flow.serialize())
    policy: Any = again.routines["r"]._activation_policy
    assert (policy.function, policy.is_check) == (is_ready, True)


def is_ready(slots: Any, job_state: Any) -> bool:
    return True


# -- what cannot be serialised ----------------------------------------------------------------------


def text_of(error: BaseException) -> str:
    return " ".join(str(error).split())


def test_required_constructor_parameters() -> None:
    flow = Flow()
    flow.add_routine(Needy(1, 2), "needy")
    with pytest.raises(TypeError) as caught:
        flow.serialize()
    assert text_of(caught.value) == (
        "Routine 'needy' (Needy) cannot be serialized: Needy cannot be deserialized because its __init__ method "
        "requires parameters: required, other Serializable classes must support initialization with no arguments. "
        "For Routine subclasses, use _config dictionary instead of constructor parameters."
    )


def test_nested_objects_are_named() -> None:
    class Nested(Serializable):
        def __init__(self, needed: int) -> None:
            super().__init__()

    flow = Flow()
    routine: Any = Rich()
    flow.add_routine(routine, "rich")
    routine.point = Nested(1)
    with pytest.raises(
        TypeError, match=r"Field 'rich.point' \(Nested\) cannot be serialized: .*requires parameters: needed"
    ):
        flow.serialize()


@pytest.mark.parametrize("place", ["handler", "merge", "config", "logic", "field"])
def test_methods_of_other_objects_are_refused_everywhere(place: str) -> None:
    flow, other = Flow(), Source()
    routine: Any = Rich() if place == "field" else Routine()
    if place == "handler":
        routine.add_slot("s", handler=other.send)
    elif place == "merge":
        routine.add_slot("s", merge_strategy=other.send)
    elif place == "config":
        routine.set_config(routes=[{"condition": other.send}])
    elif place == "logic":
        routine.set_logic(other.send)
    else:
        routine.total = {"deep": (other.send,)}
    flow.add_routine(routine, "my_id")
    flow.add_routine(other, "other_id")
    with pytest.raises(ValueError, match="Cannot serialize method 'send'") as caught:
        flow.serialize()
    assert text_of(caught.value) == (
        f"Cannot serialize method 'send' from Source[other_id]. Only methods of the serialized object itself "
        f"({type(routine).__name__}[my_id]) can be serialized for cross-process execution."
    )


@pytest.mark.parametrize("function", [lambda: 7, functools.partial(int, "7")], ids=["lambda", "partial"])
def test_callables_without_a_name_travel_as_signed_code(function: Any) -> None:
    routine = Routine()
    routine.add_slot("s", handler=function)
    document = json.loads(json.dumps(routine.serialize()))
    assert document["_slots"]["s"]["handler"]["kind"] == "code"
    restored = Routine.deserialize(document).get_slot("s")
    assert restored is not None
    assert restored.handler is not None
    assert restored.handler() == 7
    text = document["_slots"]["s"]["handler"]["code"]
    document["_slots"]["s"]["handler"]["code"] = text[:-8] + ("AAAAAAAA" if text[-8:] != "AAAAAAAA" else "BBBBBBBB")
    with pytest.raises(SignatureInvalid):
        Routine.deserialize(document)
    document["_slots"]["s"]["handler"]["code"] = "not base 64"
    with pytest.raises(CheckpointDamaged, match=r"Slot '.*\.s'"):
        Routine.deserialize(document)


def test_callables_that_cannot_be_sent_either() -> None:
    routine, running = Routine(), (number for number in ())
    routine.add_slot("s", handler=lambda: running)
    with pytest.raises(NotSerializable, match=r"Slot '.*\.s' cannot be serialized: .*by name.*generator"):
        routine.serialize()


@pytest.mark.parametrize(
    "function", [len, module_function, "".join, [].append], ids=["builtin", "function", "str", "list"]
)
def test_functions_and_builtins_are_fine_but_not_bound_ones(function: Any) -> None:
    routine = Routine()
    routine.add_slot("s", handler=function)
    if function in (len, module_function):
        restored = Routine.deserialize(routine.serialize())
        assert restored.get_slot("s").handler is function
    else:
        with pytest.raises(ValueError, match="Cannot serialize method"):
            routine.serialize()


def test_cycles_in_config_are_refused() -> None:
    routine = Routine()
    loop: list[Any] = []
    loop.append(loop)
    routine.set_config(loop=loop)
    with pytest.raises(NotSerializable, match="in a cycle"):
        routine.serialize()


# -- what comes from outside ------------------------------------------------------------------------


def test_unknown_class() -> None:
    data = two().serialize()
    data["routines"]["a"] |= {"_type": "Gone", "_module": "never_loaded", "_qualname": "Gone"}
    with pytest.raises(ValueError, match="Class 'Gone' is not known here: import module 'never_loaded' first"):
        Flow.deserialize(data)


@pytest.mark.parametrize("name", ["antigravity", "this"])
def test_reading_a_document_imports_nothing(name: str) -> None:
    import sys

    sys.modules.pop(name, None)
    data = two().serialize()
    data["routines"]["a"]["_slots"]["trigger"]["handler"] = {"kind": "function", "module": name, "name": "x"}
    with pytest.raises(ValueError, match=f"function '{name}:x' not found"):
        Flow.deserialize(data)
    data = two().serialize()
    data["routines"]["a"] |= {"_type": "X", "_module": name, "_qualname": "X"}
    with pytest.raises(ValueError, match="not known here"):
        Flow.deserialize(data)
    assert name not in sys.modules


def test_a_class_that_is_no_routine() -> None:
    data = two().serialize()
    data["routines"]["a"] |= {"_type": "Popen", "_module": "subprocess", "_qualname": "Popen"}
    with pytest.raises(ValueError, match="Popen"):
        Flow.deserialize(data)


@pytest.mark.parametrize("data", [None, [], {}, {"_type": 3}], ids=repr)
def test_not_even_data(data: Any) -> None:
    with pytest.raises(ValueError, match="Flow"):
        Flow.deserialize(data)


def test_another_type() -> None:
    state = JobState("f").serialize()
    for call in (Flow.deserialize, Flow().deserialize, Routine().deserialize):
        with pytest.raises(ValueError, match=r"'JobState'.*(Flow|Routine)"):
            call(state)


def test_a_plain_routine_takes_any_subclass() -> None:
    flow = full()
    routine = Routine()
    assert routine.deserialize(flow.routines["rich"].serialize()) is routine
    assert routine.get_config("threshold") == 10
    assert list(routine._slots) == ["trigger"]
    with pytest.raises(ValueError, match=r"'Logic'.*Source"):
        Source().deserialize(flow.routines["logic"].serialize())


# -- from a description -----------------------------------------------------------------------------


def test_from_dict() -> None:
    flow = Flow.from_dict(
        {
            "flow_id": "spec",
            "execution": {"strategy": "sequential", "max_workers": 2, "timeout": 5.0},
            "error_handler": {"strategy": "skip"},
            "routines": {
                "a": f"{__name__}:Source",
                "b": {"class": "Logic", "config": {"k": 1}, "workers": 2, "error_handler": {"strategy": "retry"}},
            },
            "connections": [{"from": "a.output", "to": "b.input", "param_mapping": {"data": "x"}}],
        }
    )
    assert (flow.flow_id, flow.execution_strategy, flow.max_workers, flow.execution_timeout) == (
        "spec",
        "sequential",
        2,
        5.0,
    )
    assert isinstance(flow.routines["a"], Source)
    assert flow.routines["b"].get_config("k") == 1
    assert flow.options_of("b").workers == 2
    assert flow.connections[0].param_mapping == {"data": "x"}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"rutines": {}}, "unknown key 'rutines'"),
        ({"routines": {"a": {"config": {}}}}, "names no 'class'"),
        ({"routines": {"a": "NoSuchClass"}}, "Class 'NoSuchClass' is not known here"),
        ({"routines": {"a": 3}}, "routine 'a' must be a mapping"),
        ({"routines": {"a": "Source"}, "connections": [{"from": "a", "to": "a.trigger"}]}, "'routine.event'"),
    ],
)
def test_from_dict_names_what_is_wrong(spec: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Flow.from_dict(spec)


def test_a_flow_from_yaml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyYAML is optional and not installed for the tests: a reader of its shape stands in for it."""
    yaml = types.ModuleType("yaml")
    yaml.YAMLError = ValueError  # type: ignore[attr-defined]
    yaml.safe_load = json.loads  # type: ignore[attr-defined]  # JSON is YAML
    monkeypatch.setitem(sys.modules, "yaml", yaml)
    path = tmp_path / "flow.yaml"
    path.write_text('{"flow_id": "y", "execution": {"max_workers": 2}}')
    assert (Flow.from_yaml(path).flow_id, Flow.from_yaml(str(path)).max_workers) == ("y", 2)
    assert Flow.from_yaml('{\n"flow_id": "z"}').flow_id == "z"
    with pytest.raises(ValueError, match="the text is not YAML"):
        Flow.from_yaml("{\n")
    with pytest.raises(ValueError, match="must be a mapping, got list"):
        Flow.from_yaml("[\n]")
    with pytest.raises(ValueError, match="unknown key 'x'"):
        Flow.from_yaml('{\n"x": 1}')
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UsageError, match="pip install"):
        Flow.from_yaml(path)
