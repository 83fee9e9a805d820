"""In which order a routine with several events has emitted, as its reports tell it."""

from __future__ import annotations

from typing import Any

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.topology import ConnectionSpec, RoutineSpec, Topology
from routilux_mp._serialization.items import WHOLE
from routilux_mp._worker.batches import Item
from routilux_mp._worker.turns import Turns, outlets_of
from routilux_mp._worker.wire import JobInfo

INFO = JobInfo("j", "c", "f", {}, batch_count_max=3)


def made(events: int, edges: list[tuple[int, int]]) -> tuple[Any, Turns, list[list[Item]]]:
    """``edges``: (event, target) of routine 0."""
    names = tuple(f"e{number}" for number in range(events))
    routines = tuple(RoutineSpec(f"r{n}", "R", ("s",), names) for n in range(3))
    topology = Topology("f", "concurrent", routines, tuple(ConnectionSpec(0, e, target, 0) for e, target in edges))
    lists: list[list[Item]] = [[] for _ in names]
    return *outlets_of(topology, 0, lists), lists


def emit(outlets: Any, events: str) -> None:
    for number, event in enumerate(events):
        outlets.get(f"e{event}").append(bytes((number,)))


def told(turns: Turns, lists: list[list[Item]]) -> tuple[list[tuple[int, int]], bytes]:
    emits, order = turns.assemble(lists, WHOLE, INFO)
    return [(event, batch.count) for event, batch in emits], order


def test_one_event_has_no_order() -> None:
    outlets, turns, lists = made(1, [(0, 1)])
    assert type(outlets) is dict
    emit(outlets, "000")
    turns.mark()
    assert told(turns, lists) == ([(0, 3)], b"")


@pytest.mark.parametrize(
    ("edges", "events", "expected"),
    [
        ([], "0011", ([(0, 2), (1, 2)], b"")),
        ([], "0101", ([(0, 2), (1, 2)], b"\0\1\0\1")),
        ([(0, 1), (1, 2)], "10", ([(0, 1), (1, 1)], b"\1\0")),
        ([(0, 1), (1, 1)], "0011", ([(0, 2), (1, 2)], b"")),
        ([(0, 1), (1, 1)], "1001", ([(1, 1), (0, 2), (1, 1)], b"")),
        ([(0, 1), (1, 1)], "0000010", ([(0, 3), (0, 2), (1, 1), (0, 1)], b"")),
    ],
)
def test_what_a_report_says(edges: list[tuple[int, int]], events: str, expected: Any) -> None:
    outlets, turns, lists = made(2, edges)
    emit(outlets, events)
    turns.mark()
    assert told(turns, lists) == expected


def test_only_what_is_committed_counts_and_it_counts_once() -> None:
    outlets, turns, lists = made(2, [])
    emit(outlets, "10")
    turns.mark()
    emit(outlets, "1")
    assert told(turns, lists)[1] == b"\1\0"
    turns.rollback()
    turns.forget()
    assert told(turns, [[], []])[1] == b""
    emit(outlets, "10")
    turns.clear()
    turns.mark()
    assert told(turns, [[], []]) == ([], b"")


def test_a_whole_batch_is_not_cut() -> None:
    """Much was emitted at once and written: it comes where its first item was."""
    outlets, turns, lists = made(2, [(0, 1), (1, 1)])
    emit(outlets, "0101010")
    lists[0][:] = [Batch(3, b"whole"), lists[0][3]]
    turns.mark()
    emits, _ = turns.assemble(lists, WHOLE, INFO)
    assert [(event, batch.count) for event, batch in emits] == [(0, 3), (1, 1), (1, 1), (1, 1), (0, 1)]


def test_an_unknown_event_is_none() -> None:
    outlets, turns, lists = made(2, [])
    assert outlets.get("nothing") is None
    turns.mark()
    assert told(turns, lists) == ([], b"")
