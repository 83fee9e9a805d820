"""A job's state values: opaque bytes to the supervisor, opened and made here in the caller's process."""

from __future__ import annotations

from typing import Any

from ._core.batch import Batch
from ._core.job import ListValue, Value
from ._serialization.batch import decode_value, encode_value
from ._serialization.places import emission_place, log_place, output_place, slot_place, state_place
from ._serialization.sealed import Joined, Sealed
from ._serialization.signing import Signer
from ._worker.notes import CHECKPOINT_KEY

#: Keys of a routine's state that are the worker's own: slot accumulators and serialisable fields.
HIDDEN = ("__slot__:", "__field__:")


__all__ = ["CHECKPOINT_KEY", "HIDDEN", "Values"]


class Values:
    """Encodes and decodes the state values of one job."""

    def __init__(self, job_id: str, signer: Signer) -> None:
        self.job_id = job_id
        self.signer = signer

    def decode(self, value: Value, scope: str, key: str) -> Any:
        """The value as the user wrote it; a fresh copy at every call."""
        if isinstance(value, ListValue):
            base = [] if value.base is None else self.decode(value.base, scope, key)
            items = [self.decode(item, scope, key) for item in value.items]
            if type(base) is Sealed:
                return Joined(base, items)
            return [*base, *items] if isinstance(base, (list, tuple)) else [base, *items]
        if isinstance(value, (bytes, memoryview)):
            return decode_value(value, self.signer, state_place(self.job_id, scope, key))
        return value

    def encode(self, value: Any, scope: str, key: str) -> bytes | int | float:
        """The value as the core keeps it: numbers as they are, so that they can be added to."""
        if type(value) in (int, float):
            return value  # type: ignore[no-any-return]
        return self.encode_bytes(value, scope, key)

    def encode_bytes(self, value: Any, scope: str, key: str) -> bytes:
        """The value as bytes, also a number."""
        return encode_value(value, self.signer, state_place(self.job_id, scope, key))

    def encode_log(self, entry: dict[str, Any]) -> bytes:
        """An entry of the shared log."""
        return encode_value(entry, self.signer, log_place(self.job_id))

    def encode_output(self, data: dict[str, Any], routine_id: str, output_type: str) -> bytes:
        """An output."""
        return encode_value(data, self.signer, output_place(self.job_id, routine_id, output_type))

    def encode_emission(self, data: dict[str, Any], routine_id: str, event: str) -> bytes:
        """An emission, as a batch of one."""
        return encode_value(data, self.signer, emission_place(self.job_id, routine_id, event))

    def encode_input(self, data: dict[str, Any], routine_id: str, slot: str) -> Batch:
        """What is put into a slot from outside."""
        return Batch(1, encode_value(data, self.signer, slot_place(self.job_id, routine_id, slot)))

    def decode_emission(self, data: bytes, routine_id: str, event: str) -> Any:
        """The emission again."""
        return decode_value(data, self.signer, emission_place(self.job_id, routine_id, event))
