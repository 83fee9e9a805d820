"""What the measurements of the parts share. ``pytest bench`` measures, ``--benchmark-disable`` only tries each once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("pytest_benchmark", reason="pip install -e .[bench] brings pytest-benchmark")

_NOTES = pytest.StashKey[list[str]]()


@pytest.fixture
def noted(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """What a round means: ``noted("ns per item", 1e9 / 256)`` shows its median times this below the figures.

    With ``beside``, seconds of a reference that was run before every round, the ratio of the medians too.
    """

    def note(name: str, factor: float, beside: float | None = None) -> None:
        if benchmark.stats is None:
            return  # nothing is measured
        median = benchmark.stats.stats.median
        benchmark.extra_info[name] = median * factor
        line = f"{median * factor:12,.2f} {name}"
        if beside is not None:
            benchmark.extra_info["reference"], benchmark.extra_info["ratio"] = beside * factor, median / beside
            line += f", {beside * factor:,.2f} bare in turns: {median / beside:.2f} x"
        request.config.stash.setdefault(_NOTES, []).append(f"{request.node.name:36s} {line}")

    return note


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show what was noted."""
    notes = sorted(config.stash.setdefault(_NOTES, []))
    if notes:
        terminalreporter.section("medians")
        terminalreporter.write_line("\n".join(notes))
