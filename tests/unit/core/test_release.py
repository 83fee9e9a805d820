"""``ordered=True``: what is read as results comes in the order in which it was released."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.plain import to_plain
from routilux_mp._core.records import Adopted, Durable
from routilux_mp._core.stimuli import Completion, Emit, Retry, WorkerLost
from routilux_mp._core.topology import ErrorSpec
from routilux_mp._storage.codec import decode_record, encode_record
from routilux_mp._worker.records import results_of
from tests.unit.core.core_bench import CRASH, ERROR, SECOND, OnBench, retry, routine


def _bench(**fields: Any) -> OnBench:
    return OnBench(routine("a", workers=3, is_ordered=True, **fields)).submit(6)


def _done(bench: OnBench, work: Any, text: str, **report: Any) -> None:
    emits = (Emit(0, Batch(len(text), text.encode())),)
    bench.happen(Completion(work.dispatch, report.pop("done", len(text)), emits, **report))


def _read(bench: OnBench, log: Sequence[Durable] | None = None) -> str:
    records = [decode_record(encode_record(record)) for record in (bench.log if log is None else log)]

    def decode(batch: Batch, _: bytes) -> list[Any]:
        return list((batch.data or b"").decode())

    found = results_of("j", bench.topology, 0, 0, records, decode, _no_value)
    return "".join(found)  # type: ignore[arg-type]


def _no_value(data: bytes, place: bytes) -> Any:
    return {}


def test_results_wait_for_those_of_earlier_inputs() -> None:
    bench = _bench()
    first, second, third = (bench.must_give(0, worker=n, count=2) for n in (1, 2, 3))
    _done(bench, third, "ef")
    assert _read(bench) == ""
    _done(bench, first, "ab")
    assert _read(bench) == "ab"
    _done(bench, second, "cd")
    assert (_read(bench), bench.job.results[(0, 0)], bench.job.status) == ("abcdef", 6, "completed")


@pytest.mark.parametrize("strategy", ["continue", "skip"])
def test_what_failed_for_good_frees_its_place(strategy: str) -> None:
    bench = _bench(error=ErrorSpec(strategy))
    first, second = (bench.must_give(0, worker=n, count=3) for n in (1, 2))
    _done(bench, second, "def")
    bench.report(first, 0, failure=ERROR)
    assert _read(bench) == ""
    _done(bench, bench.must_give(0), "bc")
    assert _read(bench) == "bcdef"


def test_a_retry_holds_the_others_up() -> None:
    bench = _bench(error=retry(3, 1.0))
    first, second = (bench.must_give(0, worker=n, count=3) for n in (1, 2))
    _done(bench, second, "def")
    bench.report(first, 0, failure=ERROR)
    _done(bench, bench.must_give(0), "bc")
    assert _read(bench) == ""
    bench.now += SECOND
    _done(bench, bench.must_give(0), "a")
    assert _read(bench) == "abcdef"


def test_a_dead_letter_comes_when_it_is_revived() -> None:
    bench = OnBench(routine("a", workers=2, is_ordered=True, error=ErrorSpec("continue")), max_crashes=1).submit(3)
    work = bench.must_give(0, worker=1, count=1)
    other = bench.must_give(0, worker=2, count=1)
    bench.happen(WorkerLost(1, work.dispatch, 0, CRASH))
    _done(bench, other, "b")
    assert _read(bench) == "b"
    bench.happen(Retry())
    again = bench.must_give(0, worker=3)
    _done(bench, again, "a")
    assert _read(bench) == "ba"


def test_a_cursor_lets_out_what_was_committed_so_far() -> None:
    bench = _bench()
    first, second = (bench.must_give(0, worker=n, count=1) for n in (1, 2))
    _done(bench, second, "c")
    _done(bench, first, "a", done=0, cursor=b"1", is_last=False)
    assert _read(bench) == "a"
    _done(bench, first, "b", done=1)
    assert _read(bench) == "abc"


def test_a_job_that_came_in_a_document_goes_on_where_its_order_was() -> None:
    bench = _bench()
    first, second = (bench.must_give(0, worker=n, count=1) for n in (1, 2))
    _done(bench, second, "b")
    begin = Adopted(1, "f", to_plain(bench.job))
    before = len(bench.log)
    _done(bench, first, "a")
    _done(bench, bench.must_give(0), "cdef")
    assert _read(bench, [begin, *bench.log[before:]]) == "acdef", "what was held back is in the document's own history"
