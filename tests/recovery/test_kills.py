"""kill -9 of any worker, the nursery, the supervisor, or all at once, at any moment: nothing is lost or doubled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.recovery import processes
from tests.recovery.flows import CASES
from tests.recovery.torture import Torture

#: Over all flows together: more than 200.
KILLS = 29


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_random_kills(name: str, tmp_path: Path) -> None:
    torture = Torture(name, tmp_path, seed=sorted(CASES).index(name))
    torture.run(KILLS)

    strokes = Counter(f"{s.target}@{s.moment}" for s in torture.struck)
    activations = sum(v.activations for v in torture.verdicts)
    reruns, in_flight = (sum(v[i] for v in torture.verdicts) for i in (1, 2))
    print(
        f"\n{name}: {len(torture.struck)} kills of {len(torture.verdicts)} jobs with {activations} activations; "
        f"{reruns} ran again, {in_flight} were in flight; {dict(sorted(strokes.items()))}"
    )
    if torture.orphan_s:
        half, most = (1000 * processes.percentile(torture.orphan_s, share) for share in (0.5, 0.99))
        print(f"workers gone after the supervisor's death: p50 {half:.1f} ms, p99 {most:.1f} ms")
    assert len(torture.struck) >= KILLS
    if not CASES[name].has_conflicts:
        assert reruns <= in_flight
