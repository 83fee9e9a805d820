"""What fails is told to the log: once it stands, the first of each routine, and how many at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._core.job import Job
from routilux_mp._core.records import Durable, Ended, Failed
from routilux_mp._core.stimuli import Failure
from routilux_mp._supervisor.failing import Failings
from routilux_mp._worker.logs import from_text
from tests.unit.core.core_bench import OnBench, routine


@pytest.fixture
def job() -> Job:
    return OnBench(routine("a"), routine("b")).submit().job


def failed(seq: int, action: str = "tolerate", number: int = 0, traceback: str = "") -> Durable:
    return Failed(0, number, seq, 1, action, Failure("error", "ValueError", f"no {seq}", traceback))


def told_by(failings: Failings, job: Job, commit: int) -> list[str]:
    records = [from_text(text) for text in failings.stands(job, commit)]
    assert {(r.name, r.levelname) for r in records} <= {("routilux_mp._supervisor.failing", "WARNING")}
    return [r.getMessage() for r in records]


def test_nothing_is_told_before_it_stands(job: Job) -> None:
    failings = Failings()
    failings.note([failed(1)], 3)
    assert told_by(failings, job, 2) == []
    (message,) = told_by(failings, job, 3)
    assert told_by(failings, job, 4) == []
    assert "a/1 failed, and the job goes on: ValueError: no 1" in message
    assert job.job_id in message


def test_the_first_of_each_routine_with_its_traceback_and_all_at_the_end(job: Job) -> None:
    failings = Failings()
    failings.note([failed(4), failed(5), failed(0, number=1, traceback="Traceback\nKeyError: 3\n")], 1)
    failings.note([failed(6), Ended(0, "completed")], 2)
    told = told_by(failings, job, 1)
    assert [text.partition(" failed")[0].rpartition(" ")[2] for text in told] == ["a/4", "b/0"]
    assert told[1].endswith("goes on\nTraceback\nKeyError: 3")
    (last,) = told_by(failings, job, 2)
    assert last.endswith("is completed; activations that failed: 3 of a, 1 of b")


def test_what_is_tried_again_has_not_failed_and_one_is_told_once(job: Job) -> None:
    failings = Failings()
    failings.note([failed(1, "retry"), failed(1, "again")], 1)
    assert told_by(failings, job, 1) == []
    failings.note([failed(1, "stop"), Ended(0, "failed")], 2)
    (message,) = told_by(failings, job, 2)
    assert "a/1 failed, and so does the job" in message


@pytest.mark.parametrize(
    ("seq", "action", "text"),
    [
        (-3, "tolerate", "the policy of a failed, and the job goes on"),
        (2, "dead", "a/2 failed, it is a dead letter now, and the job goes on"),
        (2, "dead_stop", "a/2 failed, it is a dead letter now, and the job fails"),
        (2, "skip", "a/2 failed, and the job goes on"),
    ],
)
def test_what_follows(seq: int, action: str, text: str, job: Job) -> None:
    failings = Failings()
    failings.note([failed(seq, action)], 1)
    assert text in told_by(failings, job, 1)[0]


def test_any_text_can_be_logged(job: Job) -> None:
    failings = Failings()
    failings.note([failed(1, traceback="no such file: \udcff.txt")], 1)
    (message,) = told_by(failings, job, 1)
    assert message.endswith("\nno such file: \\udcff.txt")


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("trigger", handler=self.go)
        self.add_event("out")

    def go(self) -> None:
        for n in range(6):
            self.emit("out", n=n)


class Odd(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.add_slot("inp", handler=self.go)

    def go(self, n: int) -> None:
        if n % 2 == 0:
            raise ValueError(f"{n} is even")


@pytest.mark.parametrize("durability", ["commit", "none"])
def test_a_job_is_not_silent_about_what_it_goes_on_without(
    durability: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flow = Flow(flow_id="odd")
    flow.add_routine(Source(), "source")
    flow.add_routine(Odd(), "odd")
    flow.connect("source", "out", "odd", "inp")
    with Runtime(2, checkpoint_dir=str(tmp_path), durability=durability) as runtime:  # type: ignore[arg-type]
        state = runtime.execute(flow, "source", {})
        assert flow.wait_for_completion(timeout=60, job_state=state)
    first, last = (text for text in caplog.messages if state.job_id in text)
    assert "odd/0 failed" in first
    assert 'raise ValueError(f"{n} is even")' in first
    assert last.endswith("is completed; activations that failed: 3 of odd")
