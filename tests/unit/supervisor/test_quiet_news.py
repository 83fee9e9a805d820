"""Records that let nothing run wait a little for others: every commit is a file and two waits for the disk."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.records import Completed
from routilux_mp._core.stimuli import Emit, StateOp
from routilux_mp._supervisor.commits import Commits
from routilux_mp._supervisor.live import _lets_nothing_run


def gathers(now: int = 5, *, dispatches: tuple[bool, ...] = (False,), **live: Any) -> bool:
    """Whether the records of a job wait, on a machine with a core to spare; ``dispatches``: which are held."""
    job = SimpleNamespace(
        closing=None,
        is_draining=False,
        dispatches={n: SimpleNamespace(is_held=held, special=-1, worker=n) for n, held in enumerate(dispatches)},
    )
    shown = {"gathers_until_ns": 10, "is_urgent": False, "is_doubted": False, "lets_run": False, **live}
    loop = SimpleNamespace(is_ahead=lambda live: False, placement=SimpleNamespace(are_busy=lambda workers, ns: False))
    return Commits(loop, lambda live: lambda: (None, b""))._gathers(  # type: ignore[arg-type]
        SimpleNamespace(job=job, **shown),  # type: ignore[arg-type]
        now,
    )


def test_news_that_let_nothing_run_wait_while_something_runs() -> None:
    assert gathers()
    assert gathers(dispatches=(True, False))


@pytest.mark.parametrize(
    "why",
    [
        {"now": 10},  # long enough
        {"lets_run": True},
        {"is_urgent": True},
        {"is_doubted": True},
        {"dispatches": ()},  # nothing more will come
        {"dispatches": (True,)},  # it waits for this very commit
    ],
    ids=str,
)
def test_everything_else_is_committed_at_once(why: dict[str, Any]) -> None:
    assert not gathers(**why)


def test_which_records_let_nothing_run() -> None:
    done = Completed(0, 1, (0, 1))
    assert _lets_nothing_run(done)
    assert not _lets_nothing_run(done._replace(emits=(Emit(0, Batch(1, b"x")),)))
    assert not _lets_nothing_run(done._replace(ops=(StateOp("set", "", "key", b"x"),)))
    assert not _lets_nothing_run(done._replace(cursor=b"1", partial=0))
    assert not _lets_nothing_run(object())
