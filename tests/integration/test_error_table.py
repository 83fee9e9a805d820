"""Error handling as one table: strategy × outcome of the attempts, for every level, place and style.

The rule of the table is that level, place and style change nothing, with one exception: without any handler a
failure of the entry fails the job, and one further down is recorded and tolerated.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from routilux_mp import ErrorHandler, ErrorStrategy, Flow, JobState, Routine, Runtime, immediate_policy

DEADLINE_S = 30.0

LEVELS = ("routine", "flow", "routine over flow")
PLACES = ("entry", "downstream")
STYLES = ("handler", "logic")


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("output")

    def send(self, **data: Any) -> None:
        for number in range(self.get_config("count", 1)):
            self.emit("output", number=number)


def fail(routine: Routine, state: Any) -> None:
    """Emits, writes, and fails as often as it is told to; the last line is reached by the attempt that is good."""
    routine.emit("output", attempt=routine.attempt)
    state.update_routine_state("failing", {"mine": routine.attempt})
    state.increment("attempts that count")
    state.append_to_shared_log({"attempt": routine.attempt})
    if routine.attempt <= routine.get_config("failures"):
        raise KeyError("key") if routine.get_config("is_key_error") else ValueError(f"failure {routine.attempt}")


class FailingHandler(Routine):
    def __init__(self) -> None:
        super().__init__()
        for name in ("trigger", "input"):
            self.add_slot(name, handler=self.work)
        self.add_event("output")

    def work(self, **data: Any) -> None:
        context = self.get_execution_context()
        assert context is not None
        fail(self, context.job_state)


class FailingLogic(Routine):
    def __init__(self) -> None:
        super().__init__()
        for name in ("trigger", "input"):
            self.add_slot(name)
        self.add_event("output")
        self.set_logic(self.work).set_activation_policy(immediate_policy())

    def work(self, slot_data: dict[str, Any], policy_message: Any, job_state: Any) -> None:
        fail(self, job_state)


class Row(NamedTuple):
    """What a handler, and a routine that fails so often, come to."""

    name: str
    handler: dict[str, Any] | None
    failures: int
    status: str
    records: tuple[str, ...]
    state: dict[str, Any]
    is_key_error: bool = False
    #: For the rows without a handler.
    place: str | None = None


def retry(**more: Any) -> dict[str, Any]:
    return {"strategy": "retry", "max_retries": 3, "retry_delay": 0.001, "retryable_exceptions": (ValueError,), **more}


FAILED = {"status": "failed", "error_time": "*"}
GOOD = {"status": "completed", "mine": "*"}
ROWS = (
    Row("no handler, entry", None, 9, "failed", ("error",), {**FAILED, "error": "failure 1"}, place="entry"),
    Row(
        "no handler, downstream", None, 9, "completed", ("error",),
        {"status": "error", "error": "failure 1", "error_type": "ValueError"}, place="downstream",
    ),
    Row("stop", {"strategy": "stop"}, 9, "failed", ("error",), {**FAILED, "error": "failure 1"}),
    Row("stop, good", {"strategy": ErrorStrategy.STOP}, 0, "completed", (), GOOD),
    Row(
        "continue", {"strategy": "continue"}, 9, "completed", ("error_continued",),
        {"status": "error_continued", "error": "failure 1", "error_type": "ValueError"},
    ),
    Row("skip", {"strategy": "skip"}, 9, "completed", ("error",), {"status": "skipped", "error": "failure 1"}),
    Row("retry, good at once", retry(), 0, "completed", (), GOOD),
    Row("retry, good in time", retry(), 2, "completed", ("error",) * 2, GOOD),
    Row("retry, good at the last", retry(), 3, "completed", ("error",) * 3, GOOD),
    Row("retry, exhausted", retry(), 9, "failed", ("error",) * 4, {**FAILED, "error": "failure 4"}),
    Row("retry, none allowed", retry(max_retries=0), 9, "failed", ("error",), {**FAILED, "error": "failure 1"}),
    Row("retry, not retryable", retry(), 9, "failed", ("error",), {**FAILED, "error": "'key'"}, is_key_error=True),
    Row("retry, any exception", retry(retryable_exceptions=None), 1, "completed", ("error",), GOOD, is_key_error=True),
    Row(
        "continue, but critical", {"strategy": "continue", "is_critical": True}, 9, "failed", ("error",),
        {**FAILED, "error": "failure 1"},
    ),
    Row(
        "skip, but critical", {"strategy": "skip", "is_critical": True}, 9, "failed", ("error",),
        {**FAILED, "error": "failure 1"},
    ),
)  # fmt: skip

CASES = [
    (row, level, place, style)
    for row, level, place, style in itertools.product(ROWS, LEVELS, PLACES, STYLES)
    if row.place in (None, place) and (row.handler is not None or level == "routine")
]


def make_flow(row: Row, level: str, place: str, style: str) -> Flow:
    flow = Flow()
    failing: Routine = FailingHandler() if style == "handler" else FailingLogic()
    failing.set_config(failures=row.failures, is_key_error=row.is_key_error)
    flow.add_routine(failing, "failing")
    if place == "downstream":
        flow.add_routine(Source(), "source")
        flow.connect("source", "output", "failing", "input")
    if row.handler is not None:
        handler = ErrorHandler(**row.handler)
        if level == "flow":
            flow.set_error_handler(handler)
        else:
            failing.set_error_handler(handler)
        if level == "routine over flow":
            other = "continue" if row.status == "failed" else "stop"
            flow.set_error_handler(ErrorHandler(other, max_retries=7))
    return flow


def check(runtime: Runtime, row: Row, level: str, place: str, style: str) -> None:
    flow = make_flow(row, level, place, style)
    state = runtime.execute(flow, "failing" if place == "entry" else "source", {}, settle_s=0)
    assert JobState.wait_for_completion(flow, state, DEADLINE_S), state.progress
    assert state.status == row.status
    assert (state.error is None) == (row.status == "completed")

    is_good = "error" not in row.state and row.status == "completed"
    records = [(r.event_name, r.data) for r in state.get_execution_history("failing")]
    shown = [name for name, _ in records if name not in ("start", "output", "completed")]
    assert shown == list(row.records)
    names = [name for name, _ in records]
    assert names.count("start") == (place == "entry")
    assert names.count("completed") == (place == "entry" and is_good)
    for number, (name, data) in enumerate((r for r in records if r[0].startswith("error")), 1):
        kind, text = ("KeyError", "'key'") if row.is_key_error else ("ValueError", f"failure {number}")
        assert (data["error"], data["error_type"]) == (text, kind)
        assert set(data) == {"error", "error_type", *(["attempt"] if name == "error" else [])}

    found = state.get_routine_state("failing")
    assert found is not None
    assert {key: "*" if row.state.get(key) == "*" else value for key, value in found.items()} == row.state

    # A failed attempt's emissions, state, log and counts are dropped under every strategy; a good one's are there.
    good = [row.failures + 1] if is_good else []
    assert [r["attempt"] for r in state.results("failing", "output")] == good
    assert [entry["attempt"] for entry in state.shared_log] == good
    assert state.get_shared_data("attempts that count", 0) == len(good)
    assert found.get("mine") == (good[0] if good else None)

    handler = flow.error_handler if level == "flow" else flow.routines["failing"].get_error_handler()
    # Failures of the latest failing activation, but never more than retries are allowed; whatever the strategy.
    count = 0 if handler is None else min(len(row.records), handler.max_retries)
    assert flow.get_routine_retry_count("failing") == count
    assert handler is None or handler.retry_count == count


@pytest.mark.parametrize(
    ("row", "level", "place", "style"), CASES, ids=[f"{r.name}-{lv}-{p}-{s}" for r, lv, p, s in CASES]
)
def test_inline(tmp_path: Path, row: Row, level: str, place: str, style: str) -> None:
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path)) as runtime:
        check(runtime, row, level, place, style)


def test_on_worker_processes(tmp_path: Path) -> None:
    """One runtime for many rows: a job's counts begin at 0 whatever was before."""
    with Runtime(2, checkpoint_dir=str(tmp_path)) as runtime:
        for case in CASES[::5]:  # every level, place and style comes up: a row has twelve cases
            check(runtime, *case)


@pytest.mark.parametrize(
    ("handler", "status", "done"),
    [(None, "completed", 3), ("stop", "failed", 0), ("continue", "completed", 3), ("skip", "completed", 3)],
)
def test_what_comes_after_the_failing_input(tmp_path: Path, handler: str | None, status: str, done: int) -> None:
    """Every strategy but STOP goes on with the next input; STOP leaves it in the checkpoint, not run."""

    class Picky(Routine):
        def __init__(self) -> None:
            super().__init__()
            self.add_slot("input", handler=self.work)
            self.add_event("output")

        def work(self, number: int) -> None:
            if number == 0:
                raise ValueError("not this one")
            self.emit("output", number=number)

    flow = Flow()
    source = Source()
    source.set_config(count=4)
    flow.add_routine(source, "source")
    flow.add_routine(Picky(), "picky")
    flow.connect("source", "output", "picky", "input")
    if handler is not None:
        flow.routines["picky"].set_error_handler(ErrorHandler(handler))
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.execute(flow, "source", {}, settle_s=0)
        assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    assert state.status == status
    assert len(list(state.results("picky", "output"))) == done
    found = state.get_routine_state("picky")
    assert found is not None
    assert found["status"] == ("failed" if handler == "stop" else "completed")


@pytest.mark.parametrize(
    ("mark", "failures", "status", "shown"),
    [
        (lambda r: r.set_as_optional(), 9, "completed", "error_continued"),
        (lambda r: r.set_as_optional("skip"), 9, "completed", "skipped"),
        (lambda r: r.set_as_critical(max_retries=1, retry_delay=0.001), 1, "completed", "completed"),
        (lambda r: r.set_as_critical(max_retries=1, retry_delay=0.001), 9, "failed", "failed"),
    ],
)
def test_optional_and_critical(tmp_path: Path, mark: Any, failures: int, status: str, shown: str) -> None:
    flow = make_flow(ROWS[0]._replace(failures=failures), "routine", "entry", "handler")
    mark(flow.routines["failing"])
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.execute(flow, "failing", {}, settle_s=0)
        assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    found = state.get_routine_state("failing")
    assert found is not None
    assert (state.status, found["status"]) == (status, shown)


def test_waits_between_attempts_grow(tmp_path: Path) -> None:
    """``delay * backoff ** (n - 1)`` before attempt n + 1."""
    flow = make_flow(ROWS[0], "routine", "entry", "handler")
    flow.routines["failing"].set_error_handler(
        ErrorHandler("retry", max_retries=3, retry_delay=0.03, retry_backoff=3.0)
    )
    with Runtime(2, backend="inline", checkpoint_dir=str(tmp_path)) as runtime:
        state = runtime.execute(flow, "failing", {}, settle_s=0)
        assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    times = [r.timestamp for r in state.execution_history if r.event_name == "error"]
    waits = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    assert len(waits) == 3
    for wait, least in zip(waits, (0.03, 0.09, 0.27)):
        assert least <= wait < least + 5
