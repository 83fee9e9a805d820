"""The execution history: the counts of the seeds, and as many entries as the job says."""

from __future__ import annotations

from routilux_mp._core.batch import Batch
from routilux_mp._core.history import HistoryFold
from routilux_mp._core.stimuli import Post
from routilux_mp._core.topology import ErrorSpec
from tests.unit.core.core_bench import ERROR, OnBench, retry, routine


def _entries(bench: OnBench) -> list[tuple[str, str]]:
    fold = HistoryFold()
    found = []
    for record in bench.log:
        for entry in fold.entries(record):
            name = bench.topology.routines[entry.routine].routine_id
            found += [(name, entry.event)] * (1 if entry.batch is None else entry.batch.count)
    assert len(found) == bench.job.record_count
    return found


def test_source_and_output_make_three() -> None:
    bench = OnBench(routine("source"), routine("output", events=0), edges=[(0, 0, 1, 0)]).submit()
    bench.run(0, emits={0: 1})
    bench.run(1)
    assert _entries(bench) == [("source", "start"), ("source", "e0"), ("source", "completed")]


def test_source_processor_result_make_four() -> None:
    bench = OnBench(routine("a"), routine("b"), routine("c", events=0), edges=[(0, 0, 1, 0), (1, 0, 2, 0)]).submit()
    bench.run(0, emits={0: 1})
    bench.run(1, emits={0: 1})
    bench.run(2)
    assert _entries(bench) == [("a", "start"), ("a", "e0"), ("a", "completed"), ("b", "e0")]


def test_failed_attempts_are_told() -> None:
    bench = OnBench(
        routine("a", error=retry(1, 0.0)), routine("b", error=ErrorSpec("continue")), edges=[(0, 0, 1, 0)]
    ).submit()
    bench.report(bench.must_give(0), 0, failure=ERROR)
    bench.run(0, emits={0: 1})
    bench.report(bench.must_give(1), 0, failure=ERROR)
    assert _entries(bench) == [
        ("a", "start"),
        ("a", "error"),
        ("a", "e0"),
        ("a", "completed"),
        ("b", "error_continued"),
    ]


def test_an_entry_that_only_commits_a_cursor_is_not_completed_yet() -> None:
    bench = OnBench(routine("a")).submit()
    work = bench.must_give(0)
    bench.report(work, 0, emits={0: 2}, cursor=b"2", is_last=False)
    assert _entries(bench) == [("a", "start"), ("a", "e0"), ("a", "e0")]
    bench.report(work, 1)
    assert _entries(bench)[-1] == ("a", "completed")


def test_posts_begin_nothing() -> None:
    bench = OnBench(routine("a")).submit(0)
    bench.happen(Post(0, 0, Batch(1, b".")))
    assert _entries(bench) == []
