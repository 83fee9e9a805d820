"""The process that owns a job writes about users' objects without opening them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime
from routilux_mp._serialization.batch import decode_batch, decode_value, encode_batch, encode_value, join_batches
from routilux_mp._serialization.json_values import from_json, to_json
from routilux_mp._serialization.sealed import Sealed
from routilux_mp._serialization.signing import Signer
from routilux_mp.cli import main

PLACE = b"here"


class Watched:
    """Writes down in which process it is unpickled."""

    def __init__(self, log: str, name: str = "") -> None:
        self.log, self.name = log, name

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with open(self.log, "a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Watched) and other.name == self.name

    __hash__ = None  # type: ignore[assignment]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def opened_in(log: Path) -> set[int]:
    return {int(line) for line in log.read_text("ascii").split()} if log.exists() else set()


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.start)
        self.add_event("output")

    def start(self, log: str, pause: bool = False) -> None:
        context = self.get_execution_context()
        assert context is not None
        for number in range(3):
            self.emit("output", thing=Watched(log, f"thing {number}"), number=number)
        context.job_state.update_shared_data("shared", {"it": Watched(log, "shared"), "plain": 1})
        context.job_state.append_to_shared_log({"entry": Watched(log, "entry")})
        context.job_state.update_routine_state("source", {"mine": [Watched(log, "mine"), 2]})
        context.job_state.update_shared_data("grows", [Watched(log, "first"), Watched(log, "second")])
        context.job_state.append("grows", Watched(log, "third"))
        self.send_output("kind", thing=Watched(log, "sent"))
        if pause:
            self.emit_deferred_event("output", thing=Watched(log, "deferred"), number=9)
            context.flow.pause(context.job_state, "wait", checkpoint=Watched(log, "checkpoint"))


class Sink(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input", handler=self.take)
        self.add_event("done")

    def take(self, thing: Watched, number: int) -> None:
        self.emit("done", thing=thing, again=thing)


def make_flow() -> Flow:
    flow = Flow(flow_id="watched")
    flow.add_routine(Source(), "source")
    flow.add_routine(Sink(), "sink")
    flow.connect("source", "output", "sink", "input")
    return flow


@pytest.mark.parametrize("pause", [False, True])
def test_job_state_json_is_written_without_opening_an_object(tmp_path: Path, pause: bool) -> None:
    log = tmp_path / "opened"
    with Runtime(2, checkpoint_dir=str(tmp_path / "root"), settle_s=0) as runtime:
        flow = make_flow()
        state = runtime.exec(flow, {"log": str(log), "pause": pause})
        until(lambda: state.status == ("paused" if pause else "completed"))
    path = tmp_path / "root" / state.job_id / "job_state.json"
    shown = json.loads(path.read_bytes())

    assert "incomplete" not in shown
    assert opened_in(log) or pause, "the worker of 'sink' opens them"
    assert os.getpid() not in opened_in(log)
    assert shown["shared_data"]["shared"]["plain"] == 1
    assert list(shown["shared_data"]["shared"]["it"]) == ["$encoded"]
    sent = [r for r in shown["execution_history"] if (r["routine_id"], r["event_name"]) == ("source", "output")]
    assert [record["data"]["number"] for record in sent][:3] == [0, 1, 2]

    loaded = JobState.load(str(path))  # whoever asks for the objects gets them
    things = [r.data["thing"] for r in loaded.execution_history if r.event_name == "output"]
    assert [thing.name for thing in things[:3]] == ["thing 0", "thing 1", "thing 2"]
    assert loaded.shared_data["shared"] == {"it": Watched("", "shared"), "plain": 1}
    assert loaded.shared_data["grows"] == [Watched("", name) for name in ("first", "second", "third")]
    assert [entry["entry"] for entry in loaded.shared_log] == [Watched("", "entry")]
    assert loaded.routine_states["source"]["mine"] == [Watched("", "mine"), 2]
    assert loaded.output_log[0]["data"]["thing"] == Watched("", "sent")
    if pause:
        assert loaded.checkpoint == Watched("", "checkpoint")
        assert os.getpid() in opened_in(log)


def test_a_job_that_began_elsewhere_is_shown_without_opening_its_past(tmp_path: Path) -> None:
    log = tmp_path / "opened"
    with Runtime(2, checkpoint_dir=str(tmp_path / "a"), settle_s=0) as runtime:
        state = runtime.exec(make_flow(), {"log": str(log), "pause": True})
        until(lambda: state.status == "paused")
        text = json.dumps(state.serialize())
    there = JobState.deserialize(json.loads(text))
    log.unlink()
    with Runtime(2, checkpoint_dir=str(tmp_path / "b"), settle_s=0) as runtime:
        after = runtime.resume(make_flow(), there)
        assert runtime.wait_until_all_jobs_finished(timeout=30)
        assert os.getpid() not in opened_in(log)
        assert after.status == "completed"
        # The caller's own reading does open them, those of before too.
        names = [r.data["thing"].name for r in after.execution_history if r.event_name == "output"]
    assert names == ["thing 0", "thing 1", "thing 2", "deferred"]


def test_the_command_that_prints_results_opens_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "opened"
    with Runtime(2, checkpoint_dir=str(tmp_path / "root"), settle_s=0) as runtime:
        state = runtime.exec(make_flow(), {"log": str(log)})
        assert runtime.wait_until_all_jobs_finished(timeout=60)
    assert main(["results", f"{tmp_path}/root/{state.job_id}", "sink", "done"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert os.getpid() not in opened_in(log)
    assert len(shown) == 3
    thing = from_json(shown[1])["thing"]
    assert thing == Watched("", "thing 1")


def closed(values: list[Any], signer: Signer) -> list[Any]:
    data = encode_batch(values, signer, PLACE).data
    return decode_batch(data, signer.that_opens_nothing(), PLACE)


def opened(shown: Any, monkeypatch: pytest.MonkeyPatch, signer: Signer, tmp_path: Path) -> Any:
    path = tmp_path / "key"
    path.write_text("".join(key.hex() + "\n" for key in signer.keys))
    path.chmod(0o600)
    monkeypatch.setenv("ROUTILUX_MP_KEY_FILE", str(path))
    return from_json(json.loads(json.dumps(to_json(shown))))


@pytest.mark.parametrize(
    "value",
    [
        {"plain": 1},
        Watched("/dev/null", "all"),
        {"a": {"b": [1, Watched("/dev/null", "deep")], "c": 2}},
        {"a": (1, (2, Watched("/dev/null", "in tuples")))},
        {"a": Watched("/dev/null", "one"), "b": Watched("/dev/null", "two"), "c": 3},
        {"big": [bytearray(100_000), Watched("/dev/null", "beside")], "n": None},
        [{1: Watched("/dev/null", "an odd key")}, {frozenset({2}): "x"}],
    ],
)
def test_what_stays_closed_comes_back_as_it_was(value: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    signer = Signer([bytes(32)])
    shown = closed(["before", value, value], signer)
    assert [opened(item, monkeypatch, signer, tmp_path) for item in shown] == ["before", value, value]


def test_as_little_as_possible_is_hidden() -> None:
    signer = Signer([bytes(32)])
    [shown] = closed([{"rows": [1, {"it": Watched("/dev/null"), "n": 1}], "n": 2, "t": (3, Watched)}], signer)
    assert type(shown) is Sealed, "objects in two places are kept together: they may share what they refer to"
    [shown] = closed([{"rows": [1, {"it": Watched("/dev/null"), "n": 1}], "n": 2}], signer)
    assert type(shown["rows"][1].pop("it")) is Sealed
    assert shown == {"rows": [1, {"n": 1}], "n": 2}


def test_many_objects_of_one_item_are_written_once() -> None:
    signer = Signer([bytes(32)])
    values = [{"rows": [Watched("/dev/null", f"{i:050}") for i in range(1000)], "n": 1}]
    [shown] = closed(values, signer)
    assert shown["n"] == 1
    assert len(shown["rows"].data) < 1.1 * len(encode_batch(values, signer, PLACE).data)


def test_joined_batches_stay_closed_too() -> None:
    signer = Signer([bytes(32)])
    pieces = [encode_value({"it": Watched("/dev/null", str(i))}, signer, PLACE) for i in range(2)]
    shown = decode_batch(join_batches([(1, piece) for piece in pieces]), signer.that_opens_nothing(), PLACE)
    assert [type(item["it"]) for item in shown] == [Sealed, Sealed]


def test_a_large_buffer_stays_beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    signer = Signer([bytes(32)])
    array = numpy.arange(100_000)
    objects = numpy.array([{"deep": array}], dtype=object)
    data = encode_value({"objects": objects, "array": array}, signer, PLACE)
    shown = decode_value(data, signer.that_opens_nothing(), PLACE)
    again = opened(shown, monkeypatch, signer, tmp_path)
    assert (again["objects"][0]["deep"] == array).all()
    assert (again["array"] == array).all()
