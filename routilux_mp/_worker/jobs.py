"""What a worker keeps of a job between activations: its routine objects and its copy of the state.

One routine object per worker and job, made from the flow's code, so that ``self.x`` never leaks
between jobs. Not here: running anything.
"""

from __future__ import annotations

import logging
from operator import itemgetter
from typing import Any, Protocol

from .._core.batch import Batch
from .._core.effects import Part, Work
from .._core.stimuli import StateOp
from .._core.topology import RoutineSpec, Topology
from .._serialization.batch import PlainReader, Unreadable, decode_batch, decode_value, encode_value, is_plain_batch
from .._serialization.limits import check_size
from .._serialization.places import cursor_place, emission_place, log_place, message_place, slot_place, state_place
from .._serialization.signing import Signer
from ..context import Definitions, FlowReference
from ..errors import EmissionNotSerializable, StorageError, UnknownName
from .batches import Item
from .invoke import IMMEDIATE, Call, LogicCall, if_readable, logic_call, map_keys, only_parameter, slot_call
from .notes import SHARED
from .past import LogOnDisk
from .spill import PayloadReader
from .state import ActivationJobState, Key, Raw
from .turns import outlets_of
from .wire import JobInfo

log = logging.getLogger(__name__)

#: Attributes of a routine that are its definition, not state.
_DEFINITION = frozenset(("_id", "_config", "_slots", "_events", "_logic", "_activation_policy", "_error_handler"))

#: Items of a batch that are decoded together: they and what is made of them stay in the processor's nearest cache.
_AT_ONCE = 128


class Routines(Protocol):
    """Where routine objects come from: ``_serialization.code.LoadedCode``, or the caller's own (inline)."""

    def routine(self, routine_id: str) -> Any: ...


class JobHere:
    """One job in one worker."""

    def __init__(self, info: JobInfo, routines: Routines) -> None:
        self._routines = routines
        self._here: dict[int, RoutineHere] = {}
        self.state: dict[Key, Raw] = {}
        self.topology = Topology.from_plain(dict(info.topology))
        self._workers = {spec.routine_id: spec.workers for spec in self.topology.routines}
        self.signer = Signer(info.keys) if info.keys else None
        self._payloads = PayloadReader(info.blob_dir)
        self._reader: PlainReader | None = None
        self._read = b""  # what it reads
        self.past = LogOnDisk(self)
        numbers = {spec.routine_id: number for number, spec in enumerate(self.topology.routines)}
        self.flow = FlowReference(info.flow_id, Definitions(numbers, lambda number: self.routine(number).object))
        self.update(info)

    def update(self, info: JobInfo) -> None:
        """Take over what may change while a job runs: limits, and where blobs go."""
        self.info = info
        self.flush_ns = int(info.flush_ms * 1e6)
        self._payloads.blob_dir = info.blob_dir

    def routine(self, number: int) -> RoutineHere:
        """The routine of this number; made when it is first needed."""
        here = self._here.get(number)
        if here is None:
            spec = self.topology.routines[number]
            here = self._here[number] = RoutineHere(self, spec, self._routines.routine(spec.routine_id))
        return here

    def take_state(self, work: Work) -> None:
        """Bring the copy of the state up to date."""
        if work.is_reset:
            self.state.clear()
            self.past.forget()
        for scope, key, value in work.state:
            if value is None:
                self.state.pop((scope, key), None)
            else:
                self.state[scope, key] = value  # type: ignore[assignment]

    def is_contended(self, scope: str) -> bool:
        """Whether an activation elsewhere may change what is in this scope between a read and a write."""
        return scope == SHARED or self._workers.get(scope, 0) != 1

    def decode_part(self, routine: RoutineHere, part: Part) -> list[Any]:
        """The emissions of a part.

        Raises:
            EmissionNotSerializable: an object among them cannot be built here.
            CheckpointDamaged, SignatureInvalid, KeyUnavailable: see ``decode_batch``.
        """
        source = part.batch.data
        assert source is not None, "the supervisor sends the bytes along"
        data = self._payloads.open(source)
        if part.count == part.batch.count or not is_plain_batch(data):
            return decode_batch(data, self.signer, routine.origin_of(part), part.start, part.count)
        # Slow activations get a batch in many small parts, each in a message of its own.
        if self._reader is None or self._read != source or part.start < self._reader.given:
            self._reader, self._read = PlainReader(data), source
        items = self._reader.take(part.start, part.count)
        if part.start + part.count == part.batch.count:
            self._reader = None
        return items

    def portions(self, part: Part, seq: int) -> list[tuple[Part, int]]:
        """A part whose first activation has this number, as several that are decoded one after another."""
        if part.count <= _AT_ONCE or not self._is_plain(part):
            return [(part, seq)]
        steps = range(0, part.count, _AT_ONCE)
        return [(Part(*part[:3], part.start + n, min(_AT_ONCE, part.count - n)), seq + n) for n in steps]

    def _is_plain(self, part: Part) -> bool:
        try:
            return is_plain_batch(self._payloads.open(part.batch.data or b""))
        except StorageError:
            return False  # whoever decodes it says so

    @property
    def metadata(self) -> dict[str, Any]:
        """The caller's own dictionary, as it was when the job began; a fresh copy at every call."""
        return decode_value(self.info.metadata, None, b"metadata") if self.info.metadata else {}

    def encode_cursor(self, routine: RoutineHere, cursor: Any) -> bytes:
        """A cursor as bytes."""
        return self.encode_at(cursor, routine.cursor_place, f"Routine '{routine.routine_id}', cursor")

    # -- the codec of the state (see ``state.ValueCodec``) ---------------------------------------

    def encode_state(self, scope: str, key: str, value: Any) -> bytes:
        """A value of the shared state as bytes."""
        where = f"state of routine '{scope}'" if scope else "shared data"
        return self.encode_at(value, state_place(self.info.job_id, scope, key), f"{where}, key '{key}'")

    def decode_state(self, scope: str, key: str, data: bytes) -> Any:
        """The value again."""
        return decode_value(data, self.signer, state_place(self.info.job_id, scope, key))

    def decode_log(self, data: bytes) -> Any:
        """The entry again."""
        return self.decode_at(data, log_place(self.info.job_id))

    def encode_deferred(self, routine_id: str, event: str, data: dict[str, Any]) -> bytes:
        """A deferred emission, as the batch of one that it will be.

        Raises:
            ValueError: the flow has no such routine, or it has no such event.
        """
        number = self.topology.index_of(routine_id)
        if number is None:
            raise UnknownName(f"Routine '{routine_id}' not found in flow")
        if event not in self.topology.routines[number].events:
            raise UnknownName(f"Event '{event}' not found in routine '{routine_id}'")
        place = emission_place(self.info.job_id, routine_id, event)
        return self.encode_at(data, place, f"Routine '{routine_id}', deferred event '{event}'")

    def decode_at(self, data: bytes, place: bytes) -> Any:
        """A value that belongs to a place."""
        return decode_value(data, self.signer, place)

    def decode_batch(self, batch: Batch, place: bytes) -> list[Any]:
        """The emissions of a batch as the log has it."""
        assert batch.data is not None, "records carry their data"
        return readable(decode_batch(self._payloads.open(batch.data), self.signer, place))

    def encode_at(self, value: Any, place: bytes, where: str) -> bytes:
        """A value that belongs to a place as bytes; ``where`` says it to people."""
        try:
            data = encode_value(value, self.signer, place)
        except EmissionNotSerializable as error:
            raise EmissionNotSerializable(f"{where}: {error}") from error
        check_size(data, self.info.value_bytes_max, where)
        return data


class RoutineHere:
    """One routine object of one job in one worker, with everything about it that need be found out only once."""

    def __init__(self, job: JobHere, spec: RoutineSpec, routine: Any) -> None:
        self._job = job
        self._spec = spec
        self._job_id = job.info.job_id
        self.object = routine
        self.routine_id = spec.routine_id
        self.is_logic = spec.style == "logic"
        self.slots = spec.slots
        self.events = spec.events
        #: What it emits, until it is reported; there is always a first one.
        self.out: list[list[Item]] = [[] for _ in spec.events] or [[]]
        self.outlets, self.turns = outlets_of(job.topology, job.topology.routines.index(spec), self.out)
        self.state = ActivationJobState(
            self._job_id, job.info.flow_id, spec.routine_id, job.state, job, job.is_contended, job.past
        )  # fmt: skip
        self.cursor_place = cursor_place(self._job_id, spec.routine_id)
        self._incoming: dict[int, dict[str, str] | None] = getattr(routine, "_incoming", {})
        self._calls: dict[tuple[int, int], Call] = {}
        self._runs: dict[tuple[int, int], tuple[Call, str | None]] = {}
        self._logic: LogicCall | None = None
        self._places: dict[str, bytes] = {}
        #: Attributes that are transactional state, with the value that is committed.
        self.fields: dict[str, bytes | None] = dict.fromkeys(
            name for name in getattr(routine, "fields_to_serialize", ()) if name not in _DEFINITION
        )
        self._scratch = self._attributes()
        self._has_warned = False

    # -- input ----------------------------------------------------------------------------------

    def call_for(self, part: Part) -> Call:
        """What to call with each emission of this part."""
        key = (part.slot, part.connection)
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = self._make_call(part)
        return call

    def inputs(self, part: Part) -> tuple[Call, list[Any]]:
        """What to call for this part, and with what, one by one."""
        key = (part.slot, part.connection)
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = self._make_run(part)
        call, name = run
        items = self._job.decode_part(self, part)
        if name is not None:
            # All at once, and the handler itself is called: a call less for each activation.
            try:
                return call, [*map(itemgetter(name), items)]
            except (KeyError, TypeError):  # the name is not everywhere, or something cannot be read
                items = [item if type(item) is Unreadable else item.get(name, item) for item in items]
        return if_readable(call) if any(type(item) is Unreadable for item in items) else call, items

    def _make_run(self, part: Part) -> tuple[Call, str | None]:
        if not self.is_logic:
            slot = self.object._slots[self.slots[part.slot]]
            name = only_parameter(slot, self._incoming.get(part.connection))
            if name is not None:
                return slot.handler, name
        return self.call_for(part), None

    def _make_call(self, part: Part) -> Call:
        mapping = self._incoming.get(part.connection)
        if not self.is_logic:
            return slot_call(self.object._slots[self.slots[part.slot]], mapping, self.state)
        rename, name, slots = map_keys(mapping), self.slots[part.slot], self.slots

        def call(data: dict[str, Any]) -> Any:
            lists: dict[str, list[Any]] = {slot: [] for slot in slots}
            lists[name].append(rename(data))
            return self.call_logic(lists, dict(IMMEDIATE))

        return call

    def call_logic(self, data: dict[str, list[Any]], message: Any) -> Any:
        """Call the logic with what its policy took."""
        if self._logic is None:
            self._logic = logic_call(self.object._logic, self.slots)
        return self._logic(data, message, self.state)

    def group_call(self, work: Work) -> Any:
        """One activation for all parts of ``work`` together. Its input is decoded outside of the handler."""
        message = dict(getattr(self.object._activation_policy, "message", IMMEDIATE))
        if work.message:
            message = decode_value(work.message, self._job.signer, message_place(self._job_id, self.routine_id))
        data: dict[str, list[Any]] = {slot: [] for slot in self.slots}
        calls = []
        for part in work.parts:
            items = readable(self._job.decode_part(self, part))
            calls += [(self.call_for(part), item) for item in items]
            rename = map_keys(self._incoming.get(part.connection))
            data[self.slots[part.slot]] += [rename(item) for item in items] if self.is_logic else ()
        if self.is_logic:
            return lambda _: self.call_logic(data, message)
        return lambda _: [call(item) for call, item in calls] and None

    def mapping_of(self, part: Part) -> dict[str, str] | None:
        """How the names of what came through this part's connection change."""
        return self._incoming.get(part.connection)

    def decode(self, part: Part) -> list[Any]:
        """The emissions of a part; one that cannot be built here is raised."""
        return readable(self._job.decode_part(self, part))

    def encode_message(self, message: Any) -> bytes:
        """What a policy says to the logic, as bytes."""
        try:
            return encode_value(message, self._job.signer, message_place(self._job_id, self.routine_id))
        except EmissionNotSerializable as error:
            raise EmissionNotSerializable(f"Routine '{self.routine_id}', message of its policy: {error}") from error

    def origin_of(self, part: Part) -> bytes:
        """The place where the emissions of this part were made."""
        if part.connection < 0:
            return slot_place(self._job_id, self.routine_id, self.slots[part.slot])
        connection = self._job.topology.connections[part.connection]
        source = self._job.topology.routines[connection.source]
        return emission_place(self._job_id, source.routine_id, source.events[connection.event])

    def place_of(self, event: str) -> bytes:
        """The place of what this routine emits."""
        place = self._places.get(event)
        if place is None:
            place = self._places[event] = emission_place(self._job_id, self.routine_id, event)
        return place

    def unknown_event(self, name: str) -> UnknownName:
        """The error that says so."""
        known = ", ".join(repr(event) for event in self.events) or "none"
        where = f"routine '{self.routine_id}' as the job knows it"
        return UnknownName(f"Event '{name}' not found in {where}; its events: {known}")

    def decode_cursor(self, data: bytes | None) -> Any:
        """The cursor to resume from."""
        return None if data is None else decode_value(data, self._job.signer, self.cursor_place)

    # -- state ----------------------------------------------------------------------------------

    def load_fields(self) -> None:
        """Give the transactional attributes their committed values, before the first activation of a dispatch."""
        for name, known in self.fields.items():
            committed = self._job.state.get((self.routine_id, f"__field__:{name}"))
            if committed is None:
                if known is None and hasattr(self.object, name):
                    self.fields[name] = self._encode_field(name)
            elif committed != known and isinstance(committed, (bytes, int, float)):
                is_encoded = isinstance(committed, bytes)
                encoded = committed if is_encoded else self._encode(name, committed)
                if encoded != known:
                    self.fields[name] = encoded  # type: ignore[assignment]
                    self._restore_field(name)

    def take_state(self) -> tuple[list[StateOp], tuple[Key, ...]]:
        """What the activation changed, and what it read that others may change."""
        changed: dict[str, bytes | None] = {}
        for name, known in self.fields.items():
            if hasattr(self.object, name) and (now := self._encode_field(name)) != known:
                changed[name] = now
                self.state.set_hidden(f"__field__:{name}", getattr(self.object, name))
        taken = self.state.finish()
        for op in taken[0]:
            if op.op == "log" and isinstance(op.value, bytes):
                self._job.past.remember(op.value)
        self.fields.update(changed)
        return taken

    def rollback(self) -> None:
        """Undo what the running activation changed."""
        self.state.rollback()
        for name in self.fields:
            self._restore_field(name)

    def warn_of_scratch(self) -> None:
        """Say once that attributes which are neither configuration nor registered live in this worker only."""
        if self._has_warned:
            return
        now = self._attributes()
        before, self._scratch = self._scratch, now
        changed = [name for name, value in now.items() if before.get(name) != value]
        if changed:
            self._has_warned = True
            log.warning(
                "Routine '%s' sets self.%s in a handler: that lives in this worker process only and is lost when it "
                "ends. Keep it in job_state, or name it in add_serializable_fields.", self.routine_id, changed[0],
            )  # fmt: skip

    def is_retryable(self, error: BaseException) -> bool:
        """Whether the error handler in force tries again after this error."""
        handler = getattr(self.object, "_effective_error_handler", None)
        return True if handler is None else bool(handler.is_retryable(error))

    def _attributes(self) -> dict[str, int]:
        """Which objects the routine's public attributes are, definition and transactional state left out."""
        return {n: id(v) for n, v in vars(self.object).items() if not n.startswith("_") and n not in self.fields}

    def _encode_field(self, name: str) -> bytes:
        return self._encode(name, getattr(self.object, name))

    def _encode(self, name: str, value: Any) -> bytes:
        return self._job.encode_state(self.routine_id, f"__field__:{name}", value)

    def _restore_field(self, name: str) -> None:
        known = self.fields[name]
        if known is not None:
            setattr(self.object, name, self._job.decode_state(self.routine_id, f"__field__:{name}", known))


def readable(items: list[Any]) -> list[Any]:
    """The items, if all could be decoded; else the first one's error is raised."""
    for item in items:
        if type(item) is Unreadable:
            raise item.error
    return items
