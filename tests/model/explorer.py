"""All reachable states of the protocol, breadth first, so that a counterexample is a shortest one.

What a process may do depends on the disk and on itself only, so disks and processes are numbered
and the moves of each pair are worked out once; a state is a handful of small numbers in one integer.
All processes run the same code, so states that differ in who is who are one (processes are sorted).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from tests.model.invariants import check_acknowledged, check_disk, check_growth
from tests.model.protocol import moves, power_cut
from tests.model.state import Disk, Move, Process, Rules, Size, Tasks, Violation, first_disk

_BITS = 20
_MASK = (1 << _BITS) - 1


@dataclass(frozen=True)
class Result:
    """What exploring found; no `violation`: no reachable state breaks an invariant."""

    states: int
    transitions: int
    violation: str | None = None
    trace: list[str] = field(default_factory=list)


class State(NamedTuple):
    """One state, by the numbers of its parts."""

    disk: int
    acknowledged: int
    crashes: int
    processes: tuple[int, ...]


class _Step(NamedTuple):
    disk: int
    process: int
    acknowledged: int | None
    is_crash: bool


class Interned:
    """Values numbered in the order in which they are first met."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, value: Hashable) -> int:
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self.values)
            self.values.append(value)
            assert found <= _MASK, "more distinct parts than a state has room for"
        return found


class Explorer:
    """Explores one variant; `damaged_max` None: what readers read is not checked, only what owners do."""

    def __init__(self, rules: Rules, size: Size, damaged_max: int | None = 2) -> None:
        self._rules = rules
        self._size = size
        self._damaged_max = damaged_max
        self._disks, self._processes, self._acknowledged = Interned(), Interned(), Interned()
        self._moves: dict[int, list[_Step] | Violation] = {}
        self._checked: set[int] = set()

    def run(self) -> Result:
        """Every reachable state, or the shortest way to a violation."""
        start = self._start()
        came_from: dict[int, int] = {start: -1}
        queue = deque([start])
        transitions = 0
        while queue:
            last = code = queue.popleft()
            try:
                for following in self._successors(code):
                    transitions += 1
                    if following not in came_from:
                        came_from[following] = code
                        last = following
                        self._check(following)
                        last = code
                        queue.append(following)
            except Violation as violation:
                return Result(len(came_from), transitions, str(violation), self._trace(came_from, last))
        return Result(len(came_from), transitions)

    def disks(self) -> list[Disk]:
        """Every disk that was met, to see that a rule was put to the test at all."""
        return list(self._disks.values)

    # -- states as integers ---------------------------------------------------------------------

    def _start(self) -> int:
        owner = self._processes.number(Process("own", 1, 1))
        idle = self._processes.number(Process())
        return self._code(
            State(
                self._disks.number(first_disk(self._size)),
                self._acknowledged.number(()),
                self._size.crashes,
                (owner, *(idle,) * (self._size.processes - 1)),
            )
        )

    def _code(self, state: State) -> int:
        code = (state.disk << _BITS | state.acknowledged) << 2 | state.crashes
        for process in sorted(state.processes):
            code = code << _BITS | process
        return code

    def _state(self, code: int) -> State:
        processes = []
        for _ in range(self._size.processes):
            processes.append(code & _MASK)
            code >>= _BITS
        crashes, code = code & 3, code >> 2
        return State(code >> _BITS, code & _MASK, crashes, tuple(processes))

    # -- the search -------------------------------------------------------------------------------

    def _successors(self, code: int) -> Iterator[int]:
        disk, acknowledged, crashes, processes = self._state(code)
        previous = -1
        for index, process in enumerate(processes):
            if process == previous:
                continue  # its twin has just done the same
            previous = process
            others = processes[:index] + processes[index + 1 :]
            for step in self._steps(disk, process):
                if step.is_crash and not crashes:
                    continue
                reported = acknowledged
                if step.acknowledged is not None:
                    reported = self._report(acknowledged, step.acknowledged)
                yield self._code(State(step.disk, reported, crashes - step.is_crash, (*others, step.process)))
        if crashes:
            after = self._disks.number(power_cut(self._disks.values[disk]))
            idle = self._processes.number(Process())
            yield self._code(State(after, acknowledged, crashes - 1, (idle,) * len(processes)))

    def _steps(self, disk: int, process: int) -> list[_Step]:
        key = disk << _BITS | process
        found = self._moves.get(key)
        if found is None:
            try:
                found = [self._step(disk, move) for move in self._all_moves(disk, process)]
            except Violation as violation:
                found = violation
            self._moves[key] = found
        if isinstance(found, Violation):
            raise found
        return found

    def _all_moves(self, disk: int, process: int) -> Iterator[Move]:
        return moves(self._disks.values[disk], self._processes.values[process], self._rules, self._size)

    def _step(self, disk: int, move: Move) -> _Step:
        after = self._disks.number(move.disk)
        if after != disk:
            check_growth(self._disks.values[disk], move.disk)
        return _Step(after, self._processes.number(move.process), move.acknowledged, move.is_crash)

    def _report(self, acknowledged: int, task: int) -> int:
        tasks: Tasks = self._acknowledged.values[acknowledged]
        return self._acknowledged.number(tuple(sorted((*tasks, task))))

    def _check(self, code: int) -> None:
        state = self._state(code)
        key = state.disk << _BITS | state.acknowledged
        if key in self._checked:
            return
        self._checked.add(key)
        disk: Disk = self._disks.values[state.disk]
        check_acknowledged(disk, self._acknowledged.values[state.acknowledged])
        if self._damaged_max is not None:
            check_disk(disk, self._rules, self._damaged_max)

    # -- the way to a state -------------------------------------------------------------------------

    def _trace(self, came_from: dict[int, int], code: int) -> list[str]:
        path = [code]
        while came_from[path[-1]] >= 0:
            path.append(came_from[path[-1]])
        path.reverse()
        return [self._label(before, after) for before, after in pairwise(path)]

    def _label(self, before: int, after: int) -> str:
        disk, acknowledged, crashes, processes = self._state(before)
        for index, process in enumerate(processes):
            others = processes[:index] + processes[index + 1 :]
            for move in self._all_moves(disk, process):
                step = self._step(disk, move)
                reported = acknowledged if step.acknowledged is None else self._report(acknowledged, step.acknowledged)
                if self._code(State(step.disk, reported, crashes - step.is_crash, (*others, step.process))) == after:
                    was: Process = self._processes.values[process]
                    who = f"{was.role} of {was.epoch}" if was.epoch else was.role
                    return f"{who}: {move.label}"
        return "power cut"
