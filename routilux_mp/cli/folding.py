"""One job from its log, for ``show`` and ``fsck``: the same fold as recovery, by a bystander.

Nothing is written and nothing is taken over. User code is not loaded: payloads stay bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .._core.apply import apply
from .._core.job import Job
from .._core.view import JobView, view_of
from .._storage.codec import decode_record
from .._storage.replay import JobLog
from .._storage.store import Store
from .._supervisor.recovery import fold as fold_log
from .._supervisor.recovery import new_job
from ..errors import NeverBegan, RoutiluxError
from ..settings import Settings
from .activation import Attempt, newest_failures
from .jobs import owner_state


@dataclass(frozen=True, slots=True)
class RoutineLine:
    """How far one routine is."""

    routine_id: str
    done: int
    #: Activations that are over without having returned: failed for good, dead letters, skipped ones.
    failed: int
    left: int
    #: Its status and error, as the framework recorded them.
    says: str


@dataclass(frozen=True, slots=True)
class Folded:
    """What ``show`` prints."""

    job_id: str
    flow_id: str
    status: str
    reason: str
    owner: str
    epoch: int
    commit: int
    path: str
    routines: tuple[RoutineLine, ...]
    dead_letters: tuple[str, ...]
    #: Attempts that failed, the newest last.
    failures: tuple[Attempt, ...]
    is_resumable: bool

    def to_document(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


@dataclass(slots=True)
class Report:
    """What ``fsck`` found."""

    path: str
    epochs: int = 0
    commits: int = 0
    records: int = 0
    troubles: list[str] = field(default_factory=list)
    #: What is no trouble and should be known.
    remark: str = ""

    def to_document(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def fold(root: str, job_id: str) -> Folded:
    """The job as its log says it stands.

    Raises:
        UnknownName: there is no such job.
        CheckpointDamaged: it cannot be read to its end.
    """
    settings = Settings.load(checkpoint_dir=root)
    with Store(root, settings) as store:
        log = store.read(job_id)
        job = fold_log(log, settings)
        view, failures = view_of(job, 0), newest_failures(job, log)
        path = store.view_paths(job_id).job
    owner = _owner(log)
    return Folded(
        job_id=job_id,
        flow_id=view.flow_id,
        status=view.status,
        reason=view.reason,
        owner=owner,
        epoch=log.epoch,
        commit=log.commit,
        path=path,
        routines=tuple(_line(job, view, number) for number in range(len(job.routines))),
        dead_letters=tuple(
            f"{list(view.progress)[letter.routine]}/{letter.seq}: {letter.failure.type_name}: {letter.failure.message}"
            for letter in view.dead_letters
        ),
        failures=tuple(failures),
        is_resumable=not view.is_terminal and not owner.startswith("live"),
    )


def view_of_job(root: str, job_id: str) -> JobView:
    """What a caller would see of the job; raises as ``fold`` does."""
    settings = Settings.load(checkpoint_dir=root)
    with Store(root, settings) as store:
        return view_of(fold_log(store.read(job_id), settings), 0)


def check(root: str, job_id: str) -> Report:
    """Read everything there is of a job and fold it twice: from the beginning, and as recovery would."""
    settings = Settings.load(checkpoint_dir=root)
    with Store(root, settings) as store:
        report = Report(store.view_paths(job_id).job)
        try:
            log = store.read(job_id)
        except RoutiluxError as error:
            report.troubles.append(str(error))
            return report
        if log.unknown_format:
            report.troubles.append(f"{log.unknown_format}: a newer version wrote it; this one only reads")
        whole = _fold_from_beginning(log, settings, report)
        try:
            recovered = fold_log(log, settings)
        except NeverBegan as error:
            report.remark = str(error)
            return report
        except RoutiluxError as error:
            report.troubles.append(str(error))
            return report
        if whole is not None and _gist(whole) != _gist(recovered):
            report.troubles.append("the newest snapshot and the log before it tell two stories; keep a copy")
    return report


def _fold_from_beginning(log: JobLog, settings: Settings, report: Report) -> Job | None:
    """Every record since the job began, checked and folded; None when that was not possible."""
    job = new_job(log.job_id, settings)
    place: tuple[int, int] = (0, 0)
    try:
        for ref, data in log.history():
            report.records += 1
            if (ref.epoch, ref.commit) != place:
                report.commits += 1
                report.epochs += ref.epoch != place[0]
                place = (ref.epoch, ref.commit)
            apply(job, decode_record(data, (ref.epoch, ref.commit, ref.frame)))
    except RoutiluxError as error:
        report.troubles.append(str(error))
        return None
    except (AssertionError, IndexError, KeyError) as error:
        report.troubles.append(f"the record after commit {place} does not fit what precedes it: {error!r}")
        return None
    return job


def _gist(job: Job) -> tuple[Any, ...]:
    """What must not depend on how a job was folded."""
    view = view_of(job, 0)
    return view.status, view.activations, view.history_count, dict(view.results_count), dict(view.progress)


def _line(job: Job, view: JobView, number: int) -> RoutineLine:
    routine_id = job.routine_id(number)
    done, left, _ = view.progress[routine_id]
    said = view.framework_states.get(routine_id, {})
    says = ": ".join(str(said[key]) for key in ("status", "error") if said.get(key))
    return RoutineLine(routine_id, done, job.routines[number].next_seq - done - left, left, says)


def _owner(log: JobLog) -> str:
    if log.owner is None:
        return "none"
    if log.is_sealed and log.seal_reason != "roll":
        return f"none ({log.seal_reason})"
    return f"{owner_state(log.owner)} (pid {log.owner.pid} on {log.owner.host})"
