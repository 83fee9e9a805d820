"""Asking a custom activation policy, in the worker of its routine.

The policy is asked once for every emission, in the order of arrival, each time with everything that is
still there up to that one; so what it answers does not depend on how emissions were batched. Nothing a
policy does to the job's state is kept. The rule owned here: an answer takes the oldest items of each
slot, and exactly those that it returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._core.effects import Work
from .._core.stimuli import Answer
from ..errors import PolicyAnswerInvalid
from ..slot import SlotView
from .failures import reading
from .invoke import map_keys

if TYPE_CHECKING:
    from .jobs import RoutineHere


class _Shelf:
    """What lies in one slot. ``items`` grows as the policy is asked about one arrival after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: list[Any] = []
        self.taken = 0

    def view(self) -> SlotView:
        return SlotView(self.name, self.items[self.taken :])


def answers_of(routine: RoutineHere, work: Work) -> tuple[Answer, ...]:
    """Every yes of the routine's policy to what ``work`` asks it, in order.

    Raises:
        PolicyAnswerInvalid: it is no answer, or takes what it cannot have; naming routine, slot and cure.
        Exception: whatever the policy raises.
    """
    assert work.question is not None
    asked, is_final = work.question
    policy = routine.object._activation_policy
    shelves = {name: _Shelf(name) for name in routine.slots}
    arrivals = sorted(_arrivals(routine, work), key=lambda arrival: arrival[0])
    answers: list[Answer] = []

    def ask(is_last: bool) -> None:
        views = {name: shelf.view() for name, shelf in shelves.items()}
        answer = policy(views, routine.state, final=True) if is_last else policy(views, routine.state)
        taken = _taken(routine, shelves, answer)
        if taken is not None:
            answers.append(Answer(tuple(taken[name] for name in routine.slots), routine.encode_message(answer[2])))
            for name, count in taken.items():
                shelves[name].taken += count

    for number, slot, item in arrivals:
        shelves[slot].items.append(item)
        if number >= asked:
            ask(False)
    if is_final:
        ask(True)
    return tuple(answers)


def _arrivals(routine: RoutineHere, work: Work) -> list[tuple[int, str, Any]]:
    """(number, slot, item as the logic will get it) of everything the policy may look at."""
    found: list[tuple[int, str, Any]] = []
    for first, part in zip(work.seqs, work.parts, strict=True):
        rename = map_keys(routine.mapping_of(part))
        items = reading(routine.decode, part)
        found += [(first + i, routine.slots[part.slot], rename(item)) for i, item in enumerate(items)]
    return found


def _taken(routine: RoutineHere, shelves: Mapping[str, _Shelf], answer: Any) -> dict[str, int] | None:
    """How many items of each slot the answer takes; None for a no."""
    where = f"Routine '{routine.routine_id}': its activation policy"
    should_activate, data_slice, _ = answer
    if not should_activate:
        return None
    if not isinstance(data_slice, Mapping):
        raise PolicyAnswerInvalid(f"{where} must return a dict as data_slice, got {type(data_slice).__name__}")
    taken = dict.fromkeys(shelves, 0)
    for name, items in data_slice.items():
        shelf = shelves.get(name)
        if shelf is None:
            raise PolicyAnswerInvalid(f"{where} takes from slot '{name}'; there are: {', '.join(shelves)}")
        items = list(items)
        oldest = shelf.items[shelf.taken : shelf.taken + len(items)]
        if len(oldest) != len(items) or not all(a is b for a, b in zip(items, oldest, strict=True)):
            raise PolicyAnswerInvalid(
                f"{where} takes {len(items)} items of slot '{name}' that are not the oldest ones there. Return what "
                f"consume_all_new() or consume_one_new() gave, in that order; nothing can be left out or changed"
            )
        taken[name] = len(items)
    return taken
