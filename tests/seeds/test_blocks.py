"""Every code block of the seeds, run as it stands: what it prints, and which slips it makes.

The blocks of one document run once, in order, on one default runtime; each is then looked at by
itself. Names that the prose leaves open come from a prelude.
"""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import logging
import os
import sys
import time
import types
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from routilux_mp import runtime as runtime_module
from tests.support.seeds import COUNTS, Block, blocks_of, seed_text

#: (seed, line) -> what the block raises as printed; everything else runs through.
SLIPS: dict[tuple[str, int], tuple[type[BaseException], str]] = {
    ("000", 563): (RuntimeError, "shut down"),  # the runtime was left, and the name is not registered
    ("000", 584): (RuntimeError, "shut down"),
    ("002", 32): (ValueError, "ErrorHandler"),  # is given the error handler's data
    ("002", 112): (TypeError, "BadRoutine"),  # what it wants to show
    ("002", 289): (SyntaxError, ""),  # the text of an error, not code
    ("002", 851): (AssertionError, ""),  # two contradictory asserts with no wait between
    ("004", 427): (AttributeError, "job_state"),  # what it wants to show
}

_PRELUDE_002 = """
import json, logging
from routilux_mp import ErrorHandler, Flow, JobState, Routine
from routilux_mp.serilux import register_serializable

class Source(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger", handler=self.send)
        self.add_event("output", ["data"])
    def send(self, **kwargs):
        self.emit("output", data="test")

class OtherRoutine(Routine):
    def process(self, data):
        return data

flow = Flow(flow_id="prelude_flow")
entry_id = flow.add_routine(Source(), "source")
routine = flow.routines["source"]
error_handler = ErrorHandler("retry", max_retries=4)
error_handler.retry_count = 2
job_state = flow.execute(entry_id)
flow.pause(job_state, reason="prelude")
flow_data, job_state_data = flow.serialize(), job_state.serialize()
data = error_handler.serialize()
new_flow, new_job_state = Flow().deserialize(flow_data), JobState().deserialize(job_state_data)
resumed = job_state
self = routine
logger = logging.getLogger("seed")
with open("flow.json", "w") as f:
    json.dump(flow_data, f)

def save_flow(data): assert json.dumps(data)
def save_job_state(data): assert json.dumps(data)
"""

_PRELUDE_003 = """
import json, time
from routilux_mp import ErrorHandler, ErrorStrategy, Flow, JobState, Routine

class Source(Routine):
    def __init__(self):
        super().__init__()
        self.add_slot("trigger", handler=self.send)
    def send(self, **kwargs): pass

flow = Flow(flow_id="retry_serialization_demo")
failing = Source()
entry_id = flow.add_routine(failing, "long_running")
job_state = flow.execute(entry_id)
failure_count = retry_count = 2
save_path = "state.json"
with open(save_path, "w") as f:
    json.dump({"flow": flow.serialize(), "job_state": job_state.serialize()}, f)
"""

_PRELUDE_004 = """
import time
from routilux_mp import JobState
def save_to_database(data): assert data["_type"] == "JobState"
def save_job_state(state): assert state.job_id
def send_to_host_b(*data): pass
"""

#: Seeds whose blocks go on with each other's names; in the others each block stands by itself.
_PRELUDES = {"000": "", "001": _PRELUDE_002, "002": _PRELUDE_002, "003": _PRELUDE_003, "004": _PRELUDE_004}
_CONTINUED = ("000", "004")


class Outcome(NamedTuple):
    error: BaseException | None
    printed: str
    names: dict[str, Any]


def _run(block: Block, names: dict[str, Any]) -> Outcome:
    filename = f"<seed {block.seed}:{block.line}>"
    linecache.cache[filename] = (len(block.code), None, block.code.splitlines(True), filename)
    printed = io.StringIO()
    error: BaseException | None = None
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(block.code, filename, "exec"), names)
        except (Exception, SyntaxError) as raised:
            error = raised
    return Outcome(error, printed.getvalue(), dict(names))


def _namespace(seed: str) -> dict[str, Any]:
    # All documents say "DataSource": one module name for all is what a user's script has too.
    module = types.ModuleType("seed_script")
    sys.modules["seed_script"] = module
    exec(_PRELUDES[seed], module.__dict__)
    return module.__dict__


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Outcome]:
    """What became of every block."""
    if seed_text("000") is None:
        pytest.skip("the seeds are not at hand (looked for ../shared/seeds)")
    found: dict[tuple[str, int], Outcome] = {}
    home = os.getcwd()
    logging.getLogger("seed").setLevel(logging.CRITICAL)
    try:
        for seed in COUNTS:
            os.chdir(tmp_path_factory.mktemp(f"seed_{seed}"))
            names = _namespace(seed)
            for block in blocks_of(seed):
                if seed not in _CONTINUED:
                    names = _namespace(seed)
                found[seed, block.line] = _run(block, names)
    finally:
        os.chdir(home)
        runtime_module.close_default()
        sys.modules.pop("seed_script", None)
    return found


def _slip(block: Block) -> tuple[type[BaseException], str] | None:
    if block.seed == "001":  # makes those of 002
        block = blocks_of("002")[blocks_of("001").index(block)]
    return SLIPS.get((block.seed, block.line))


_ALL = [block for seed in COUNTS for block in blocks_of(seed)]


@pytest.mark.parametrize("seed", sorted(COUNTS))
def test_every_block_is_found(seed: str) -> None:
    if seed_text(seed) is None:
        pytest.skip("the seeds are not at hand (looked for ../shared/seeds)")
    assert len(blocks_of(seed)) == COUNTS[seed]


@pytest.mark.parametrize("block", _ALL, ids=[f"{b.seed}:{b.line}" for b in _ALL])
def test_block(block: Block, outcomes: dict[tuple[str, int], Outcome]) -> None:
    error = outcomes[block.seed, block.line].error
    slip = _slip(block)
    if slip is None:
        if error is not None:
            raise AssertionError(f"seed {block.seed}:{block.line} does not run") from error
        return
    kind, text = slip
    assert isinstance(error, kind), f"expected {kind.__name__}, got {error!r}"
    assert text in str(error)


@pytest.mark.parametrize(
    ("seed", "line", "expected"),
    [
        ("000", 33, ["Flow serialized to flow.json", "Flow ID: serializable_flow", "Routines: ['processor']"]),
        (
            "000",
            94,
            ["Restored flow ID: serializable_flow", "Routines: ['processor']", "Execution status: completed"],
        ),
        ("000", 143, ["Restored threshold: 10", "Restored enabled: True"]),
        ("000", 230, ["JobState saved. Status: completed"]),
        (
            "000",
            307,
            [
                "Processed: first_input (attempt #1)",
                "Loaded JobState. Status: completed",
                "Processed: first_input (attempt #2)",
                "Resumed execution. Status: completed",
            ],
        ),
        ("002", 365, ["   Final status: completed", "   Execution history: 4 records"]),
        ("004", 29, ["Status: completed", "Flow ID: my_flow"]),
        ("004", 126, ["Total records: 3", "Source records: 3", "  Data: {'data': 'test'}"]),
        (
            "004",
            168,
            ["Source status: completed"],
        ),
        ("004", 368, ["Execution successful!"]),
    ],
    ids=lambda value: str(value) if not isinstance(value, list) else "",
)
def test_printed(seed: str, line: int, expected: list[str], outcomes: dict[tuple[str, int], Outcome]) -> None:
    """The lines of the document's own listing, in its order."""
    printed = outcomes[seed, line].printed.splitlines()
    position = 0
    for wanted in expected:
        assert wanted in printed[position:], f"{wanted!r} is not printed (in order) in {printed}"
        position = printed.index(wanted, position) + 1


def test_constructor_error_text(outcomes: dict[tuple[str, int], Outcome]) -> None:
    text = " ".join(str(outcomes["002", 112].error).split())
    assert text == (
        "Routine 'bad_routine' (BadRoutine) cannot be serialized: BadRoutine cannot be deserialized because its "
        "__init__ method requires parameters: required_param Serializable classes must support initialization with "
        "no arguments. For Routine subclasses, use _config dictionary instead of constructor parameters."
    )


def test_foreign_method_error_text(outcomes: dict[tuple[str, int], Outcome]) -> None:
    """002:275 raises nothing until its class is instantiated and serialised."""
    names = outcomes["002", 275].names
    routine = names["MyRoutine"]()
    names["flow"].add_routine(routine, "my_id")
    with pytest.raises(ValueError, match="Cannot serialize method 'process' from OtherRoutine") as caught:
        names["flow"].serialize()
    text = " ".join(str(caught.value).split())
    assert text.endswith(
        "Only methods of the serialized object itself (MyRoutine[my_id]) can be serialized for cross-process execution."
    )


def test_executions_are_independent(outcomes: dict[tuple[str, int], Outcome]) -> None:
    names = outcomes["004", 73].names
    starts = [names[f"job_state{n}"].execution_history[0].data for n in (1, 2, 3)]
    assert starts == [{"value": "A"}, {"value": "B"}, {"value": "C"}]


def test_updated_state_is_exactly_what_was_written(outcomes: dict[tuple[str, int], Outcome]) -> None:
    assert outcomes["004", 168].names["updated_state"] == {
        "status": "completed",
        "execution_time": 0.5,
        "custom_field": "value",
    }


def test_saved_state_is_a_document(outcomes: dict[tuple[str, int], Outcome]) -> None:
    data = outcomes["000", 627].names["job_state"].serialize()
    assert json.loads(json.dumps(data))["status"] == "completed"


def test_timestamps_print_as_iso(outcomes: dict[tuple[str, int], Outcome]) -> None:
    line = next(line for line in outcomes["004", 126].printed.splitlines() if line.endswith("source -> start"))
    stamp = line.split(": source")[0]
    assert time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")


def test_default_checkpoint_directory(tmp_path: Path) -> None:
    """Nothing of the above was written beside the tests."""
    assert not (tmp_path / "checkpoints").exists()
