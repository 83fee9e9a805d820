"""A job as its caller holds it. Methods may be called from any thread; the loop does what they ask."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from typing import TYPE_CHECKING, Any

from .._core import outstanding
from .._core.batch import Batch
from .._core.job import DeadLetter, Group, Item
from .._core.records import Durable
from .._core.stimuli import Annotate, Cancel, Close, Pause, Post, Resume, StateOp, Stimulus
from .._core.view import JobView
from .._serialization.batch import Unreadable, decode_batch, decode_value
from .._serialization.limits import check_written
from .._serialization.places import emission_place, slot_place
from .._storage.codec import batches_of, decode_record
from .._storage.reader import LogRef
from .._storage.store import Store
from .._worker.records import HistoryItem, OutputItem, Ran, history_of, log_of, outputs_of, results_of, told_of
from ..errors import RoutiluxError, RuntimeClosed, UnknownName
from .cut import Cut, Taken, take, task_of
from .live import LiveJob
from .onlooker import check_event
from .patience import settle, wait_until_durable

if TYPE_CHECKING:
    from .._storage.replay import JobLog
    from .compiled import Edits
    from .supervisor import Supervisor

#: In place of a version: there is nothing to write to any more.
_ENDED, _ENDING = -1, -2


class JobHandle:
    """One job of this process: running here, or ended here."""

    def __init__(self, supervisor: Supervisor, live: LiveJob) -> None:
        self._supervisor = supervisor
        self._live = live
        self._signer = supervisor.signer
        self.job_id = live.job.job_id
        #: Outputs that earlier owners of the job have sent.
        self.sent_before = live.sent_before
        #: Entries of the history that they have made.
        self.recorded_before = live.recorded_before
        #: Activations that have returned under them.
        self.ran_before = live.ran_before
        #: Brings outputs to the caller, and tells hooks; their threads are waited for when the supervisor leaves.
        self.delivery: Any = None
        self.observer: Any = None

    def that_opens_nothing(self) -> JobHandle:
        """The same job for those who write about it: users' objects are passed on as they are stored."""
        other = copy(self)
        other._signer = self._signer.that_opens_nothing()
        return other

    @property
    def live(self) -> LiveJob:
        """The job in the loop; for the supervisor."""
        return self._live

    @property
    def view(self) -> JobView:
        """What the job looks like: the newest durable picture."""
        return self._live.view

    @property
    def lost(self) -> BaseException | None:
        """Why this process does not own the job any more; None while it does or once it has ended."""
        return self._live.lost

    def wait(self, predicate: Callable[[JobView], bool], timeout_s: float | None = None) -> bool:
        """Wait until the published view satisfies ``predicate``; False after ``timeout_s``.

        Raises:
            Fenced, OutcomeUnknown, BackendError: the job was given up before.
        """
        live = self._live
        with live.changed, live.waiting_for(predicate):
            live.changed.wait_for(lambda: predicate(live.view) or live.lost is not None, timeout_s)
            if predicate(live.view):
                return True
            if live.lost is not None:
                raise live.lost
            return False

    def wait_sealed(self, timeout_s: float | None = None) -> bool:
        """Wait until the ended job is sealed and its views are written."""
        with self._live.changed:
            return self._live.changed.wait_for(lambda: self._live.is_finished or self._live.lost is not None, timeout_s)

    # -- commands -----------------------------------------------------------------------------

    def pause(
        self, reason: str = "", checkpoint: bytes = b"", timeout_s: float | None = None, *, is_offer: bool = False
    ) -> bool:
        """Pause, and wait until the job is paused or has ended. False after ``timeout_s``; the wish stands.

        ``is_offer``: it is sealed for hand-over then, and whoever takes it over goes on with it.
        """
        points = len(self.view.pause_points)
        if not self._tell(Pause(reason, checkpoint, is_offer)):
            return False
        return self.wait(lambda v: len(v.pause_points) > points or v.is_terminal, timeout_s)

    def resume(self, edits: Edits | None = None) -> None:
        """Go on after a pause; returns once that is durable. StorageBlocked: as of :meth:`annotate`."""
        had = bool(self.view.deferred)
        if edits is not None:
            self.edit(edits)  # nothing is waited for before all is told: a disk that takes nothing must not lose half
        if self._tell(Resume()):
            wait_until_durable(self, lambda v: "paused" not in (v.status, v.closing) and not (had and v.is_resting))
        if edits is not None:
            settle(self, self._live, self._supervisor)

    def cancel(self, reason: str = "", timeout_s: float | None = None) -> bool:
        """Cancel, and wait until the job has ended. False after ``timeout_s``; the wish stands."""
        return self._tell(Cancel(reason)) and self.wait(lambda v: v.is_terminal, timeout_s)

    def annotate(self, ops: Sequence[StateOp]) -> None:
        """Write state from outside; durable when it returns.

        Raises:
            RuntimeClosed: the job has ended, or its runtime; nothing was written.
            EmissionNotSerializable: a value is larger than ``value_bytes_max``.
            StorageBlocked: the disk takes nothing for long; it is kept, and written when it can be.
        """
        check_written(ops, self._supervisor.settings.value_bytes_max)
        self._tell(Annotate(tuple(ops)), settle=True)

    def post(self, routine: str, slot: str, params: dict[str, Any]) -> None:
        """Put data into a slot from outside the flow; durable when it returns.

        Raises:
            ValueError: the flow has no such slot.
            RuntimeClosed: the job has ended, or is ending; nothing was put anywhere.
            StorageBlocked: as of :meth:`annotate`.
        """
        topology = self._live.job.topology
        number = topology.index_of(routine)
        if number is None:
            raise UnknownName(f"Routine '{routine}' not found in flow")
        slots = topology.routines[number].slots
        if slot not in slots:
            raise UnknownName(f"Slot '{slot}' not found in routine '{routine}'")
        batch = self._supervisor.encode(params, slot_place(self.job_id, routine, slot))
        self._tell(Post(number, slots.index(slot), batch), settle=True)

    def close_input(self) -> None:
        """Nothing more will be posted: the job completes when it is quiet."""
        self._tell(Close())

    def _tell(self, stimulus: Stimulus, settle: bool = False) -> bool:
        """Let the loop do it. False when the caller is a handler in the loop's own thread: it is then a wish."""
        live = self._live

        def happen() -> int:
            if isinstance(stimulus, (Annotate, Post)) and live.job.is_terminal:
                return _ENDED
            if isinstance(stimulus, Post) and live.job.closing and live.job.closing[0] != "paused":
                return _ENDING
            if self.job_id in loop.jobs:
                loop.happen(live, stimulus, self._supervisor.clock.now_ns())
                live.is_dirty = True
            return live.version + 1

        loop = self._supervisor.loop
        version = self._supervisor.call(happen)
        if version is None:
            return False
        if version == _ENDED:  # it did meanwhile: the caller's picture is to show that first
            wait_until_durable(self, lambda v: v.is_terminal, is_kept=False)
            raise RuntimeClosed(f"job '{self.job_id}' has ended")
        if version == _ENDING:
            raise RuntimeClosed(f"job '{self.job_id}' is ending: what is put into it now would never run")
        if settle and not live.view.is_terminal:
            wait_until_durable(self, lambda v: v.version >= version or v.is_terminal)
        return True

    # -- reading ------------------------------------------------------------------------------

    def history(self) -> Iterator[HistoryItem]:
        """The execution history, complete, in commit order, read as it is asked for."""
        with self._records() as records:
            yield from self._history_of(records)

    def results(self, routine: str, event: str) -> Iterator[dict[str, Any]]:
        """What was emitted on an event that is connected to nothing; each exactly once.

        Raises:
            ValueError: no such routine or event.
        """
        number, index = self.check_event(routine, event)
        topology = self._live.job.topology
        with self._records() as records:
            yield from results_of(self.job_id, topology, number, index, records, self._decode, self._decode_value)

    def shared_log(self) -> Iterator[Any]:
        """The entries of the shared log, in commit order."""
        with self._records() as records:
            yield from log_of(self.job_id, records, self._decode_value)

    def outputs(self) -> Iterator[OutputItem]:
        """What routines sent with ``send_output``, in commit order."""
        with self._records() as records:
            yield from outputs_of(self.job_id, records, self._decode_value)

    def pending(self) -> list[dict[str, Any]]:
        """Activations that have not returned, in order per routine."""
        job = self._live.job
        return self.tasks(self._supervisor.look(lambda: outstanding.outstanding(job)))

    def tasks(self, owed: Sequence[outstanding.Owed]) -> list[dict[str, Any]]:
        """What is owed, as it is shown to people."""
        job = self._live.job
        out: list[dict[str, Any]] = []
        for one in owed:
            spec = job.topology.routines[one.routine]
            for seq, slot, data in self._inputs(one.routine, one.item):
                out.append(task_of(self.job_id, spec.routine_id, one, seq, slot, data))
        return out

    def input_of(self, letter: DeadLetter) -> tuple[str | None, Any]:
        """(slot, data) that a dead letter was given; of a logic, all its slots together.

        Raises:
            RoutiluxError: the input cannot be read here.
        """
        ((_, slot, data),) = self._inputs(letter.routine, letter.item)
        return slot, data

    def cut(self, *, is_durable: bool, bytes_max: int | None = None) -> Cut:
        """The job at one commit, without its payloads where they are more than ``bytes_max``.

        ``is_durable``: wait until that stands or the job is blocked; never so in a thread that commits wait for.
        """
        live, supervisor = self._live, self._supervisor

        def taken_now() -> tuple[Taken, bool]:
            is_settled = live.is_finished or (not live.records and live.in_flight is None)
            if not is_settled:
                supervisor.loop.show(live)  # a view that shows at least this much
            return take(live.job, live.version + 1, supervisor.clock.now_ns()), is_settled

        taken, is_settled = (last, True) if (last := live.last_cut) is not None else supervisor.look(taken_now)
        if is_durable and not is_settled and supervisor.may_wait and live.blocked is None:
            with suppress(RoutiluxError):  # the job has left this process: what is there stands
                self.wait(lambda v: v.version >= taken.version or v.is_terminal or v.blocked is not None)
        return Cut(self, taken, supervisor.settings, bytes_max)

    @property
    def found_ns(self) -> int:
        """When the job had changed last, as this process found it in its log; 0: it began here."""
        return self._live.found_ns

    def edit(self, edits: Edits) -> None:
        """Do what was changed in a document of the job; durable once that is waited for."""
        for one in self._supervisor.look(lambda: tuple(edits(self._live.job))):
            if isinstance(one, Annotate):
                check_written(one.ops, self._supervisor.settings.value_bytes_max)
            self._tell(one)

    def newest_history(self, count: int, bytes_max: int | None = None) -> list[HistoryItem]:
        """The last ``count`` entries of the history, not read from its beginning where that can be avoided.

        Fewer when their records take more than ``bytes_max``.
        """
        if self._live.memory is not None or self._live.recent.records() is not None:
            return list(self.history())[-count:] if count else []
        found: deque[HistoryItem] = deque(maxlen=count)
        with Store(self._supervisor.store.path, self._supervisor.settings) as store:
            for frames in store.read(self.job_id).backwards(bytes_max):
                # From the end, one by one: what is not shown is not decoded, and there may be millions.
                while frames and len(found) < count:
                    ref, data = frames.pop()
                    record = decode_record(data, tuple(ref))  # type: ignore[arg-type]
                    found.extendleft(reversed(list(self._history_of([record]))[len(found) - count :]))
                if len(found) >= count:
                    break
        return list(found)

    def payload_of(self, batch: Batch) -> bytes | memoryview:
        """The payload of a batch whose bytes are not in memory, wherever it lies."""
        assert batch.ref is not None, "what is neither in memory nor in the log does not exist"
        with Store(self._supervisor.store.path, self._supervisor.settings) as store:
            epoch, commit, frame, number = batch.ref
            record = decode_record(store.read_frame(self.job_id, LogRef(epoch, commit, frame)))
        return self.open_payload(list(batches_of(record))[number].data or b"")

    def open_payload(self, data: bytes) -> bytes | memoryview:
        """The payload, out of its blob if it lies in one."""
        return self._supervisor.payloads(self._live).open(data)

    def _inputs(self, routine: int, item: Item) -> Iterator[tuple[int, str | None, Any]]:
        spec = self._live.job.topology.routines[routine]
        if isinstance(item, Group):
            values: dict[str, list[Any]] = {slot: [] for slot in spec.slots}
            for run in item.runs:
                values[spec.slots[run.slot]] += self._run_values(routine, run.connection, run.slot, run.batch, run)
            yield item.seq, None, values
            return
        slot = spec.slots[item.slot]
        for offset, value in enumerate(self._run_values(routine, item.connection, item.slot, item.batch, item)):
            yield item.seq + offset, slot, value

    def _run_values(self, routine: int, connection: int, slot: int, batch: Batch, run: Any) -> list[Any]:
        topology = self._live.job.topology
        if connection < 0:
            spec = topology.routines[routine]
            place = slot_place(self.job_id, spec.routine_id, spec.slots[slot])
        else:
            source, event, _, _ = topology.connections[connection]
            spec = topology.routines[source]
            place = emission_place(self.job_id, spec.routine_id, spec.events[event])
        return self._decode(batch, place)[run.start : run.start + run.count]

    @contextmanager
    def following_outputs(self) -> Iterator[Callable[[], Iterator[OutputItem]]]:
        """A function that gives the outputs which have become durable since it was called last."""
        with self._following() as new:
            yield lambda: outputs_of(self.job_id, new(), self._decode_value)

    @contextmanager
    def following_history(self) -> Iterator[Callable[[], Iterator[HistoryItem | Ran]]]:
        """The same for the history, and for what ran."""
        job = self._live.job
        with self._following() as new:
            yield lambda: told_of(
                self.job_id, job.topology, new(), self._decode, self._decode_value, job.entry, job.entry_slot
            )

    @contextmanager
    def _following(self) -> Iterator[Callable[[], Iterator[Durable]]]:
        memory = self._live.memory
        if memory is not None:
            last: Durable | None = None

            def of_memory() -> Iterator[Durable]:
                nonlocal last
                records = memory.records()
                seen = next((i for i, record in enumerate(records) if record is last), -1)
                last = records[-1] if records else None
                yield from records[seen + 1 :]

            yield of_memory
            return
        with Store(self._supervisor.store.path, self._supervisor.settings) as store:
            reading: JobLog | None = None

            def of_log() -> Iterator[Durable]:
                nonlocal reading
                if reading is None:
                    reading = store.read(self.job_id)
                    frames = reading.history()
                else:
                    reading = reading.after()
                    frames = reading.frames()
                yield from (decode_record(data, tuple(ref)) for ref, data in frames)  # type: ignore[arg-type]

            yield of_log

    def check_event(self, routine: str, event: str) -> tuple[int, int]:
        """The numbers of the routine and of its event; ``ValueError`` unless the job's flow has them."""
        return check_event(self._live.job.topology, routine, event)

    def _history_of(self, records: Iterable[Durable]) -> Iterator[HistoryItem]:
        job = self._live.job
        begin = (job.entry, job.entry_slot)
        return history_of(self.job_id, job.topology, records, self._decode, self._decode_value, *begin)

    def _decode_value(self, data: bytes, place: bytes) -> Any:
        return decode_value(data, self._signer, place)

    def _decode(self, batch: Batch, place: bytes) -> list[Any]:
        data = batch.data if batch.data is not None else self._supervisor.read_batch(self._live, batch)
        values = decode_batch(self._supervisor.payloads(self._live).open(data), self._signer, place)
        for value in values:
            if type(value) is Unreadable:
                raise value.error
        return values

    @contextmanager
    def _records(self) -> Iterator[Iterator[Durable]]:
        if self._live.memory is not None:
            yield iter(self._live.memory.records())
            return
        recent = self._live.recent.records()
        if recent is not None:
            yield iter(recent)
            return
        # A store of its own: the supervisor's may have been closed, and must not be opened again by a reader.
        with Store(self._supervisor.store.path, self._supervisor.settings) as store:
            log = store.read(self.job_id)
            yield (decode_record(data, tuple(ref)) for ref, data in log.history())  # type: ignore[arg-type]
