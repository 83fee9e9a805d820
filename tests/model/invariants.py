"""What must hold in every reachable state, whoever slept, crashed or read an old copy."""

from __future__ import annotations

from itertools import combinations

from tests.model.state import Disk, Rules, Tasks, Violation, fresh_reading, history


def check_disk(disk: Disk, rules: Rules, damaged_max: int) -> None:
    """Every reader reads the truth, also when any `damaged_max` snapshots and archives are damaged."""
    truth = history(disk)
    found = fresh_reading(disk, from_snapshot=False)
    if found != truth:
        raise Violation(f"the history reads as {found}, it was {truth}")
    files = [("snapshots", e) for e, s in enumerate(disk.snapshots) if s is not None]
    files += [("archives", e) for e, a in enumerate(disk.archives) if a is not None]
    for count in range(damaged_max + 1):
        for damaged in combinations(files, count):
            found = fresh_reading(_damage(disk, damaged))
            if found is None or set(found) != set(truth):
                raise Violation(f"with {damaged} damaged the state reads as {found}, it was {truth}")
    for folder, epoch in disk.named:
        if folder not in disk.results:
            raise Violation(f"the result in the blob of epoch {folder}, named in epoch {epoch}, is gone")
    for state in [truth, *_newest_two(disk)]:
        names_blob = 0 not in state or (rules.blob_name == "content" and 1 in state)
        if names_blob and not disk.has_blob:
            raise Violation(f"the blob that state {state} names is gone")


def check_acknowledged(disk: Disk, acknowledged: Tasks) -> None:
    """What was reported as safe is in the history, and nothing is there or was reported twice."""
    truth = history(disk)
    if len(set(truth)) != len(truth):
        raise Violation(f"a task was committed twice: {truth}")
    if len(set(acknowledged)) != len(acknowledged):
        raise Violation(f"a task was acknowledged twice: {acknowledged}")
    lost = set(acknowledged) - set(truth)
    if lost:
        raise Violation(f"acknowledged tasks {sorted(lost)} are not in the history {truth}")


def check_growth(before: Disk, after: Disk) -> None:
    """What was once in the history stays where it is."""
    old, new = history(before), history(after)
    if new[: len(old)] != old:
        raise Violation(f"the history {old} became {new}")


def _damage(disk: Disk, files: tuple[tuple[str, int], ...]) -> Disk:
    snapshots = tuple(None if ("snapshots", e) in files else s for e, s in enumerate(disk.snapshots))
    archives = tuple(None if ("archives", e) in files else a for e, a in enumerate(disk.archives))
    return disk._replace(snapshots=snapshots, archives=archives)


def _newest_two(disk: Disk) -> list[Tasks]:
    return [state for state in reversed(disk.snapshots) if state is not None][:2]
