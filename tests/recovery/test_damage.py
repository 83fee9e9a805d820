"""A checkpoint directory that cannot be used: the error names the thing and the cure, and nothing is changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from routilux_mp import Flow, JobState, Routine, Runtime, cli
from routilux_mp._storage.store import Store
from routilux_mp.errors import CheckpointDamaged, CheckpointFormat, FlowMismatch, RoutiluxError, UnknownName, UsageError
from routilux_mp.settings import Settings
from tests.recovery import witness
from tests.recovery.flows import Square, burn

N = 200


class Source(Routine):
    def __init__(self) -> None:
        super().__init__()
        self.define_slot("trigger", handler=self.go)
        self.define_event("out")

    def go(self, n: int) -> None:
        for i in range(n):
            self.emit("out", i=i)
            if i % 10 == 9:
                self.commit(i)


class Quiet(Square):
    """As the flow under test has it, without a witness, and slow enough to be paused on the way."""

    def handle(self, **data: int) -> None:
        burn(3000)
        self.work(**data)


def flow_of(flow_id: str = "damage", second: str = "square", event: str = "out") -> Flow:
    flow = Flow(flow_id=flow_id)
    flow.add_routine(Source(), "source")
    square = Quiet()
    if event not in square._events:
        square._events.clear()
        square.define_event(event)
    flow.add_routine(square, second)
    flow.connect("source", "out", second, "in")
    return flow


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A root with one paused job of several epochs; copied by each test."""
    root = tmp_path_factory.mktemp("good") / "checkpoints"
    # On "another host": this process, which lives on, is not taken for its owner.
    options = {"log_bytes_max": 6000, "roll_interval_s": 0, "batch_count_max": 10, "host_id": "another"}
    with Runtime(2, checkpoint_dir=str(root), **options) as runtime:
        flow = flow_of()
        state = runtime.exec(flow, {"n": N}, settle_s=0)
        job_id = state.job_id
        wanted = N // 3
        while True:
            assert JobState.wait_until_condition(
                flow, state, lambda _, s, n=wanted: s.progress["square"][0] >= n, timeout=30, check_interval=0.001
            )
            runtime.pause(state, "for the tests", timeout_s=30)
            assert state.status == "paused"
            if len(list(newest_epoch(root / job_id).iterdir())) > 3:
                break  # there is something in it to be damaged
            wanted = state.progress["square"][0] + 5
            runtime.resume(flow, state)
    assert N // 3 <= len(witness.look(root, job_id).done) < N, "too fast to be paused on the way"
    assert len(list((root / job_id / "epochs").iterdir())) > 1, "too small to have rolled"
    return root, job_id


def tree(root: Path) -> dict[str, str]:
    """Every file below, and what is in it."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
        for path in sorted(root.rglob("*"))
    }


def newest_epoch(job: Path) -> Path:
    return max((job / "epochs").iterdir())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def the_last_commit_is_cut(job: Path) -> None:
    truncate(max(newest_epoch(job).iterdir()))


def the_first_commit_is_flipped(job: Path) -> None:
    flip(min(newest_epoch(job).iterdir()))


def a_commit_is_missing(job: Path) -> None:
    files = sorted(newest_epoch(job).iterdir())
    assert len(files) > 2
    files[1].unlink()


def only_half_was_copied(job: Path) -> None:
    """A copy that broke off: the newest epoch is not there, what was made after its start is."""
    shutil.rmtree(newest_epoch(job))


def the_copy_holds_only_snapshots(job: Path) -> None:
    shutil.rmtree(job / "epochs")


def a_record_does_not_fit(job: Path) -> None:
    """Whole files, written by somebody who did not know what he wrote."""
    settings = Settings(host_id="another")
    with Store(str(job.parent), settings) as store:
        _, tenure = store.take_over(job.name)
        tenure.commit([b"rubbish"])
        tenure.commit([b"more of it"])
        tenure.close()


def format_json_is_missing(job: Path) -> None:
    (job / "format.json").unlink()


def format_json_is_cut(job: Path) -> None:
    truncate(job / "format.json")


def a_newer_version_wrote_it(job: Path) -> None:
    (job / "format.json").write_text(json.dumps({"format": 99, "min_reader": 99, "features": ["time travel"]}))


def it_is_a_file(job: Path) -> None:
    shutil.rmtree(job)
    job.write_text("not a directory")


def it_is_empty(job: Path) -> None:
    shutil.rmtree(job)
    job.mkdir()


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (the_last_commit_is_cut, CheckpointDamaged, r"epochs/e\d+/c\d+"),
        (the_first_commit_is_flipped, CheckpointDamaged, r"epochs/e\d+/c\d+"),
        (a_commit_is_missing, CheckpointDamaged, r"epochs/e\d+/c\d+.*missing"),
        (only_half_was_copied, CheckpointDamaged, r"incomplete.*Copy the whole directory"),
        (the_copy_holds_only_snapshots, CheckpointDamaged, r"incomplete|missing"),
        (format_json_is_missing, CheckpointDamaged, r"format\.json is missing"),
        (format_json_is_cut, CheckpointDamaged, r"format\.json is damaged"),
        (a_newer_version_wrote_it, CheckpointFormat, r"format 99.*use a newer routilux_mp"),
        (it_is_a_file, RoutiluxError, r"no directory.*Put the directory itself in its place"),
        (it_is_empty, UnknownName, r"no job"),
    ],
)
def test_a_directory_that_cannot_be_resumed(
    damage: Callable[[Path], None],
    error: type[Exception],
    says: str,
    good: tuple[Path, str],
    tmp_path: Path,
) -> None:
    source, job_id = good
    root = tmp_path / "checkpoints"
    shutil.copytree(source, root)
    damage(root / job_id)
    before = tree(root / job_id)
    with Runtime(2, checkpoint_dir=str(root)) as runtime:
        with pytest.raises(error, match=says) as caught:
            runtime.resume_job(job_id, flow_of())
        assert job_id in str(caught.value)
    assert tree(root / job_id) == before


def test_what_was_not_damaged_goes_on(good: tuple[Path, str], tmp_path: Path) -> None:
    """The control: the same copy, unharmed, is resumed and ends."""
    source, job_id = good
    root = tmp_path / "checkpoints"
    shutil.copytree(source, root)
    flow = flow_of()
    with Runtime(2, checkpoint_dir=str(root)) as runtime:
        state = runtime.resume_job(job_id, flow)
        assert JobState.wait_for_completion(flow, state, timeout=30)
        assert [r["square"] for r in state.results("square", "out")] == [i * i for i in range(N)]


@pytest.mark.parametrize(
    ("flow", "says"),
    [
        (lambda: flow_of("another"), "flow_id 'damage' does not match Flow flow_id 'another'"),
        (lambda: flow_of(second="cube"), "Routine 'square' of job .* not found in flow 'damage'"),
        (lambda: flow_of(event="result"), "Event 'out' not found in routine 'square'"),
    ],
    ids=["other id", "routine is gone", "event is gone"],
)
def test_another_flow_is_refused_before_anything_is_changed(
    flow: Callable[[], Flow], says: str, good: tuple[Path, str], tmp_path: Path
) -> None:
    source, job_id = good
    root = tmp_path / "checkpoints"
    shutil.copytree(source, root)
    before = tree(root / job_id)
    with Runtime(2, checkpoint_dir=str(root)) as runtime, pytest.raises(FlowMismatch, match=says):
        runtime.resume_job(job_id, flow())
    assert tree(root / job_id) == before


def test_a_job_that_is_not_there(tmp_path: Path) -> None:
    with Runtime(2, checkpoint_dir=str(tmp_path)) as runtime, pytest.raises(UnknownName, match="nobody"):
        runtime.resume_job("nobody")
    assert not (tmp_path / "nobody").exists()


@pytest.mark.parametrize("job_id", ["../else", "a/b", "", ".owners", "x" * 300])
def test_a_job_id_that_is_no_name(job_id: str, tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    with Runtime(2, checkpoint_dir=str(root)) as runtime, pytest.raises(UsageError, match=r"job id .* cannot be used"):
        runtime.resume_job(job_id)
    assert os.listdir(tmp_path) in ([], ["checkpoints"])


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a directory in which nobody may write")
@pytest.mark.parametrize("where", ["/proc/self/checkpoints", "file/checkpoints"])
def test_a_root_that_cannot_be_made(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    root = where if where.startswith("/") else str(tmp_path / where)
    with Runtime(2, checkpoint_dir=root) as runtime:
        with pytest.raises(RoutiluxError, match=r"cannot be used.*checkpoint_dir=") as caught:
            runtime.exec(flow_of(), {"n": 1})
        assert root in str(caught.value)
        assert runtime.list_jobs() == []


@pytest.mark.parametrize(
    "damage",
    [
        the_last_commit_is_cut,
        the_first_commit_is_flipped,
        a_commit_is_missing,
        only_half_was_copied,
        the_copy_holds_only_snapshots,
        a_record_does_not_fit,
        format_json_is_missing,
        format_json_is_cut,
    ],
)
def test_repair_says_what_is_lost_copies_and_then_the_job_goes_on(
    damage: Callable[[Path], None], good: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, job_id = good
    root = tmp_path / "checkpoints"
    shutil.copytree(source, root)
    damage(root / job_id)
    before = tree(root / job_id)
    assert cli.main(["repair", str(root / job_id)]) == 1
    assert "--accept-loss" in capsys.readouterr().out
    assert tree(root / job_id) == before, "nothing may change before the loss is accepted"

    assert cli.main(["repair", str(root / job_id), "--accept-loss", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert tree(Path(found["copy"])) == before
    assert cli.main(["fsck", str(root / job_id)]) == 0
    flow = flow_of()
    with Runtime(2, checkpoint_dir=str(root)) as runtime:
        state = runtime.resume_job(job_id, flow)
        if state.status == "paused":
            runtime.resume(flow, state)
        assert JobState.wait_for_completion(flow, state, timeout=30)
        assert [r["square"] for r in state.results("square", "out")] == [i * i for i in range(N)]
    capsys.readouterr()
    assert cli.main(["repair", str(root / job_id), "--accept-loss"]) == 0
    assert "nothing to repair" in capsys.readouterr().out


def test_repair_refuses_what_is_not_its_own(good: tuple[Path, str], tmp_path: Path) -> None:
    source, job_id = good
    root = tmp_path / "checkpoints"
    shutil.copytree(source, root)
    a_newer_version_wrote_it(root / job_id)
    the_last_commit_is_cut(root / job_id)
    before = tree(root / job_id)
    assert cli.main(["repair", str(root / job_id), "--accept-loss"]) != 0
    assert tree(root / job_id) == before
    assert cli.main(["repair", str(root / "nothing"), "--accept-loss"]) == 2
