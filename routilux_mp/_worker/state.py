"""The job's state as one activation sees and changes it.

A worker keeps a copy of the job's committed state, brought up to date by every ``Work``. An
activation reads that copy plus its own changes, and its changes become operations that travel with
its completion. Not here: whether they are committed (the core decides). The rule it owns: what a
handler is given is its own to change, and only what it changed is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol

from .._core.stimuli import STATE_OPS, StateOp
from .._serialization.limits import check_total
from .appended import Appended
from .notes import SHARED, NoteCodec, Notes, Nothing, Past

#: As it travels: encoded bytes, a number, or (base, items) of an appended list; `Appended` once more was added here.
Raw = bytes | int | float | tuple[Any, Any] | Appended
Key = tuple[str, str]

#: Keys of a routine's state that the worker itself keeps there; no user sees them.
HIDDEN_PREFIXES = ("__slot__:", "__field__:")
#: Values that cannot be changed in place, so nobody need look whether they were.
_ATOMS = frozenset((int, float, str, bytes, bool, type(None)))
#: A larger number is a value like any other: it can be set, and not added to.
NUMBER_BITS_MAX = 4096


class ValueCodec(NoteCodec, Protocol):
    """Encodes values of shared state for one job."""

    def decode_state(self, scope: str, key: str, data: bytes) -> Any: ...


class Missing:
    """There is no such key (None is a value like any other)."""


_MISSING = Missing()


class ActivationJobState(Notes):
    """``job_state`` in a handler: identity, routine states, shared data, shared log.

    One object per job and routine in a worker; :meth:`finish` and :meth:`rollback` end an
    activation's use of it.
    """

    def __init__(
        self, job_id: str, flow_id: str, routine_id: str, committed: dict[Key, Raw], codec: ValueCodec,
        is_contended: Callable[[str], bool], past: Past | None = None,
    ) -> None:  # fmt: skip
        super().__init__(codec, past or Nothing())
        self.job_id = job_id
        self.flow_id = flow_id
        self.current_routine_id = routine_id
        self.status = "running"
        #: Something was read or changed since the last finish.
        self.is_touched = False
        self._committed = committed
        self._codec = codec
        self._is_contended = is_contended
        self._own: dict[Key, Raw | Missing] = {}  # changes of this activation
        self._reads: set[Key] = set()
        self._lent: dict[Key, tuple[Any, bytes]] = {}  # objects that may be changed in place, as they were
        self._lent_states: dict[str, tuple[dict[str, Any], dict[str, bytes]]] = {}

    # -- routine states -------------------------------------------------------------------------

    def get_routine_state(self, routine_id: str, default: Any = None) -> Any:
        """A copy of the routine's state; ``default`` when it has none."""
        found = {key: self._value(routine_id, key) for key in self._keys(routine_id)}
        return found or default

    def update_routine_state(self, routine_id: str, state: Mapping[str, Any]) -> None:
        """Replace the routine's state."""
        self._lent_states.pop(routine_id, None)
        for key in self._keys(routine_id):
            if key not in state:
                self._delete(routine_id, key)
        for key, value in state.items():
            self._set(routine_id, key, value)

    @property
    def routine_states(self) -> MutableMapping[str, dict[str, Any]]:
        """The states of all routines by id; changes in place are part of the commit."""
        return _RoutineStates(self)

    # -- shared data ----------------------------------------------------------------------------

    @property
    def shared_data(self) -> MutableMapping[str, Any]:
        """The data all routines share; changes in place are part of the commit."""
        return _SharedData(self)

    def get_shared_data(self, key: str, default: Any = None) -> Any:
        """A copy of one shared value."""
        value = self._value(SHARED, key)
        return default if value is _MISSING else value

    def update_shared_data(self, key: str, value: Any) -> None:
        """Set one shared value."""
        self._set(SHARED, key, value)

    def increment(self, key: str, amount: int | float = 1, *, routine_id: str = SHARED) -> None:
        """Add to a number. Never conflicts with other activations, unlike reading and setting.

        Raises:
            TypeError: the value is not a number.
        """
        if type(amount) not in (int, float):
            raise TypeError(f"increment of '{key}': the amount must be an int or a float, got {amount!r}")
        self._settle(routine_id, key)
        before = self._raw(routine_id, key)
        if before is _MISSING:
            before = 0
        if type(before) not in (int, float):
            raise TypeError(f"increment of '{key}': the value there is not a number")
        self._check_key(key)
        self._check_scope(routine_id)
        after = before + amount  # type: ignore[operator]
        if isinstance(after, int) and max(after.bit_length(), int(amount).bit_length()) > NUMBER_BITS_MAX:
            raise OverflowError(f"increment of '{key}': the number would have more than {NUMBER_BITS_MAX} bits")
        self.is_touched = True
        self._own[routine_id, key] = after
        self._ops.append(StateOp("increment", routine_id, key, amount))

    def append(self, key: str, item: Any, *, routine_id: str = SHARED) -> None:
        """Add an item to a list. Never conflicts with other activations.

        Raises:
            TypeError: the value is not a list.
        """
        self._settle(routine_id, key)
        before = self._raw(routine_id, key)
        if isinstance(before, (bytes, int, float)) and type(self._decode(routine_id, key, before)) is not list:
            raise TypeError(f"append to '{key}': the value there is not a list")
        self._check_key(key)
        self._check_scope(routine_id)
        self.is_touched = True
        data = self._codec.encode_state(routine_id, key, item)
        self._own[routine_id, key] = Appended.of(None if isinstance(before, Missing) else before).plus(data)
        self._ops.append(StateOp("append", routine_id, key, data))

    # -- the worker's side ----------------------------------------------------------------------

    def get_hidden(self, key: str, *, is_read: bool = False) -> Any:
        """A value the worker keeps in the routine's state; ``None`` if there is none.

        ``is_read``: what is done next depends on it, so another activation's change of it is a conflict.
        """
        if is_read:
            self._note_read(self.current_routine_id, key)
        raw = self._raw(self.current_routine_id, key)
        return None if isinstance(raw, Missing) else self._decode(self.current_routine_id, key, raw)

    def set_hidden(self, key: str, value: Any) -> None:
        """Keep a value in the routine's state, out of the user's sight."""
        self._set(self.current_routine_id, key, value)

    def finish(self) -> tuple[list[StateOp], tuple[Key, ...]]:
        """What the activation changed, and, if it changed anything, what it read that others may change."""
        self._collect_changes_in_place()
        ops = self._ops
        check_total(op.value for op in ops)
        reads = tuple(sorted(self._reads)) if self._reads and any(op.op in STATE_OPS for op in ops) else ()
        for key, value in self._own.items():
            if isinstance(value, Missing):
                self._committed.pop(key, None)
            else:
                self._committed[key] = value
        self._ops = []
        self.rollback()
        return ops, reads

    def rollback(self) -> None:
        """Forget everything since the last finish."""
        self.is_touched = False
        self._own.clear()
        self._ops.clear()
        self._reads.clear()
        self._lent.clear()
        self._lent_states.clear()
        self._log.clear()

    # -- inside ---------------------------------------------------------------------------------

    def _note_read(self, scope: str, key: str) -> None:
        self.is_touched = True
        # What the activation has set itself is nobody else's.
        if (scope, key) not in self._own and self._is_contended(scope):
            self._reads.add((scope, key))

    def _raw(self, scope: str, key: str) -> Raw | Missing:
        own = self._own.get((scope, key))
        return own if own is not None else self._committed.get((scope, key), _MISSING)

    def _decode(self, scope: str, key: str, raw: Raw) -> Any:
        if isinstance(raw, bytes):
            return self._codec.decode_state(scope, key, raw)
        if isinstance(raw, (tuple, Appended)):
            raw = Appended.of(raw)
            value = [] if raw.base is None else self._decode(scope, key, raw.base)
            value.extend(self._codec.decode_state(scope, key, item) for item in raw.items)
            return value
        return raw

    def _value(self, scope: str, key: str) -> Any:
        """A copy of the value, own changes included; _MISSING if there is none."""
        self._settle(scope, key)
        self._note_read(scope, key)
        raw = self._raw(scope, key)
        return _MISSING if isinstance(raw, Missing) else self._decode(scope, key, raw)

    def _lend(self, scope: str, key: str) -> Any:
        """The value itself, to be changed in place; _MISSING if there is none."""
        if (scope, key) in self._lent:
            return self._lent[scope, key][0]
        value = self._value(scope, key)
        if type(value) not in _ATOMS and value is not _MISSING:
            # Encoded anew, not taken from the copy: sets and objects need not encode alike twice.
            self._lent[scope, key] = (value, self._codec.encode_state(scope, key, value))
        return value

    def _lend_state(self, routine_id: str) -> dict[str, Any] | Missing:
        """A routine's whole state, to be changed in place."""
        if routine_id not in self._lent_states:
            values = {key: self._value(routine_id, key) for key in self._keys(routine_id)}
            if not values:
                return _MISSING
            before = {key: self._codec.encode_state(routine_id, key, value) for key, value in values.items()}
            self._lent_states[routine_id] = (values, before)
        return self._lent_states[routine_id][0]

    def _lend_empty_state(self, routine_id: str) -> dict[str, Any]:
        """A state that has nothing yet, and that exists once something is put into it."""
        self.is_touched = True
        return self._lent_states.setdefault(routine_id, ({}, {}))[0]

    def _keys(self, scope: str) -> list[str]:
        if scope in self._lent_states:
            self._collect_state(scope)
        keys = {key: None for own_scope, key in self._committed if own_scope == scope}
        for (own_scope, key), value in self._own.items():
            if own_scope == scope:
                keys[key] = None
                if isinstance(value, Missing):
                    del keys[key]
        self.is_touched = True
        return [key for key in keys if not key.startswith(HIDDEN_PREFIXES)]

    def _check_key(self, key: Any) -> None:
        if type(key) is not str:
            raise TypeError(f"keys of shared data and routine states are strings, got {key!r}")

    def _check_scope(self, scope: Any) -> None:
        if not isinstance(scope, str):
            raise TypeError(f"routine ids are strings, got {scope!r}")

    def _set(self, scope: str, key: str, value: Any) -> None:
        self._check_key(key)
        self._check_scope(scope)
        self.is_touched = True
        self._lent.pop((scope, key), None)
        is_number = type(value) is float or (type(value) is int and value.bit_length() <= NUMBER_BITS_MAX)
        raw = value if is_number else self._codec.encode_state(scope, key, value)
        self._own[scope, key] = raw
        self._ops.append(StateOp("set", scope, key, raw))

    def _delete(self, scope: str, key: str) -> None:
        self.is_touched = True
        self._lent.pop((scope, key), None)
        self._own[scope, key] = _MISSING
        self._ops.append(StateOp("delete", scope, key))

    def _settle(self, scope: str, key: str) -> None:
        """Take over what was changed in place, before the key is looked at in another way."""
        if (scope, key) in self._lent:
            self._collect_value(scope, key)
        if scope in self._lent_states:
            self._collect_state(scope)

    def _collect_value(self, scope: str, key: str) -> None:
        value, before = self._lent[scope, key]
        now = self._codec.encode_state(scope, key, value)
        if now != before:
            self._set(scope, key, value)
            self._lent[scope, key] = (value, now)

    def _collect_state(self, routine_id: str) -> None:
        values, before = self._lent_states[routine_id]
        for key in [key for key in before if key not in values]:
            del before[key]
            self._delete(routine_id, key)
        for key, value in values.items():
            self._check_key(key)
            now = self._codec.encode_state(routine_id, key, value)
            if now != before.get(key):
                before[key] = now
                self._set(routine_id, key, value)

    def _collect_changes_in_place(self) -> None:
        for scope in list(self._lent_states):
            self._collect_state(scope)
        for scope, key in list(self._lent):
            self._collect_value(scope, key)


class _SharedData(MutableMapping[str, Any]):
    """``shared_data``: values are read one by one, so that an activation depends only on what it looks at."""

    def __init__(self, state: ActivationJobState) -> None:
        self._state = state

    def __getitem__(self, key: str) -> Any:
        value = self._state._lend(SHARED, key)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._state._set(SHARED, key, value)

    def __delitem__(self, key: str) -> None:
        if self._state._value(SHARED, key) is _MISSING:
            raise KeyError(key)
        self._state._delete(SHARED, key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._state._value(SHARED, key) is not _MISSING

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As in a dictionary: what is returned is what is kept, and may be changed in place."""
        if key not in self:
            self[key] = default
        return self[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state._keys(SHARED))

    def __len__(self) -> int:
        return len(self._state._keys(SHARED))

    def __repr__(self) -> str:
        return repr(dict(self))


class _RoutineStates(MutableMapping[str, dict[str, Any]]):
    """``routine_states``: plain dictionaries by routine id."""

    def __init__(self, state: ActivationJobState) -> None:
        self._state = state

    def __getitem__(self, routine_id: str) -> dict[str, Any]:
        found = self._state._lend_state(routine_id)
        if isinstance(found, Missing):
            raise KeyError(routine_id)
        return found

    def __setitem__(self, routine_id: str, state: Mapping[str, Any]) -> None:
        self._state.update_routine_state(routine_id, state)

    def __delitem__(self, routine_id: str) -> None:
        self[routine_id]
        self._state.update_routine_state(routine_id, {})

    def setdefault(self, routine_id: str, default: Any = None) -> dict[str, Any]:
        """As in a dictionary: what is returned is what is kept, and may be changed in place."""
        if isinstance(self._state._lend_state(routine_id), Missing):
            self._state.update_routine_state(routine_id, default or {})
            return self._state._lend_empty_state(routine_id) if not default else self[routine_id]
        return self[routine_id]

    def _ids(self) -> list[str]:
        state = self._state
        scopes = {scope: None for scope, _ in (*state._committed, *state._own) if scope != SHARED}
        return [scope for scope in scopes if state._keys(scope)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids())

    def __len__(self) -> int:
        return len(self._ids())

    def __repr__(self) -> str:
        return repr(dict(self))
