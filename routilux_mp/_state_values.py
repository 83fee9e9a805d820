"""A job's state values: opaque bytes to the supervisor, opened and made here in the caller's process.

The rule owned here: what is handed out is a copy, and writing to it is a command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


__all__ = ["CHECKPOINT_KEY", "HIDDEN", "Values", "WriteThrough", "replace_all"]


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


class WriteThrough(dict[str, Any]):
    """A copy of some of a job's state. Setting, updating and deleting items changes the job too."""

    def __init__(
        self, content: Mapping[str, Any], write: Callable[[str, Any], None], delete: Callable[[str], None]
    ) -> None:
        super().__init__(content)
        self._write = write
        self._delete = delete

    def is_of(self, other: WriteThrough) -> bool:
        """Whether both write to the same place."""
        return self._write == other._write

    def __setitem__(self, key: str, value: Any) -> None:
        self._write(key, value)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._delete(key)
        super().__delitem__(key)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> WriteThrough:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        if key not in self:
            return super().pop(key, *default)
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        for key in list(self):
            del self[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (dict(self),))


def replace_all(target: WriteThrough, content: Mapping[str, Any]) -> None:
    """Make ``target`` have exactly this content."""
    if isinstance(content, WriteThrough) and content.is_of(target):
        return  # ``x.shared_data |= …`` has written it already
    for key in target.keys() - content.keys():
        del target[key]
    target.update(content)
