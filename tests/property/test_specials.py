"""What waits for a retry is found without looking at all of it: the same as by looking at all of it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from routilux_mp._core.batch import Batch
from routilux_mp._core.job import Run, Special
from routilux_mp._core.specials import _SET_BACK_NS, Specials

SECOND = 1_000_000_000
numbers = st.integers(0, 12)
times = st.integers(1, 20).map(lambda n: n * SECOND // 4)
puts = st.tuples(st.just("put"), numbers, st.one_of(st.just(0), times))
takes = st.tuples(st.just("take"), numbers, st.just(0))
looks = st.tuples(st.just("look"), st.just(0), times)


def _special(seq: int, due_ns: int) -> Special:
    return Special(Run(seq, 0, 0, Batch(1, b""), 0, 1, 0), due_ns=due_ns)


@example([("put", 1, 3 * SECOND), ("look", 0, 4 * SECOND), ("look", 0, SECOND)])
@example([("put", 1, 3 * SECOND), ("look", 0, 3 * SECOND), ("look", 0, 5 * SECOND // 2), ("look", 0, 3 * SECOND)])
@example([("put", 1, SECOND), ("look", 0, SECOND), ("put", 1, 3 * SECOND), ("look", 0, 5 * SECOND // 4)])
@given(st.lists(st.one_of(puts, takes, looks), max_size=60))
def test_it_says_what_a_look_at_all_of_them_would_say(steps: list[tuple[str, int, int]]) -> None:
    specials, model, now = Specials(), dict[int, int](), 0
    for what, seq, time_ns in [*steps, ("look", 0, 2 * SECOND)]:
        if what == "put":
            specials[seq] = _special(seq, time_ns)
            model[seq] = time_ns
        elif what == "take" and seq in model:
            assert specials.take(seq).due_ns == model.pop(seq)
        elif what == "look":
            # A little earlier than before: of a step that began earlier. Much earlier: the clock was set back.
            now = time_ns if time_ns < now - _SET_BACK_NS else max(now, time_ns)
            assert list(specials.due(time_ns)) == sorted(q for q, due in model.items() if 0 < due <= now)
            assert specials.next_due_ns(time_ns) == min((due for due in model.values() if due > now), default=0)
        assert set(specials.prompt()) == {q for q, due in model.items() if not due}
        assert {q: special.due_ns for q, special in specials.items()} == model
