"""The model of ``bench/hub.py``: it finds the costs that made the runs, and what it says of more workers follows."""

from __future__ import annotations

import pytest

from bench.hub import OTHERS, SHOWN, Case, Model, Run, fitted

REPORT, ITEM, COMMIT = 80e-6, 2e-6, 700e-6


def _run(case: Case, items: int, reports: int, commits: int, costs: tuple[float, float, float]) -> Run:
    cpu_s = sum(cost * n for cost, n in zip(costs, (reports, items, commits), strict=True))
    return Run(case, 3.0, cpu_s, items, reports, commits, 1.08e-3)


def _runs(costs: tuple[float, float, float] = (REPORT, ITEM, COMMIT)) -> list[Run]:
    runs = [_run(case, 3000 * case.workers, 700 * case.workers, 150 + case.workers, costs) for case in SHOWN]
    return runs + [_run(case, 9000 + i * i * 500, 700 + 900 * i, 150, costs) for i, case in enumerate(OTHERS)]


def test_the_fit_finds_the_costs() -> None:
    assert fitted(_runs()) == pytest.approx((REPORT, ITEM, COMMIT))


def test_a_cost_that_would_be_negative_is_left_out() -> None:
    found = fitted(_runs((REPORT, -ITEM, COMMIT)))
    assert found[1] == 0
    assert min(found[0], found[2]) > 0


def test_where_the_hub_is_full() -> None:
    # With nothing but 100 us per report of four items the hub has 25 us per item of 1 ms: 40 workers.
    runs = [_run(case, 4000 * case.workers, 1000 * case.workers, 150, (100e-6, 0, 0)) for case in SHOWN]
    runs += [_run(case, 1000 * (i + 1), 900, 150 * (i + 1), (100e-6, 0, 0)) for i, case in enumerate(OTHERS)]
    model = Model(runs)
    assert model.item_s(2) == model.item_s(11) == model.item_s(100) == pytest.approx(25e-6, rel=1e-6)
    assert model.saturated_by() in (40, 41)
    assert model.efficiency(16) == pytest.approx(1 / 1.025, rel=1e-4)
    assert model.efficiency(80) == pytest.approx(0.5, rel=1e-4)
