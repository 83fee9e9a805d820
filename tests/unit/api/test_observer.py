"""What hooks are told of a job that an earlier owner has begun: what is new, all of it, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from routilux_mp._delivery import Observer
from routilux_mp._worker.records import HistoryItem, Ran
from routilux_mp.monitoring.hooks import ExecutionHooks


class Noting(ExecutionHooks):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def on_routine_start(self, routine_id: str, job_state: Any) -> None:
        self.seen.append(("start", routine_id))

    def on_routine_end(self, routine_id: str, job_state: Any, status: str, error: str | None = None) -> None:
        self.seen.append(("end", routine_id))

    def on_event_emit(self, routine_id: str, event_name: str, data: dict[str, Any], job_state: Any) -> None:
        self.seen.append(("event", routine_id))


def records_of(*counts: int) -> list[HistoryItem | Ran]:
    """An entry that emitted, and then one record for so many activations of "b", which emit as well."""
    items: list[HistoryItem | Ran] = [HistoryItem("a", name, {}, 0) for name in ("start", "out", "completed")]
    for count in counts:
        items += [Ran("b", count, False), *[HistoryItem("b", "out", {}, 0)] * count, Ran("b", count, True)]
    return items


def told(items: list[HistoryItem | Ran], recorded_before: int, ran_before: int) -> list[tuple[str, str]]:
    hooks = Noting()
    view = SimpleNamespace(history_count=sum(type(i) is HistoryItem for i in items), is_terminal=True, status="x")
    left = [items]

    @contextmanager
    def following() -> Iterator[Callable[[], Iterator[HistoryItem | Ran]]]:
        yield lambda: iter(left.pop() if left else ())

    handle: Any = SimpleNamespace(
        job_id="job", view=view, recorded_before=recorded_before, ran_before=ran_before,
        following_history=following, wait=lambda predicate: True,
    )  # fmt: skip
    observer = Observer(handle, None, lambda: [hooks])
    observer.join(10.0)
    return hooks.seen


def test_a_successor_tells_of_all_that_is_new() -> None:
    one = [("start", "b"), ("event", "b"), ("end", "b")]
    assert told(records_of(1, 1, 1), recorded_before=5, ran_before=2) == one
    two = [("start", "b"), ("start", "b"), ("event", "b"), ("event", "b"), ("end", "b"), ("end", "b")]
    assert told(records_of(1, 1, 2), recorded_before=5, ran_before=2) == two


def test_the_first_owner_tells_of_everything() -> None:
    seen = told(records_of(1), recorded_before=0, ran_before=0)
    assert seen == [("start", "a"), ("event", "a"), ("end", "a"), ("start", "b"), ("event", "b"), ("end", "b")]
