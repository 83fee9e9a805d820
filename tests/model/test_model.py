"""The protocol is safe in every reachable state, and no rule of it can be left out."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.model.explorer import Explorer, Result
from tests.model.state import SEAL, Disk, Rules, Size
from tests.model.variants import BROKEN, Variant

#: With blobs that workers write long before they are named.
RESULTS = Size(processes=2, tasks=2, epochs=3, crashes=1, standbys_remember=False, has_results=True)
FULL = Size(processes=3, tasks=2, epochs=3, crashes=1, standbys_remember=False)


@cache
def explored(size: Size) -> tuple[Result, list[Disk]]:
    """The safe protocol, explored once."""
    explorer = Explorer(Rules(), size)
    return explorer.run(), explorer.disks()


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(FULL, id="3 processes, 2 tasks, 3 epochs, 1 crash"),
        pytest.param(RESULTS, id="2 processes whose workers write blobs"),
        pytest.param(replace(FULL, crashes=2), id="2 crashes", marks=pytest.mark.slow),
        pytest.param(
            Size(processes=2), id="2 processes, sleeping standbys are states of their own", marks=pytest.mark.slow
        ),
        pytest.param(replace(FULL, tasks=3), id="3 tasks", marks=pytest.mark.slow),
    ],
)
def test_the_protocol_is_safe(size: Size) -> None:
    result, _ = explored(size)
    assert result.violation is None, "\n".join([result.violation, *result.trace])
    assert result.states > 80_000, "the exploration is not exhaustive any more"


@pytest.mark.parametrize("variant", BROKEN, ids=lambda variant: variant.name)
@pytest.mark.parametrize(
    "remember",
    [
        pytest.param(False, id="standbys without memory"),
        pytest.param(True, id="standbys that sleep", marks=pytest.mark.slow),
    ],
)
def test_no_rule_can_be_left_out(variant: Variant, remember: bool) -> None:
    """With sleeping standbys as states of their own the same is found: leaving them out hides nothing."""
    size = replace(variant.size, standbys_remember=remember)
    result = Explorer(variant.rules, size, variant.damaged_max).run()
    assert result.violation is not None, f"no counterexample in {result.states} states"
    assert variant.finds in result.violation
    assert result.trace


def test_what_the_rules_guard_against_does_happen() -> None:
    """The safe exploration is no empty one: everything that the proof speaks of is reached."""
    _, disks = explored(FULL)
    for what, holds in {
        "COMMITs collected": lambda disk: _collected(disk) > 0,
        "a SEAL put by a sleeper where a COMMIT was collected": _has_late_seal,
        "the blob collected": lambda disk: not disk.has_blob,
        "two snapshots": lambda disk: disk.snapshots[1:] == ((0,), (0, 1)),
        "two archives": lambda disk: None not in disk.archives[:2],
        "all epochs opened": lambda disk: all(disk.log),
    }.items():
        assert any(map(holds, disks)), f"never met: {what}"


def test_leftovers_are_swept_and_results_are_kept() -> None:
    _, disks = explored(RESULTS)
    there = set(disks)
    swept = [d for d in disks for x in (1, 2) if x not in d.results and d._replace(results=d.results | {x}) in there]
    assert any(len(d.log[1]) > 0 for d in swept), "never met: a leftover swept by a later owner"
    assert any(d.named for d in swept), "never met: one swept beside a result that stays"


def test_owners_sleep_through_take_overs() -> None:
    """Fencing is put to the test: without it the very first sleeper does harm (see the variants)."""
    counterexample = Explorer(Rules(commit="append"), FULL, None).run()
    assert counterexample.trace[-1].startswith("own of 1: put COMMIT")


def _collected(disk: Disk) -> int:
    return sum(record is None for row in disk.log for record in row)


def _has_late_seal(disk: Disk) -> bool:
    return any(SEAL in row[:-1] for row in disk.log)


def test_the_safety_page_says_what_is_found() -> None:
    """Its figures are these: rows and lengths of the counterexamples, states of the safe protocol."""
    page = Path(__file__).parents[2].joinpath("docs", "safety.md").read_text(encoding="utf-8")
    said = sorted(int(steps) for steps in re.findall(r"^\|[^|]+\| (\d+): ", page, re.MULTILINE))
    traces = [Explorer(variant.rules, variant.size, variant.damaged_max).run().trace for variant in BROKEN]
    assert said == sorted(map(len, traces))
    result, _ = explored(FULL)
    assert f"{result.states:,} states, {result.transitions:,} transitions" in page
    result, _ = explored(RESULTS)
    assert f"{result.states:,} states, {result.transitions:,} transitions" in page
