"""Replaying any prefix of the records gives the job as it was then, and what is outstanding is the same."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from routilux_mp._core.batch import Batch
from routilux_mp._core.invariants import check
from routilux_mp._core.job import Job, Run
from routilux_mp._core.outstanding import outstanding
from routilux_mp._core.step import replay
from routilux_mp._core.stimuli import (
    Cancel,
    Close,
    Edit,
    HandedBack,
    Pause,
    Post,
    Resume,
    Retry,
    Skip,
    Tick,
    WorkerLost,
)
from routilux_mp._core.topology import ErrorSpec, PolicySpec
from routilux_mp._storage.codec import decode_record, decode_snapshot, encode_record, encode_snapshot
from tests.unit.core.core_bench import CRASH, ERROR, SECOND, TIMEOUT, OnBench, add, retry, routine, set_to

ERRORS = (None, ErrorSpec("stop"), ErrorSpec("continue"), ErrorSpec("skip"), retry(2, 0.5))
POLICIES = (PolicySpec(), PolicySpec("batch_size", 2), PolicySpec("all_slots_ready"), PolicySpec("upstream_done"))


@st.composite
def benches(draw: st.DrawFn) -> OnBench:
    """A diamond: one source, two in the middle, one join; with every kind of rule."""

    def one(name: str, slots: int, policy: PolicySpec) -> Any:
        return routine(
            name, slots=slots, policy=policy, error=draw(st.sampled_from(ERRORS)),
            workers=draw(st.sampled_from((1, 2, 0))), is_ordered=draw(st.booleans()),
            queue_max=draw(st.sampled_from((1, 3, 1000))),
        )  # fmt: skip

    bench = OnBench(
        one("a", 1, PolicySpec()), one("b", 1, PolicySpec()), one("c", 1, draw(st.sampled_from(POLICIES[:2]))),
        one("d", 2, draw(st.sampled_from(POLICIES))), edges=[(0, 0, 1, 0), (0, 0, 2, 0), (1, 0, 3, 0), (2, 0, 3, 1)],
        strategy=draw(st.sampled_from(("concurrent", "sequential"))), max_crashes=2,
    )  # fmt: skip
    return bench.submit(draw(st.sampled_from((0, 1, 5))))


def _something(draw: st.DrawFn, bench: OnBench, works: dict[int, Any]) -> None:
    """One thing that may happen to a job at this moment."""
    job = bench.job
    open_works = [works[n] for n in job.dispatches]
    kinds = ["give"] * 4 + ["report"] * 5 * bool(open_works) + ["lost", "tick", "back"] * bool(open_works)
    kinds += ["pause", "resume", "post", "close", "tick", "revive", "drop", "cancel", "edit"]
    match draw(st.sampled_from(kinds)):
        case "give":
            work = bench.give(draw(st.integers(0, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4)))
            if work is not None:
                works[work.dispatch] = work
        case "report":
            work = draw(st.sampled_from(open_works))
            d = job.dispatches[work.dispatch]
            left = sum(item.count for item in d.items) + (d.special >= 0)
            done = draw(st.integers(0, left))
            ops = [add("n", 1), set_to("k", b"v")][: draw(st.integers(0, 2))]
            emits = {0: draw(st.integers(1, 3))} if done and draw(st.booleans()) else None
            fails = done < left and draw(st.booleans())
            cursor = b"c" if done < left and draw(st.integers(0, 3)) == 0 else None
            bench.report(
                work, done, emits=emits, ops=ops if done else (),
                reads=[("", "k")] if done == 1 and len(ops) > 1 else (), cursor=cursor,
                failure=draw(st.sampled_from((ERROR, TIMEOUT))) if fails else None,
                is_last=fails or (done == left and cursor is None) or draw(st.booleans()),
            )  # fmt: skip
        case "lost":
            work = draw(st.sampled_from(open_works))
            d = job.dispatches[work.dispatch]
            left = sum(item.count for item in d.items) + (d.special >= 0)
            index = d.reported + draw(st.integers(0, max(0, left - 1))) if left else -1
            bench.happen(WorkerLost(d.worker, work.dispatch, index, draw(st.sampled_from((CRASH, TIMEOUT, None)))))
        case "back":
            bench.happen(HandedBack(draw(st.integers(1, 3))))
        case "tick":
            bench.now += draw(st.sampled_from((1, SECOND)))
            bench.happen(Tick())
        case "pause":
            bench.happen(Pause("p"))
        case "resume":
            bench.happen(Resume())
        case "post":
            bench.happen(Post(0, 0, Batch(1, b"p")))
        case "close":
            bench.happen(Close())
        case "revive":
            if not job.is_terminal:
                bench.happen(Retry())
        case "drop":
            if not job.is_terminal:
                bench.happen(Skip())
        case "edit":
            number = draw(st.integers(0, 3))
            seqs = st.integers(0, max(0, job.routines[number].next_seq - 1) if job.routines else 0)
            priorities = tuple((number, draw(seqs), draw(st.integers(-1, 2))) for _ in range(draw(st.integers(0, 3))))
            inputs = ((number, draw(seqs), Batch(1, b"e")),) if draw(st.booleans()) else ()
            due_now = ((number, draw(seqs)),) if draw(st.booleans()) else ()
            posts = ((0, 0, Batch(1, b"p"), draw(st.integers(0, 1))),) if draw(st.booleans()) else ()
            bench.happen(Edit(inputs, posts, priorities, due_now))
        case "cancel":
            if draw(st.integers(0, 4)) == 0:
                bench.happen(Cancel("c"))


def _picture(job: Job) -> dict[str, Any]:
    """What must be the same, however the queues are cut into runs."""
    owed = {
        (o.routine, o.item.seq + i): (o.attempt, o.due_ns, o.cursor, _input(o.item, i))
        for o in outstanding(job)
        for i in range(o.item.count)
    }
    return {
        "job": (job.status, job.closing, job.activations, job.record_count, job.is_open, job.results, job.pause_points),
        "owed": owed,
        "state": job.state,
        "framework": job.framework,
        "dead": [(d.routine, d.seq) for d in job.dead_letters],
        "routines": [
            (r.queued, r.next_seq, r.next_release, r.has_fired, r.has_run, r.done, sorted(r.held_emits))
            for r in job.routines
        ],
    }


def _input(item: Any, index: int) -> Any:
    if isinstance(item, Run):
        return item.batch.data[item.start + index : item.start + index + 1] if item.batch.data else None
    return len(item.runs)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_replay_of_any_prefix_is_the_job_as_it_was(data: st.DataObject) -> None:
    draw = data.draw
    bench = draw(benches())
    works: dict[int, Any] = {}
    encoded: list[bytes] = []
    followed, snapshot, since = Job("j"), None, 0
    for turn in range(draw(st.integers(1, 40))):
        _something(draw, bench, works)
        new = [encode_record(record) for record in bench.log[len(encoded) :]]
        encoded += new
        replay(followed, [decode_record(item) for item in new])  # type: ignore[misc]
        assert _picture(followed) == _picture(bench.job)
        if turn == 10:
            snapshot, since = encode_snapshot(bench.job), len(encoded)
    check(followed)
    if snapshot is not None:
        restored = Job("j")
        decode_snapshot(snapshot, restored)
        replay(restored, [decode_record(item) for item in encoded[since:]])  # type: ignore[misc]
        check(restored)
        assert _picture(restored) == _picture(bench.job)
