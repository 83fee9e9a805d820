"""Whatever a handler emits arrives as it was, whichever way it is packed, and beside whatever else."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from routilux_mp import Routine
from routilux_mp._core.stimuli import Completion
from routilux_mp._core.topology import RoutineSpec, Topology
from routilux_mp._serialization.batch import decode_batch
from routilux_mp._worker.jobs import JobHere
from routilux_mp._worker.liveness import Page
from routilux_mp._worker.transaction import Transaction
from routilux_mp._worker.wire import JobInfo
from tests.property.test_codec_round_trip import characters, mixed, plain, same


class Own:
    """The routine of the one job here."""

    def __init__(self) -> None:
        self._routine = Routine()
        self._routine.add_event("out")

    def routine(self, routine_id: str) -> Routine:
        return self._routine


@given(
    st.lists(st.dictionaries(characters, st.one_of(plain, mixed), max_size=3), min_size=1, max_size=5),
    st.integers(1, 3), st.integers(1, 100),
)  # fmt: skip
def test_emissions_arrive_as_they_were(values: list[dict[str, Any]], count_max: int, bytes_max: int) -> None:
    sent: list[Completion] = []
    page = Page()
    transaction = Transaction(lambda job_id, completion: sent.append(completion), page.numbers, lambda: None)
    topology = Topology("f", "concurrent", (RoutineSpec("r", "Routine", ("in",), ("out",)),), ())
    info = JobInfo(
        "j", "c", "f", topology.to_plain(), keys=(b"k" * 32,), batch_count_max=count_max, batch_bytes_max=bytes_max
    )  # fmt: skip
    routines = Own()
    job = JobHere(info, routines)
    transaction.open(job, job.routine(0), 1, 1)
    for value in values:
        transaction.emit(routines.routine("r"), "out", value)
    transaction.succeed(0)
    transaction.flush(is_last=True)
    page.close()
    batches = [emit.batch for completion in sent for emit in completion.emits]
    place = job.routine(0).place_of("out")
    found = [item for batch in batches for item in decode_batch(batch.data or b"", job.signer, place)]
    assert [batch.count for batch in batches if batch.count > count_max] == []
    assert same(found, values)
