"""``repair``: a job whose log is damaged, cut back to its longest whole beginning; the loss is said, and accepted."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from .._core.view import view_of
from .._storage import repair as storage
from .._storage.place import Place
from .._storage.store import Store
from .._supervisor.owners import Owners
from .._supervisor.recovery import RecordDamaged, fold
from ..errors import CheckpointDamaged, JobOwned
from ..settings import Settings
from . import FAILED, OK, job_directory


@dataclass(slots=True)
class Repair:
    """What is wrong, what would be or was lost, and what was done."""

    job_id: str
    path: str
    trouble: str = ""
    #: The last epoch and commit that are kept.
    epoch: int = 0
    commit: int = 0
    #: Files of the log that were cut off, the newest first; what they say is lost.
    lost: list[str] = field(default_factory=list)
    #: The job can go on as it is; only its history and early results cannot be read any more.
    is_past_only: bool = False
    copy: str = ""
    status: str = ""


def repair(options: argparse.Namespace) -> int:
    """Say what is lost; with ``--accept-loss`` copy the directory, then cut."""
    root, job_id = job_directory(options)
    settings = Settings.load(checkpoint_dir=root)
    with Store(settings.checkpoint_dir, settings) as store:
        place = store.place(job_id)
        found = Repair(job_id, place.path)
        reach = _examine(store, place, settings, found)
        if found.trouble and not found.is_past_only and options.accept_loss:
            if reach.epoch == 0:
                raise CheckpointDamaged(f"nothing of {place.path} can be read, so nothing of it can be kept")
            _require_unowned(store, place)
            _cut(store, place, settings, reach, found)
    _say(options, found)
    return OK if not found.trouble or found.copy else FAILED


def _examine(store: Store, place: Place, settings: Settings, found: Repair) -> storage.Reach:
    """What keeps the job from being read, and how far it can be."""
    try:
        found.status = _status(store, place, settings)
        found.trouble = _past_trouble(store, place)
        if found.trouble:
            found.is_past_only = True
    except CheckpointDamaged as error:
        found.trouble = str(error)
        reach = _before(error) or storage.reach_of(place)
        found.epoch, found.commit = reach
        found.lost = ["/".join(names) for names in storage.beyond(place, reach)]
        return reach
    return storage.Reach(0, 0)


def _past_trouble(store: Store, place: Place) -> str:
    """Why what was finished long ago cannot be read, though the job can go on; empty when it can."""
    try:
        for _ in store.read(place.job_id).history():
            pass
    except CheckpointDamaged as error:
        return str(error)
    return ""


def _cut(store: Store, place: Place, settings: Settings, reach: storage.Reach, found: Repair) -> None:
    """Copy, cut, and cut again for as long as a record does not fit what precedes it."""
    store.prepare()
    found.copy = storage.copy(place, datetime.now(UTC).strftime("%Y%m%dT%H%M%S"))
    while True:
        found.epoch, found.commit = reach
        storage.cut(place, reach)
        try:
            found.status = _status(store, place, settings)
        except RecordDamaged as error:
            reach = _before(error) or reach
            continue
        except CheckpointDamaged as error:
            raise CheckpointDamaged(f"{error}; everything that was there is in {found.copy}") from error
        break
    _, tenure = store.take_over(place.job_id)  # from here on nobody of before can write anything
    tenure.seal("handover")
    tenure.close()


def _status(store: Store, place: Place, settings: Settings) -> str:
    return view_of(fold(store.read(place.job_id), settings), 0).status


def _before(error: CheckpointDamaged) -> storage.Reach | None:
    """The commit before the one that holds a record which does not fit."""
    return storage.Reach(error.at.epoch, error.at.commit - 1) if isinstance(error, RecordDamaged) else None


def _require_unowned(store: Store, place: Place) -> None:
    """Nobody may be writing.

    Raises:
        JobOwned: somebody may.
    """
    owners = Owners(store)
    for sign in owners.heartbeats.look():
        if place.job_id in sign.jobs and not owners.is_gone(sign.owner, None) and not owners.is_suspect(sign.owner):
            raise JobOwned(f"job {place.job_id} is owned by process {sign.owner.pid} on '{sign.owner.host}': stop it")
    for owner in storage.owners_of(place):
        owners.require_gone(place.job_id, owner, None)


def _say(options: argparse.Namespace, found: Repair) -> None:
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return
    if not found.trouble:
        print(f"{found.path}: nothing to repair, the job is {found.status}")
        return
    print(f"! {found.trouble}")
    if found.is_past_only:
        print(
            f"the job is {found.status} and can go on as it is; only its history and results of that time cannot be\n"
            f"read. Nothing was changed: put the file back from a copy if there is one"
        )
        return
    print(f"whole up to commit {found.commit} of epoch {found.epoch}; after that there are {len(found.lost)} files")
    if found.copy:
        print(
            f"copied to {found.copy}, then cut; the job is {found.status}\n\ncontinue:  routilux-mp resume {found.path}"
        )
        return
    print("nothing was changed. What those files say would be lost, and what they had finished would run again:")
    print(f"  routilux-mp repair {found.path} --accept-loss", file=sys.stdout)
