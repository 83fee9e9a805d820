"""Routines, slots, events, connections: definition, configuration, and emitting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Connection, ErrorHandler, ErrorStrategy, Event, Routine, Slot, context, immediate_policy
from routilux_mp.connection import map_params
from routilux_mp.errors import UsageError


class Worker(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.inp = self.add_slot("input", handler=self.process)
        self.out = self.add_event("output", ["x"])

    def process(self, data: Any) -> None:
        self.emit("output", x=data)


class Forgetful(Routine):
    """As 003 prints it: no super().__init__()."""

    def __init__(self, delay: float = 0.5) -> None:
        self.delay = delay


class FakeActivation:
    """Stands for the worker's side."""

    resume_cursor = {"row": 3}
    attempt = 2
    job_state = object()
    flow = context.FlowReference("f", {})
    routine_id = "w"
    idempotency_key = "job/w/1"

    def __init__(self) -> None:
        self.emitted: list[tuple[str, dict[str, Any]]] = []
        self.cursors: list[Any] = []
        self.outputs: list[tuple[str, str]] = []

    def emit(self, routine: Any, event_name: str, kwargs: dict[str, Any]) -> None:
        self.emitted.append((event_name, kwargs))

    def commit(self, cursor: Any) -> None:
        self.cursors.append(cursor)

    def add_output(self, temporary: str, final: str) -> None:
        self.outputs.append((temporary, final))


@pytest.fixture
def activation() -> Any:
    activation = FakeActivation()
    token = context.enter(activation)
    yield activation
    context.leave(token)


def test_slots_and_events_keep_their_order_and_their_owner() -> None:
    routine = Worker()
    assert isinstance(routine.inp, Slot)
    assert isinstance(routine.out, Event)
    assert list(routine._slots) == ["input"]
    assert routine.get_slot("input") is routine.inp
    assert routine.get_event("output") is routine.out
    assert routine.inp.routine is routine
    assert routine.get_slot("nope") is None
    assert routine.get_event("nope") is None
    assert routine.out.output_params == ["x"]


def test_both_names_are_the_same_function() -> None:
    assert Routine.define_slot is Routine.add_slot
    assert Routine.define_event is Routine.add_event


@pytest.mark.parametrize("kind", ["slot", "event"])
def test_a_name_is_given_once(kind: str) -> None:
    routine = Routine()
    add = routine.add_slot if kind == "slot" else routine.add_event
    add("a")
    with pytest.raises(ValueError, match="'a' already exists"):
        add("a")
    with pytest.raises(ValueError, match="non-empty"):
        add("")


def test_impossible_slots_are_refused() -> None:
    routine = Routine()
    with pytest.raises(ValueError, match="must be callable"):
        routine.add_slot("a", handler=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_queue_length"):
        routine.add_slot("b", max_queue_length=0)


def test_a_constructor_without_super_still_has_its_slots() -> None:
    routine = Forgetful()
    routine.add_slot("a")
    routine.set_config(b=1)
    assert routine.config() == {"b": 1}
    assert routine.delay == 0.5


def test_config_is_copied_out() -> None:
    routine = Routine()
    routine.set_config(a=1)
    routine.set_config(b=2)
    copy = routine.config()
    copy["a"] = 9
    assert routine.get_config("a") == 1
    assert routine.get_config("c", "default") == "default"


def test_logic_and_policy_return_the_routine() -> None:
    routine = Routine()
    assert routine.set_logic(print) is routine
    assert routine.set_activation_policy(immediate_policy()) is routine
    with pytest.raises(ValueError, match="logic must be callable"):
        routine.set_logic(None)  # type: ignore[arg-type]


def test_shorthands_for_error_handlers() -> None:
    routine = Routine()
    routine.set_as_optional()
    assert routine.get_error_handler().strategy is ErrorStrategy.CONTINUE  # type: ignore[union-attr]
    routine.set_as_critical(max_retries=5, retry_delay=0.1)
    handler = routine.get_error_handler()
    assert handler is not None
    assert (handler.strategy, handler.max_retries, handler.is_critical) == (ErrorStrategy.RETRY, 5, True)
    with pytest.raises(ValueError, match="not an ErrorHandler"):
        routine.set_error_handler("stop")  # type: ignore[arg-type]


def test_emit_needs_nothing_but_the_activation(activation: FakeActivation) -> None:
    routine = Worker()
    routine.emit("output", flow=1, runtime=2, job_state=3, worker_state=4, x=5)
    routine.out.emit(x=6)
    assert activation.emitted == [("output", {"x": 5}), ("output", {"x": 6})]


def test_emit_names_the_events_there_are(activation: FakeActivation) -> None:
    with pytest.raises(ValueError, match=r"Event 'nope' not found in routine .*; its events: 'output'"):
        Worker().emit("nope")
    assert activation.emitted == []


def test_outside_of_a_handler() -> None:
    routine = Worker()
    for call in (lambda: routine.emit("output", x=1), lambda: routine.commit(1), lambda: routine.idempotency_key):
        with pytest.raises(UsageError, match="no handler is running"):
            call()
    assert routine.resume_cursor is None
    assert routine.attempt == 1
    assert routine.get_execution_context() is None
    with pytest.raises(UsageError, match="belongs to no routine"):
        Event("alone").emit()


def test_inside_of_a_handler(activation: FakeActivation) -> None:
    routine = Worker()
    routine.commit(7)
    assert activation.cursors == [7]
    assert routine.resume_cursor == {"row": 3}
    assert routine.attempt == 2
    assert routine.idempotency_key == "job/w/1"
    found = routine.get_execution_context()
    assert found is not None
    assert (found.flow.flow_id, found.routine_id, found.job_state) == ("f", "w", activation.job_state)


def test_output_file_is_announced_when_it_is_whole(activation: FakeActivation, tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    with Worker().output_file(target) as file:
        file.write("whole")
        assert not target.exists()
    [(private, final)] = activation.outputs
    assert (Path(private).read_text(), final) == ("whole", str(target))
    assert Path(private).parent == tmp_path


def test_output_file_leaves_nothing_after_an_error(activation: FakeActivation, tmp_path: Path) -> None:

    def half() -> None:
        with Worker().output_file(tmp_path / "out.bin", "wb") as file:
            file.write(b"1")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half"):
        half()
    assert activation.outputs == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="not 'a'"), Worker().output_file(tmp_path / "x", "a"):
        pass


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((), {"data": 1}, 1),
        (({"a": 1},), {}, {"a": 1}),
        ((), {"only": [1]}, [1]),
        ((), {"a": 1, "b": 2}, {"a": 1, "b": 2}),
        ((), {}, {}),
    ],
)
def test_extract_input_data(args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any) -> None:
    assert Routine()._extract_input_data(*args, **kwargs) == expected


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (None, {"a": 1, "b": 2}),
        ({"a": "x"}, {"x": 1, "b": 2}),
        ({"a": "b"}, {"b": 1}),  # the mapped one wins the name
        ({"a": "b", "b": "a"}, {"b": 1, "a": 2}),
        ({"missing": "x"}, {"a": 1, "b": 2}),
    ],
)
def test_param_mapping(mapping: dict[str, str] | None, expected: dict[str, int]) -> None:
    assert map_params({"a": 1, "b": 2}, mapping) == expected


def test_impossible_mappings_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        Connection(param_mapping={"a": "x", "b": "x"})
    with pytest.raises(ValueError, match="names to names"):
        Connection(param_mapping={"a": 1})  # type: ignore[dict-item]


def test_set_error_handler_is_kept() -> None:
    routine, handler = Routine(), ErrorHandler("skip")
    routine.set_error_handler(handler)
    assert routine.get_error_handler() is handler
    routine.set_error_handler(None)
    assert routine.get_error_handler() is None
