"""A serialised JobState is all of a job: on another host it goes on as if nothing had happened."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import ErrorHandler, ErrorStrategy, Flow, JobState, Routine, Runtime, batch_size_policy
from routilux_mp._storage.reader import LogReader
from routilux_mp._storage.store import Store
from routilux_mp.errors import CheckpointDamaged
from routilux_mp.settings import Settings

DEADLINE_S = 20.0


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("output")

    def send(self, count: int = 0, pause: bool = False, **more: Any) -> None:
        for number in range(count):
            self.emit("output", number=number, **more)
        context = self.get_execution_context()
        assert context is not None
        context.job_state.append_to_shared_log({"by": "source"})
        context.job_state.update_shared_data("given", more)
        self.send_output("sent", count=count)
        self.emit_deferred_event("output", number=-1)
        if pause:
            context.flow.pause(context.job_state, "hand over")


class Work(Routine):
    """Counts, appends and passes on."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input", handler=self.work, merge_strategy="append")
        self.add_event("output")

    def work(self, number: list[int], **more: Any) -> None:
        context = self.get_execution_context()
        assert context is not None
        context.job_state.increment("count")
        self.emit("output", seen=list(number))


class Batches(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("input")
        self.add_event("output")
        self.set_logic(self.gather).set_activation_policy(batch_size_policy(4))

    def gather(self, items: list[dict[str, Any]]) -> None:
        self.emit("output", numbers=[item["number"] for item in items])


class Failing(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.run)
        self.add_event("output")

    def run(self, marks: str = "") -> None:
        with Path(marks).open("a") as file:
            file.write(f"{self.attempt} ")
        raise ValueError(f"attempt {self.attempt}")


class Counting(Routine):
    """A generator that stops where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.run)
        self.add_event("output")

    def run(self, stop_at: int = -1) -> Iterator[int]:
        start = self.resume_cursor or 0
        for number in range(start, 10):
            self.emit("output", number=number)
            if number == stop_at and start == 0:
                context = self.get_execution_context()
                assert context is not None
                context.flow.pause(context.job_state, "enough for now")
            yield number + 1


def two_ways() -> Flow:
    flow = Flow("two ways")
    flow.add_routine(Source(), "source")
    flow.add_routine(Work(), "work")
    flow.add_routine(Batches(), "batches")
    flow.connect("source", "output", "work", "input")
    flow.connect("source", "output", "batches", "input")
    return flow


def alone(routine: Routine) -> Flow:
    flow = Flow("alone")
    flow.add_routine(routine, "it")
    return flow


def retrying(backoff: float = 1.0) -> Flow:
    """Five attempts; with a back-off of 100 there is a second between the second and the third."""
    flow = alone(Failing())
    handler = ErrorHandler(ErrorStrategy.RETRY, max_retries=4, retry_delay=0.01, retry_backoff=backoff)
    flow.routines["it"].set_error_handler(handler)
    return flow


def poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def through_json(state: JobState) -> JobState:
    return JobState.deserialize(json.loads(json.dumps(state.serialize())))


@pytest.fixture(params=["inline", "local"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(tmp_path: Path, backend: str) -> Callable[[str], Runtime]:
    return lambda name: Runtime(3, backend=backend, checkpoint_dir=str(tmp_path / name))


Host = Callable[[str], Runtime]


def end_of(flow: Flow, state: JobState) -> dict[str, Any]:
    """What must be the same, however often the job has moved."""
    assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    return {
        "status": state.status,
        "history": sorted(
            (r.routine_id, r.event_name, json.dumps(r.data, default=str)) for r in state.execution_history
        ),
        "work": [r["seen"] for r in state.results("work", "output")],
        "batches": [r["numbers"] for r in state.results("batches", "output")],
        "shared": state.shared_data,
        "log": [entry["by"] for entry in state.shared_log],
        "outputs": [(o["routine_id"], o["data"]) for o in state.output_log],
        "unconsumed": state.unconsumed,
        "states": state.routine_states,
    }


def test_queues_slots_accumulators_and_deferred_events_move_along(host: Host) -> None:
    params = {"count": 6, "pause": True, "when": date(2026, 1, 2), "many": (1, {2})}
    with host("undisturbed"):
        flow = two_ways()
        state = flow.execute("source", params)
        poll(lambda: state.status == "paused")
        flow.resume(state)
        expected = end_of(flow, state)
    assert (expected["work"][-1], expected["batches"]) == ([0, 1, 2, 3, 4, 5, -1], [[0, 1, 2, 3], [4, 5, -1]])

    with host("a"):
        flow = two_ways()
        state = flow.execute("source", params)
        poll(lambda: state.status == "paused")
        moved = through_json(state)
    for name in ("b", "c"):
        with host(name):
            flow = two_ways()
            assert moved.status == "paused"
            flow.resume(moved)
            if name == "b":
                flow.pause(moved)
                moved = through_json(moved)
            else:
                assert end_of(flow, moved) == expected
                assert moved.metadata == {}
    with host("c") as again:
        assert end_of(two_ways(), again.resume_job(moved.job_id, two_ways())) == expected, "and from its own log"


def test_attempts_and_back_off_go_on(host: Host, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    with host("a") as first:
        flow = retrying(100.0)
        state = flow.execute("it", {"marks": str(marks)}, settle_s=0)
        poll(lambda: flow.get_routine_retry_count("it") == 2)
        document = state.serialize()
        first.shutdown(wait=False)
    assert marks.read_text().split() == ["1", "2"]
    [task] = document["pending_tasks"]
    assert (task["attempt"], task["routine_id"]) == (3, "it")
    with host("b"):
        flow = retrying()
        moved = JobState.deserialize(json.loads(json.dumps(document)))
        flow.resume(moved)
        assert JobState.wait_for_completion(flow, moved, DEADLINE_S)
        assert (moved.status, flow.get_routine_retry_count("it")) == ("failed", 4)
        assert [r.data["attempt"] for r in moved.execution_history if r.event_name == "error"] == [1, 2, 3, 4, 5]
    assert marks.read_text().split() == ["1", "2", "3", "4", "5"], "three on the second host"


def test_a_shared_directory_knows_better_than_an_older_document(
    host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marks = tmp_path / "marks"
    with host("shared") as first:
        flow = retrying(100.0)
        state = flow.execute("it", {"marks": str(marks)}, settle_s=0)
        poll(lambda: flow.get_routine_retry_count("it") == 2)
        document = state.serialize()
        state.update_shared_data("later", True)
        first.shutdown(wait=False)
    with host("shared"), caplog.at_level(logging.WARNING):
        flow = retrying()
        moved = JobState.deserialize(document)
        flow.resume(moved)
        assert JobState.wait_for_completion(flow, moved, DEADLINE_S)
        assert (moved.status, moved.get_shared_data("later")) == ("failed", True)
    assert marks.read_text().split() == ["1", "2", "3", "4", "5"], "five in all"
    assert "has gone on since this document was made" in caplog.text


def test_a_cursor_moves_along(host: Host) -> None:
    with host("a"):
        flow = alone(Counting())
        state = flow.execute("it", {"stop_at": 3})
        poll(lambda: state.status == "paused")
        moved = through_json(state)
    with host("b"):
        flow = alone(Counting())
        flow.resume(moved)
        assert JobState.wait_for_completion(flow, moved, DEADLINE_S)
        assert [r["number"] for r in moved.results("it", "output")] == list(range(10))


def test_edits_are_in_force_before_anything_runs(host: Host) -> None:
    with host("a"):
        flow = two_ways()
        state = flow.execute("source", {"count": 3, "pause": True})
        poll(lambda: state.status == "paused")
        count = state.get_shared_data("count", 0)
        moved = through_json(state)
        moved.shared_data["extra"] = {"a": (1,)}
        moved.increment("count", 100)
        moved.update_routine_state("work", {"mine": 1})
        moved.append_to_shared_log({"by": "me"})
        moved.metadata = {"note": "edited"}
        again = through_json(moved)  # edits of a document that was never resumed
    for name, edited in (("b", moved), ("a", again)):
        with host(name):
            flow = two_ways()
            flow.resume(edited)
            assert JobState.wait_for_completion(flow, edited, DEADLINE_S)
            assert edited.get_shared_data("extra") == {"a": (1,)}
            assert edited.get_shared_data("count") == 4 + 100
            assert count <= 3
            assert edited.get_routine_state("work", {})["mine"] == 1
            assert [entry["by"] for entry in edited.shared_log] == ["source", "me"]
            assert edited.metadata == {"note": "edited"}


def test_a_large_payload_is_inside_of_the_document(host: Host) -> None:
    text = "x" * 600_000
    with host("a"):
        flow = two_ways()
        state = flow.execute("source", {"count": 2, "pause": True, "text": text})
        poll(lambda: state.status == "paused")
        moved = through_json(state)
    with host("b"):
        flow = two_ways()
        flow.resume(moved)
        assert JobState.wait_for_completion(flow, moved, DEADLINE_S)
        assert (moved.status, moved.get_shared_data("given")) == ("completed", {"text": text})
        assert list(moved.results("batches", "output")) == [{"numbers": [0, 1, -1]}]


def test_a_directory_that_holds_only_the_documents_can_be_resumed(host: Host, tmp_path: Path) -> None:
    with host("a"):
        flow = two_ways()
        state = flow.execute("source", {"count": 3, "pause": True})
        poll(lambda: state.status == "paused")
        document, flow_data = state.serialize(), flow.serialize()
    folder = tmp_path / "b" / state.job_id
    folder.mkdir(parents=True)
    JobState.deserialize(document).save(folder / "job_state.json")
    (folder / "flow.json").write_text(json.dumps(flow_data))
    with host("b") as second:
        resumed = second.resume_job(state.job_id, two_ways())
        assert JobState.wait_for_completion(two_ways(), resumed, DEADLINE_S)
        assert list(resumed.results("batches", "output")) == [{"numbers": [0, 1, 2, -1]}]


def test_what_was_written_beside_the_log_is_enough(host: Host, tmp_path: Path) -> None:
    with host("a"):
        flow = two_ways()
        state = flow.execute("source", {"count": 3, "pause": True})
        poll(lambda: state.status == "paused")
    view = tmp_path / "a" / state.job_id / "job_state.json"
    folder = tmp_path / "b" / state.job_id
    folder.mkdir(parents=True)
    (folder / "job_state.json").write_bytes(view.read_bytes())
    with host("b") as second:
        resumed = second.resume_job(state.job_id, two_ways())
        assert JobState.wait_for_completion(two_ways(), resumed, DEADLINE_S)
        assert list(resumed.results("batches", "output")) == [{"numbers": [0, 1, 2, -1]}]


@pytest.mark.parametrize("engine", ["", "!", "AAAA", "gqF2AaNqb2KA", 7, None, {"a": 1}])
def test_a_damaged_document_is_refused_before_anything_is_begun(engine: Any, tmp_path: Path) -> None:
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path / "a")):
        flow = two_ways()
        state = flow.execute("source", {"count": 3, "pause": True})
        poll(lambda: state.status == "paused")
        document = {**state.serialize(), "engine": engine}
    if engine is None:
        return  # one of another program: what it tells is used, see ``_begin_anew``
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path / "b")):
        with pytest.raises(CheckpointDamaged, match=state.job_id):
            two_ways().resume(JobState.deserialize(document))
        assert not (tmp_path / "b" / state.job_id).exists()


def test_a_document_of_another_flow_is_refused(tmp_path: Path) -> None:
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path / "a")):
        flow = two_ways()
        state = flow.execute("source", {"count": 3, "pause": True})
        poll(lambda: state.status == "paused")
        moved = through_json(state)
        other = Flow("two ways")
        other.add_routine(Source(), "source")
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path / "b")), pytest.raises(ValueError, match="'work'"):
        other.resume(moved)


def test_a_document_can_be_made_while_the_job_runs(host: Host) -> None:
    with host("a"):
        flow = alone(Counting())
        state = flow.execute("it", {}, settle_s=0)
        documents = []
        while not state.status.is_terminal:
            documents.append(state.serialize())
    with host("b"):
        for document in documents[:3]:
            moved = JobState.deserialize(document)
            if moved.status.is_terminal:
                continue
            length = len(moved.execution_history)
            flow.resume(moved)
            assert JobState.wait_for_completion(flow, moved, DEADLINE_S)
            assert [r["number"] for r in moved.results("it", "output")] == list(range(10))
            assert len(moved.execution_history) == 12 >= length
            break


def test_a_long_history_is_cut_to_its_newest_part_in_the_view(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"history_inline_max": 5, "log_bytes_max": 4096, "roll_interval_s": 0.0}
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path / "a"), **settings):
        flow = alone(Counting())
        flow.routines["it"].get_slot("trigger").handler = count_to_3000  # type: ignore[union-attr]
        state = flow.execute("it", {})
        assert JobState.wait_for_completion(flow, state, DEADLINE_S)
        total = len(state.execution_history)
        newest = [(r.event_name, r.data) for r in state.execution_history[-5:]]
        assert len(state.serialize()["execution_history"]) == total, "the whole of it in a document"
    document = json.loads((tmp_path / "a" / state.job_id / "job_state.json").read_text())
    shown = [(r["event_name"], r["data"]) for r in document["execution_history"]]
    assert (shown, document["execution_history_omitted"]) == (newest, total - 5)
    assert total == 3002


def test_the_newest_history_does_not_open_old_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    old = LogReader.epoch_files
    monkeypatch.setattr(LogReader, "epoch_files", lambda self, epoch: opened.append(epoch) or old(self, epoch))
    settings: dict[str, Any] = {"log_bytes_max": 4096, "roll_interval_s": 0.0}
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path / "a"), **settings) as runtime:
        flow = Flow("by hand")
        flow.add_routine(Work(), "work")
        state = runtime.exec(flow)
        for number in range(40):  # a commit each, so that it is rolled
            runtime.post(flow, "work", "input", {"number": number, "text": "x" * 500})
        state._live_or_fail().handle.close_input()
        assert JobState.wait_for_completion(flow, state, DEADLINE_S)
        handle = state._live_or_fail().handle
        assert handle.wait_sealed(DEADLINE_S)
        with Store(str(tmp_path / "a"), Settings()) as store:
            log = store.read(state.job_id)
            opened.clear()
            backwards = log.backwards()
            groups = [next(backwards)]
            assert opened == [], "the newest epoch is read already"
            groups += list(backwards)
            assert len(groups) > 1, "rolled often enough to tell"
            assert [ref for group in reversed(groups) for ref, _ in group] == [ref for ref, _ in log.history()]
        assert handle.newest_history(3) == list(handle.history())[-3:]


def count_to_3000(**_: Any) -> Iterator[int]:
    from routilux_mp import context

    for number in range(3000):
        activation = context.current()
        assert activation is not None
        activation.emit(None, "output", {"number": number, "text": "x" * 20})
        if number % 100 == 0:
            yield number
