"""What goes wrong with one job ends with that job: the runtime and its other jobs go on."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import ErrorHandler, ErrorStrategy, Flow, JobState, Routine, Runtime
from routilux_mp._supervisor.commits import Commits
from routilux_mp._supervisor.live import LiveJob
from routilux_mp.context import current
from routilux_mp.errors import BackendError, NotShippable, RuntimeClosed

DEADLINE_S = 20.0


class Doing(Routine):
    """Does what its configuration names."""

    def __init__(self, what: str = "") -> None:
        super().__init__()
        self.set_config(what=what)
        self.add_slot("trigger", handler=self.run)
        self.add_event("output", ["value"])

    def run(self, value: Any = 0) -> None:
        getattr(self, self.get_config("what"))(value)

    def nothing(self, value: Any) -> None:
        self.emit("output", value=value)

    def raise_surrogate(self, value: Any) -> None:
        raise OSError("no such file: \udcff.txt")

    def print_surrogate(self, value: Any) -> None:
        print("a file: \udcff.txt")

    def defer_to_nobody(self, value: Any) -> None:
        current().job_state.add_deferred_event("typo", "output", {})

    def defer_unknown_event(self, value: Any) -> None:
        current().job_state.add_deferred_event("it", "typo", {})

    def send_to_a_number(self, value: Any) -> None:
        current().job_state.increment("sum", 1, routine_id=5)

    def add_much(self, value: Any) -> None:
        current().job_state.increment("sum", 2**63 + 1)
        current().job_state.increment("sum", 2**200)


def flow_of(what: str, flow_id: str = "f") -> Flow:
    flow = Flow(flow_id)
    flow.add_routine(Doing(what), "it")
    flow.set_error_handler(ErrorHandler(ErrorStrategy.STOP))
    return flow


@pytest.fixture(params=["inline", "local"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(2, backend=request.param, checkpoint_dir=str(tmp_path / "root")) as runtime:
        yield runtime


def started(runtime: Runtime, flow: Flow) -> JobState:
    return runtime.execute(flow, "it", {"value": 1})


def ended(runtime: Runtime, flow: Flow) -> JobState:
    state = started(runtime, flow)
    assert JobState.wait_for_completion(flow, state, DEADLINE_S)
    return state


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("raise_surrogate", "no such file: \udcff.txt"),
        ("defer_to_nobody", "Routine 'typo' not found in flow"),
        ("defer_unknown_event", "Event 'typo' not found in routine 'it'"),
        ("send_to_a_number", "routine ids are strings"),
    ],
)
def test_a_handler_that_says_the_impossible_fails_with_its_own_error(runtime: Runtime, what: str, text: str) -> None:
    state = ended(runtime, flow_of(what))
    assert state.status == "failed"
    assert text in (state.error or "")
    assert ended(runtime, flow_of("nothing", "g")).status == "completed"


def test_what_cannot_be_encoded_is_printed_as_well_as_it_can(runtime: Runtime) -> None:
    assert ended(runtime, flow_of("print_surrogate")).status == "completed"


def test_sums_grow_beyond_machine_words(runtime: Runtime) -> None:
    flow = flow_of("add_much")
    state = ended(runtime, flow)
    assert state.status == "completed"
    assert state.get_shared_data("sum") == 2**63 + 1 + 2**200


def test_an_error_in_the_loop_costs_one_job(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settle = Commits._settle

    def failing(self: Commits, live: LiveJob, now: int) -> None:
        if live.job.topology.flow_id == "bad" and live.job.routines[0].done:
            raise ZeroDivisionError("in the loop")
        settle(self, live, now)

    monkeypatch.setattr(Commits, "_settle", failing)
    flow = flow_of("nothing", "bad")
    with pytest.raises(BackendError, match="in the loop") as caught:
        ended(runtime, flow)  # while it is begun, or while it is waited for
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "met what should not happen" in caplog.text
    monkeypatch.undo()
    assert ended(runtime, flow_of("nothing", "good")).status == "completed"


def test_an_error_in_a_call_is_the_callers(runtime: Runtime) -> None:
    ended(runtime, flow_of("nothing"))
    supervisor = runtime._supervisor()
    with pytest.raises(ZeroDivisionError):
        supervisor.call(lambda: 1 // 0)
    with pytest.raises(TimeoutError, match="mine"):
        supervisor.call(_raise_timeout)
    assert ended(runtime, flow_of("nothing", "g")).status == "completed"


def _raise_timeout() -> None:
    raise TimeoutError("mine")


def test_nothing_is_put_into_a_job_that_has_ended(runtime: Runtime) -> None:
    flow = flow_of("nothing")
    state = ended(runtime, flow)
    assert state._live is not None
    with pytest.raises(RuntimeClosed, match="has ended"):
        state._live.handle.post("it", "trigger", {"value": 2})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whoever_calls_a_dead_loop_is_told_what_it_died_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(1, backend="inline", checkpoint_dir=str(tmp_path / "root"))
    flow = flow_of("nothing")
    ended(runtime, flow)
    supervisor = runtime._supervisor()

    def broken(now: int) -> None:
        raise ZeroDivisionError("the loop itself")

    monkeypatch.setattr(supervisor.loop, "_timers", broken)
    supervisor.loop.backend.wake()
    assert supervisor._thread is not None
    supervisor._thread.join(DEADLINE_S)
    with pytest.raises(RuntimeClosed, match="the loop itself") as caught:
        started(runtime, flow)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(RuntimeClosed, match="the loop itself"):
        runtime.shutdown()


def test_everybody_who_waits_for_the_same_code_hears_that_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here_only.py").write_text(
        textwrap.dedent("""
            import os
            from routilux_mp import Routine
            if os.environ.get("REFUSED"):
                raise RuntimeError("not here")
            class There(Routine):
                def __init__(self):
                    super().__init__()
                    self.add_slot("trigger", handler=self.run)
                def run(self):
                    pass
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import here_only  # type: ignore[import-not-found]

    monkeypatch.setenv("REFUSED", "1")
    flow = Flow("f")
    flow.add_routine(here_only.There(), "it")
    outcomes: list[object] = []

    def submit() -> None:
        try:
            outcomes.append(runtime.execute(flow, "it", {}))
        except NotShippable as error:
            outcomes.append(str(error))

    with Runtime(1, checkpoint_dir=str(tmp_path / "root")) as runtime:
        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert len(outcomes) == 4
        assert all("not here" in str(outcome) for outcome in outcomes)
    sys.modules.pop("here_only")


PRINTING = """
import sys
from routilux_mp import Flow, JobState, Routine, Runtime

class Talking(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger", handler=self.run)
    def run(self):
        for number in range({lines}):
            print("line {letter}", number)

if __name__ == "__main__":
    flow = Flow("f")
    flow.add_routine(Talking(), "it")
    with Runtime(1, checkpoint_dir={root!r}) as runtime:
        state = runtime.execute(flow, "it", {{}})
        assert JobState.wait_for_completion(flow, state, 20.0)
        sys.stderr.write(state.status + chr(10))
"""


def _talk(tmp_path: Path, lines: int, letter: str, **options: Any) -> subprocess.Popen[bytes]:
    script = tmp_path / "talking.py"
    script.write_text(PRINTING.format(lines=lines, letter=letter, root=str(tmp_path / "root")), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )  # fmt: skip


def test_nobody_reads_what_handlers_print(tmp_path: Path, environment_of_a_script: dict[str, str]) -> None:
    process = _talk(tmp_path, 2_000, "a", env=environment_of_a_script)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    process.wait(DEADLINE_S)
    assert "completed" in errors


def test_a_reader_that_waits_does_not_hold_up_the_job(tmp_path: Path, environment_of_a_script: dict[str, str]) -> None:
    process = _talk(tmp_path, 20_000, "a", env=environment_of_a_script)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.readline() == b"completed\n"  # with 200 KiB in front of a pipe that takes 64
    lines = process.stdout.read().decode().splitlines()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(DEADLINE_S) == 0
    assert lines == [f"line a {number}" for number in range(20_000)]


def test_a_stream_that_knows_ascii_only(tmp_path: Path, environment_of_a_script: dict[str, str]) -> None:
    process = _talk(tmp_path, 2, "\u00e9", env={**environment_of_a_script, "PYTHONIOENCODING": "ascii"})
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert b"completed" in errors
    assert output.splitlines() == [b"line ? 0", b"line ? 1"]


@pytest.fixture
def environment_of_a_script(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    import os

    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": root}
