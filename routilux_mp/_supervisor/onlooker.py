"""Reading what a job has done from its directory, whoever runs it, also while it runs.

Nothing is written and nothing is taken over. The rule it owns: what is given out stands in a commit that was
read, so an onlooker never sees more than the job's owner has made durable, and sees it once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .._core.batch import Batch
from .._core.records import Durable
from .._serialization.batch import Unreadable, decode_batch, decode_value
from .._storage.codec import decode_record
from .._storage.layout import BLOBS
from .._worker.records import results_of
from .._worker.spill import PayloadReader
from ..errors import UnknownName
from ..settings import Settings
from . import recovery

if TYPE_CHECKING:
    from .._core.topology import Topology
    from .._serialization.signing import Signer
    from .._storage.store import Store


class Onlooker:
    """Reads one job."""

    def __init__(self, store: Store, settings: Settings, signer: Signer, job_id: str) -> None:
        self._store = store
        self._settings = settings
        self._signer = signer
        self._job_id = job_id
        self._payloads = PayloadReader(f"{store.view_paths(job_id).job}/{BLOBS}/-", is_copying=True)

    def results(self, routine: str, event: str, *, is_following: bool = False) -> Iterator[dict[str, Any]]:
        """Emissions of an event that is connected to nothing, each once; with ``is_following`` until the job ends.

        Raises:
            UnknownName: there is no such job, routine or event.
            CheckpointDamaged: the log cannot be read to its end.
            SignatureInvalid, KeyUnavailable: an object among them was not signed with a key of this process.
        """
        topology = recovery.read(self._store, self._job_id, self._settings).job.topology
        number, index = check_event(topology, routine, event)
        records = self._records(is_following)
        yield from results_of(self._job_id, topology, number, index, records, self._decode, self._decode_value)

    def _records(self, is_following: bool) -> Iterator[Durable]:
        log = self._store.read(self._job_id)
        frames = log.history()
        while True:
            for ref, data in frames:
                yield decode_record(data, tuple(ref))  # type: ignore[arg-type]
            if not is_following or log.seal_reason == "ended":
                return
            time.sleep(self._settings.poll_s)
            log = log.after()
            frames = log.frames()

    def _decode(self, batch: Batch, place: bytes) -> list[Any]:
        assert batch.data is not None, "what a log says it says whole"
        values = decode_batch(self._payloads.open(batch.data), self._signer, place)
        for value in values:
            if type(value) is Unreadable:
                raise value.error
        return values

    def _decode_value(self, data: bytes, place: bytes) -> Any:
        return decode_value(data, self._signer, place)


def check_event(topology: Topology, routine: str, event: str) -> tuple[int, int]:
    """The numbers of the routine and of its event.

    Raises:
        UnknownName: the job's flow has no such routine or event.
    """
    number = topology.index_of(routine)
    if number is None:
        raise UnknownName(f"Routine '{routine}' not found in flow")
    if event not in topology.routines[number].events:
        raise UnknownName(f"Event '{event}' not found in routine '{routine}'")
    return number, topology.routines[number].events.index(event)
