"""JobState by itself: what it holds, its document, files, and editing while nobody runs it."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import (
    CallbackOutputHandler,
    ExecutionRecord,
    ExecutionTracker,
    Flow,
    FlowRegistry,
    JobState,
    JobStatus,
    NullOutputHandler,
    QueueOutputHandler,
)
from routilux_mp._curtain import Curtain
from routilux_mp._history import History, Timestamp, serialized
from routilux_mp._shown import records_of
from routilux_mp._worker.records import HistoryItem


def filled() -> JobState:
    state = JobState("f")
    state.status = "paused"  # type: ignore[assignment]
    state.current_routine_id = "a"
    state.update_routine_state("a", {"status": "running", "count": 3, "pair": (1, 2)})
    state.update_shared_data("bytes", b"\x00\xff")
    state.append_to_shared_log({"n": 1})
    state.metadata["owner"] = "me"
    state.checkpoint = {"at": 5}
    state.record_execution("a", "start", {"x": 1})
    state.record_execution("b", "output", {"y": {1, 2}})
    state.record_execution("a", "completed")
    state.send_output("a", "note", {"t": 1})
    return state


# -- by hand --------------------------------------------------------------------------------------


def test_a_new_state_is_pending_and_plain() -> None:
    state = JobState()
    assert (state.flow_id, state.status, state.current_routine_id) == ("", "pending", None)
    assert state.status is JobStatus.PENDING
    assert (state.routine_states, state.shared_data, state.metadata, state.pending_tasks) == ({}, {}, {}, [])
    assert (state.pause_points, state.deferred_events, state.dead_letters, state.unconsumed) == ([], [], [], {})
    assert (state.checkpoint, state.blocked, state.error, list(state.execution_history)) == (None, None, None, [])
    assert JobState().job_id != state.job_id


def test_status_prints_as_its_text() -> None:
    status = filled().status
    assert f"{status:10s}|" == "paused    |"
    assert str(status) == "paused"
    assert json.dumps(status) == '"paused"'
    with pytest.raises(ValueError, match="sleeping"):
        JobState().status = "sleeping"  # type: ignore[assignment]


def test_states_are_handed_out_as_copies_and_written_by_command() -> None:
    state = filled()
    own = state.get_routine_state("a")
    assert own is not None
    own["count"] = 99
    assert state.get_routine_state("a") == {"status": "running", "count": 3, "pair": (1, 2)}
    assert state.get_routine_state("never") is None
    assert state.get_routine_state("never", {}) == {}
    state.routine_states["b"] = {"k": 1}
    state.shared_data["n"] = 1
    state.shared_data |= {"m": 2}
    state.increment("n", 4)
    state.append("list", "x")
    assert state.get_routine_state("b") == {"k": 1}
    assert (state.get_shared_data("n"), state.get_shared_data("m"), state.get_shared_data("list")) == (5, 2, ["x"])
    del state.shared_data["m"]
    assert state.shared_data.pop("n") == 5
    assert state.get_shared_data("m", "gone") == "gone"
    with pytest.raises(KeyError):
        del state.shared_data["m"]
    state.shared_data.clear()
    assert state.shared_data == {}


def test_history_of_one_routine_is_sorted() -> None:
    state = filled()
    early = ExecutionRecord("a", "early", {}, datetime(2020, 1, 1))
    state._source.record(early)
    assert [r.event_name for r in state.get_execution_history("a")] == ["early", "start", "completed"]
    assert len(state.get_execution_history()) == 4
    assert list(state.results("b", "output")) == [{"y": {1, 2}}]


def test_shared_log_is_filtered_and_stamped() -> None:
    state = filled()
    state.append_to_shared_log({"n": 2, "timestamp": "mine"})
    [first, second] = state.get_shared_log()
    assert datetime.fromisoformat(first["timestamp"])
    assert second == {"n": 2, "timestamp": "mine"}
    assert state.get_shared_log(lambda entry: entry["n"] == 2) == [second]


# -- document -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "restore", [JobState.deserialize, lambda d: JobState().deserialize(d)], ids=["class", "object"]
)
def test_a_state_comes_back_as_it_was(restore: Any) -> None:
    state = filled()
    data = json.loads(json.dumps(state.serialize()))
    again = restore(data)
    for name in (
        "job_id", "flow_id", "status", "current_routine_id", "routine_states", "shared_data", "shared_log", "metadata",
        "checkpoint", "output_log", "created_at", "updated_at", "pause_points", "pending_tasks",
    ):  # fmt: skip
        assert getattr(again, name) == getattr(state, name), name
    assert again.execution_history == list(state.execution_history)
    assert again.serialize() == state.serialize()


def test_times_are_iso_text_in_documents() -> None:
    data = filled().serialize()
    assert data["_type"] == "JobState"
    for text in (data["created_at"], data["updated_at"], data["execution_history"][0]["timestamp"]):
        assert "T" in text
        assert datetime.fromisoformat(text)


def test_unknown_keys_pass_through() -> None:
    data = {**filled().serialize(), "of_a_newer_version": {"a": [1]}}
    assert JobState.deserialize(data).serialize()["of_a_newer_version"] == {"a": [1]}


@pytest.mark.parametrize("change", [{"_type": "Flow"}, {"_type": None}, {"status": "sleeping"}], ids=repr)
def test_impossible_documents(change: dict[str, Any]) -> None:
    data = {**filled().serialize(), **change}
    with pytest.raises(ValueError, match="JobState"):
        JobState.deserialize(data)


def test_save_and_load(tmp_path: Path) -> None:
    state, path = filled(), tmp_path / "state.json"
    state.save(path)
    assert JobState.load(path).serialize() == state.serialize()
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_save_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, path = filled(), tmp_path / "state.json"
    state.save(path)
    before = path.read_bytes()

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("routilux_mp._documents.os.fsync", fails)
    state.metadata["more"] = 1
    with pytest.raises(OSError, match="No space"):
        state.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_load_what_is_not_there_or_not_a_state(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        JobState.load(tmp_path / "none.json")
    (tmp_path / "flow.json").write_text(json.dumps(Flow("x").serialize()))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "half.json").write_text('{"_type": "JobSt')
    for name, text in [("flow", "holds 'Flow'"), ("list", "holds 'list'"), ("half", "is not JSON")]:
        with pytest.raises(ValueError, match=text):
            JobState.load(tmp_path / f"{name}.json")


# -- control of a detached state --------------------------------------------------------------------


def test_pausing_and_cancelling_a_detached_state_is_a_note() -> None:
    flow, state = Flow("f"), filled()
    flow.pause(state, "later", {"row": 3})
    assert state.status == "paused"
    [point] = state.pause_points
    assert (point["reason"], point["checkpoint"], state.checkpoint) == ("later", {"row": 3}, {"row": 3})
    assert {
        "timestamp",
        "pending_tasks_count",
        "active_tasks_count",
        "queue_size",
        "current_routine_id",
    } <= point.keys()
    flow.cancel(state, "enough")
    assert state.status == "cancelled"
    assert state.routine_states["_cancellation"]["reason"] == "enough"
    assert JobState.wait_for_completion(flow, state) is True


def test_waiting_for_a_detached_state_ends_at_once() -> None:
    flow, state = Flow("f"), filled()
    assert JobState.wait_for_completion(flow, state, timeout=60) is False
    assert JobState.wait_until_condition(flow, state, lambda f, s: s.status == "paused") is True
    assert JobState.wait_until_condition(flow, state, lambda f, s: False, timeout=60) is False


def test_an_ended_job_shows_what_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("routilux_mp._curtain.time.monotonic", lambda: now[0])
    curtain = Curtain()
    assert curtain.status is None
    curtain.pause("r", {"c": 1})
    assert curtain.status == "paused"
    assert curtain.pause_points[0]["checkpoint"] == {"c": 1}
    curtain.resume()
    assert curtain.status == "running"
    now[0] = 0.09
    assert curtain.status == "running"
    assert curtain.left_s == pytest.approx(0.01)
    now[0] = 0.11
    assert (curtain.status, curtain.left_s) == (None, 0.0)
    curtain.cancel("no")
    assert (curtain.status, curtain.routine_states) == ("cancelled", {"_cancellation": {"reason": "no"}})


# -- outputs --------------------------------------------------------------------------------------


def test_outputs_go_to_the_log_and_to_the_handler() -> None:
    import queue

    state, seen, box = JobState("f"), [], queue.Queue[Any]()
    state.set_output_handler(CallbackOutputHandler(lambda *args: seen.append(args)))
    state.send_output("r", "note", {"a": 1})
    state.set_output_handler(QueueOutputHandler(box))
    state.send_output("r", "note", {"a": 2})
    state.set_output_handler(NullOutputHandler())
    state.send_output("r", "note", {"a": 3})
    assert [entry["data"]["a"] for entry in state.output_log] == [1, 2, 3]
    [(job_id, routine_id, kind, data, timestamp)] = seen
    assert (job_id, routine_id, kind, data) == (state.job_id, "r", "note", {"a": 1})
    assert isinstance(timestamp, datetime)
    entry = box.get_nowait()
    assert (entry["data"], entry["output_type"]) == ({"a": 2}, "note")
    assert box.empty()


# -- history --------------------------------------------------------------------------------------


def test_history_is_a_sequence_that_stays_live() -> None:
    records = [ExecutionRecord("r", str(n), {}, datetime(2024, 1, 1)) for n in range(3)]
    reads: list[int] = []

    def read() -> list[ExecutionRecord]:
        reads.append(1)
        return list(records)

    history = History(read, lambda: len(records))
    assert len(history) == 3
    assert (history[-1], history[:2]) == (records[-1], records[:2])
    assert history == records
    assert list(reversed(history)) == records[::-1]
    assert len(reads) == 1
    records.append(ExecutionRecord("r", "new", {}, datetime(2024, 1, 1)))
    assert history[-1].event_name == "new"
    assert len(history) == 4
    assert history != records[:2]
    assert history != "abc"


def test_iterating_reads_only_as_far_as_it_is_asked() -> None:
    read: list[int] = []

    def records() -> Any:
        for number in range(1000):
            read.append(number)
            yield ExecutionRecord("r", str(number))

    assert next(iter(History(records, lambda: 0))).event_name == "0"
    assert read == [0]


@pytest.mark.parametrize("make", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["copy", "pickle"])
def test_timestamps(make: Any) -> None:
    stamp = Timestamp.of(1_700_000_000_123_456_789)
    assert stamp == datetime.fromtimestamp(1_700_000_000).replace(microsecond=123456)
    assert f"{stamp}" == str(stamp) == stamp.isoformat()
    assert f"{stamp:%Y}" == "2023"
    assert Timestamp.of(stamp.isoformat()) == stamp
    assert type(make(stamp)) is Timestamp
    assert make(stamp) == stamp
    aware = datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=3)))
    assert Timestamp.of(aware).tzinfo is None
    assert Timestamp.of(Timestamp.of(0).astimezone()).tzinfo is None
    assert Timestamp.of(aware).timestamp() == aware.timestamp()


def test_each_record_has_its_own_time() -> None:
    times_ns = [0, 0, 10**18, 10**18, 10**18 + 5_000, 0]
    records = list(records_of(HistoryItem("r", "e", {"n": n}, time_ns) for n, time_ns in enumerate(times_ns)))
    assert [record.timestamp for record in records] == [Timestamp.of(time_ns) for time_ns in times_ns]
    assert [record.data["n"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert serialized(records) == [record.serialize() for record in records]


# -- tracker, registry ------------------------------------------------------------------------------


def test_tracker_folds_a_history() -> None:
    at = [datetime(2024, 1, 1, 0, 0, second) for second in range(5)]
    records = [
        ExecutionRecord("a", "start", {"p": 1}, at[0]),
        ExecutionRecord("a", "output", {"x": 1}, at[1]),
        ExecutionRecord("a", "completed", {}, at[2]),
        ExecutionRecord("b", "error", {"error": "boom"}, at[3]),
    ]
    tracker = ExecutionTracker.of("f", records)
    assert tracker.get_routine_performance("a")["avg_execution_time"] == 2.0  # type: ignore[index]
    assert tracker.get_routine_performance("b")["failed"] == 1  # type: ignore[index]
    assert tracker.get_routine_performance("c") is None
    assert tracker.get_flow_performance() == {
        "total_routines": 2,
        "total_executions": 2,
        "total_events": 1,
        "total_execution_time": 2.0,
    }
    assert ExecutionTracker.deserialize(tracker.serialize()).routine_executions == tracker.routine_executions


def test_tracker_by_hand() -> None:
    tracker = ExecutionTracker("f")
    tracker.record_routine_end("a")
    tracker.record_routine_start("a", {"p": 1})
    tracker.record_event("a", "out", "b", {"x": 1})
    tracker.record_routine_end("a", "completed", result=3)
    [execution] = tracker.routine_executions["a"]
    assert (execution["status"], execution["result"]) == ("completed", 3)
    assert tracker.event_flow[0]["target_routine_id"] == "b"


def test_registry() -> None:
    registry, one, two = FlowRegistry(), Flow("one"), Flow("two")
    registry.register(one)
    registry.register_by_name("name", two)
    assert (registry.get("one"), registry.get_by_name("name"), registry.find("two")) == (one, two, two)
    assert registry.find("one") is one
    assert registry.list_all() == [one, two]
    registry.register_by_name("name", one)
    assert registry.get_by_name("name") is one
    assert registry.unregister_by_name("name") is True
    assert registry.unregister_by_name("name") is False
    assert registry.find("name") is None
    registry.clear()
    assert registry.list_all() == []
    assert FlowRegistry.get_instance() is FlowRegistry.get_instance()
    with pytest.raises(ValueError, match="non-empty"):
        registry.register_by_name("", one)
