"""Much that is committed at once goes into several files, none of which tears apart what happened in one step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from routilux_mp._core.batch import Batch
from routilux_mp._core.job import DeadLetter, Job, RoutineState, Run, Special
from routilux_mp._core.records import Completed, Durable
from routilux_mp._core.stimuli import Emit, Failure, Submit
from routilux_mp._core.topology import Topology
from routilux_mp._storage.codec import batches_of, decode_record
from routilux_mp._storage.reader import LogRef
from routilux_mp._supervisor import live as live_module
from routilux_mp._supervisor.clock import SystemClock
from routilux_mp._supervisor.commits import Commit
from routilux_mp._supervisor.live import LiveJob
from routilux_mp._supervisor.unkept import NullTenure
from routilux_mp.errors import StorageBlocked
from tests.support.memory import MemoryFiles
from tests.support.stores import JOB, make_store
from tests.unit.core.core_bench import routine


class Tenure(NullTenure):
    """Takes commits at (3, 7), (3, 8) …; those in ``full`` are blocked once."""

    def __init__(self, full: Sequence[int] = ()) -> None:
        super().__init__(1)
        self.stands: list[list[bytes]] = []
        self.full = list(full)

    def next_position(self) -> tuple[int, int]:
        return (3, 7 + len(self.stands))

    def commit(self, data: Sequence[bytes]) -> None:
        if len(self.stands) in self.full:
            self.full.remove(len(self.stands))
            raise StorageBlocked
        self.stands.append(list(data))


def _live(tenure: Tenure, steps: Sequence[Sequence[Durable]]) -> LiveJob:
    live = LiveJob(Job("j"), tenure, "code")
    live.memory = None
    for records in steps:
        live.records += records
        live._steps.append(len(live.records))
    return live


def _record(number: int, size: int) -> Completed:
    return Completed(number, 0, (number, 1), (Emit(0, Batch(1, b"a" * size)), Emit(0, Batch(1, b"b" * size))))


def test_a_commit_is_cut_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "COMMIT_BYTES_MAX", 1000)
    records = [_record(n, 200) for n in range(9)]
    live = _live(Tenure(), [records[:1], records[1:4], records[4:5], records[5:9]])
    number, files = live.take_commit(0)
    assert (number, [len(frames) for frames in files]) == (1, [4, 5])
    for record in records:
        for k, (_, batch) in enumerate(record.emits):
            assert batch.ref is not None
            epoch, commit, frame, index = batch.ref
            assert (epoch, index) == (3, k)
            stored = decode_record(files[commit - 7][frame])
            assert isinstance(stored, Completed)
            assert (stored.time_ns, stored.emits[index].batch.data) == (record.time_ns, batch.data)
    assert live.take_commit(0)[1] == [[]], "nothing is left"


def test_little_goes_into_one_file() -> None:
    assert [len(frames) for frames in _live(Tenure(), [[_record(0, 1)], [_record(1, 1)]]).take_commit(0)[1]] == [2]


def test_what_stands_is_not_committed_again_when_the_rest_is_blocked() -> None:
    tenure = Tenure(full=[1, 2])
    commit = Commit(tenure, [[b"1"], [b"2"], [b"3"]], None, [], [], None, SystemClock())
    for _ in range(2):
        with pytest.raises(StorageBlocked):
            commit()
    commit()
    assert tenure.stands == [[b"1"], [b"2"], [b"3"]]


def test_dead_letters_and_retries_are_spilled_and_what_runs_is_not() -> None:
    live = _live(Tenure(), [])
    routine = RoutineState(1)
    live.job.routines = [routine]
    batches = [Batch(1, b"x" * 100, (1, 2, n, 0)) for n in range(3)]
    dead, waiting, coming = batches
    live.job.dead_letters.append(DeadLetter(0, 1, Run(1, 0, 0, dead, 0, 1), Failure("crash", "", ""), 0))
    routine.special[2] = Special(Run(2, 0, 0, waiting, 0, 1))
    coming.ref = None  # not in the log yet
    routine.ready.append(Run(3, 0, 0, coming, 0, 1))
    live.in_flight = 3
    live.spill(0)
    assert all(batch.data for batch in batches), "what is on its way is not in the log either"
    live.in_flight = None
    live.spill(0)
    assert [batch.data is None for batch in batches] == [True, True, False]


def test_what_a_job_begins_with_lies_behind_the_document_of_its_open() -> None:
    topology = Topology("f", "concurrent", (routine("a"),), ())
    batch = Batch(1, b"entry")
    live = LiveJob(Job(JOB), None, "code")
    live.step(Submit("f", topology.to_plain(), 0, 0, batch), 1)
    _, [frames] = live.take_commit(1)
    assert batch.ref is not None
    *place, number = batch.ref
    store = make_store(MemoryFiles())
    live.tenure = store.create(JOB, None, frames)
    record = decode_record(store.read_frame(JOB, LogRef(*place)))
    assert [b.data for b in batches_of(record)][number] == b"entry"
    live.records.append(after := _record(1, 10))
    live._steps.append(1)
    live.stands(1)
    _, [frames] = live.take_commit(2)
    live.tenure.commit(frames)
    assert after.emits[1].batch.ref == (1, 2, 0, 1)
    live.tenure.close()
    store.close()
