"""Plain values as MessagePack and back, exactly.

Plain are None, bool, int of any size, float, str, bytes, bytearray, list, tuple, dict, set, frozenset,
complex, date, time, datetime (naive, or with a fixed offset), timedelta, and numpy arrays and scalars of
plain dtypes: *exact types only*. What MessagePack lacks travels as an extension of the closed set below.
Tuples and sets are arrays whose first element is a mark; so nesting costs no recursion here, and depth has
one limit.

The rule it owns: decoding plain data can import and call nothing, whatever the bytes are, and everything
wrong with them is ``CheckpointDamaged``. Objects are not decided here: the packer's default hook gives each
a number and the decoder asks its caller for the object of that number (``batch`` keeps them, signed).
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, Final
from weakref import ref

from ..errors import CheckpointDamaged
from . import arrays
from .packing import ExtType, OutOfData, Packer, Timestamp, Unpacker, UnpackException, unpackb

#: The packer's own limit on nesting, told in errors.
DEPTH_MAX: Final = 510

_TUPLE, _SET, _FROZENSET = 1, 2, 3
_BIG_INT, _DATETIME, _DATE, _TIME, _TIMEDELTA, _COMPLEX, _BYTEARRAY = 4, 5, 6, 7, 8, 9, 10
_ARRAY, _ARRAY_BESIDE, _NUMPY_SCALAR = 16, 17, 18
_OBJECT = 32

_MARK_TUPLE, _MARK_SET, _MARK_FROZENSET = ExtType(_TUPLE, b""), ExtType(_SET, b""), ExtType(_FROZENSET, b"")
_DATE_FORM, _TIME_FORM = struct.Struct(">HBB"), struct.Struct(">BBBIB")
_DELTA_FORM, _COMPLEX_FORM, _OBJECT_FORM = struct.Struct(">iii"), struct.Struct(">dd"), struct.Struct(">II")

#: Packed by the C packer without asking, though they would not come back as they were.
_IMPOSTORS: Final = frozenset((bytearray, memoryview, ExtType, Timestamp))
_CONTAINERS: Final = frozenset((list, dict, tuple, set, frozenset))
_ATOMS: Final = frozenset((int, str, float, bool, type(None), bytes))
#: Up to so many elements a loop is quicker.
_FEW: Final = 8


class ObjectFound(Exception):
    """The value is not all plain, and this encoder was asked for plain data only."""


class Encoder:
    """One pass over a value, by the C packer; anything that is not plain is handed to *keep_object*.

    ``keep_object(value) -> (part, number)``; without it ``ObjectFound`` is raised. After ``pack``,
    ``has_marks`` tells the decoder whether to look at arrays, and ``beside`` holds the buffers of large
    arrays with their offsets, to be written after the packed bytes.
    """

    __slots__ = ("__weakref__", "_packer", "_small", "beside", "beside_bytes", "has_marks", "keep_object")

    def __init__(self, unicode_errors: str | None = None) -> None:
        me = ref(self)  # in a circle with its packer it would keep what it has packed until the collector comes
        self._packer = Packer(
            default=lambda value: me()._default(value),  # type: ignore[union-attr]
            strict_types=True, unicode_errors=unicode_errors,
        )  # fmt: skip
        self._small = Packer(buf_size=1024)
        self.keep_object: Callable[[Any], tuple[int, int]] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the previous value."""
        self.has_marks = False
        self.beside: list[tuple[int, memoryview | bytes]] = []
        self.beside_bytes = 0

    def pack(self, value: Any) -> bytes:
        """The packed bytes of *value*.

        Raises:
            ObjectFound: *value* holds something that is not plain and ``keep_object`` is not set.
            ValueError: nested too deeply, or larger than MessagePack allows.
        """
        packed = self._packer.pack(value)
        if has_impostor(value):
            packed = self._packer.pack(_without_impostors(value))
        return packed  # type: ignore[no-any-return]

    def array_header(self, count: int) -> bytes:
        """The bytes that announce *count* packed values."""
        return self._packer.pack_array_header(count)  # type: ignore[no-any-return]

    def _default(self, value: Any) -> Any:
        rule = _RULES.get(type(value))
        if rule is not None:
            self.has_marks |= type(value) in _CONTAINERS
            packed = rule(value)
            return self._object(value) if packed is None else packed
        if type(value) is _AsObject:
            return self._object(value.value)
        return self._numpy(value) if arrays.is_plain(value) else self._object(value)

    def _object(self, value: Any) -> ExtType:
        if self.keep_object is None:
            raise ObjectFound
        return ExtType(_OBJECT, _OBJECT_FORM.pack(*self.keep_object(value)))

    def _numpy(self, value: Any) -> ExtType:
        if arrays.is_scalar(value):
            dtype, data = arrays.scalar_to_bytes(value)
            return ExtType(_NUMPY_SCALAR, self._small.pack((dtype, data)))
        dtype, shape, by_columns = arrays.describe(value)
        content = arrays.raw(value, by_columns)
        if len(content) < arrays.OUT_OF_BAND_BYTES_MIN:
            return ExtType(_ARRAY, self._small.pack((dtype, shape, by_columns, bytes(content))))
        offset = self.place_beside(content)
        return ExtType(_ARRAY_BESIDE, self._small.pack((dtype, shape, by_columns, offset, len(content))))

    def place_beside(self, content: memoryview | bytes) -> int:
        """Have *content* written after the packed bytes; its offset there, aligned."""
        offset = -(-self.beside_bytes // arrays.ALIGNMENT_BYTES) * arrays.ALIGNMENT_BYTES
        self.beside.append((offset, content))
        self.beside_bytes = offset + len(content)
        return offset


class Beside:
    """The buffers behind the packed bytes. Over a memoryview they are shared, over bytes copied (and writable)."""

    __slots__ = ("_copy", "_view")

    def __init__(self, data: bytes | memoryview, start: int = 0) -> None:
        self._copy = not isinstance(data, memoryview)
        self._view = memoryview(data)[start:]

    def take(self, offset: int, size: int) -> memoryview | bytearray:
        """*size* bytes at *offset*; ValueError when they are not there."""
        if type(offset) is not int or type(size) is not int or not 0 <= offset <= offset + size <= len(self._view):
            raise ValueError("a buffer lies outside of the data")
        part = self._view[offset : offset + size]
        return bytearray(part) if self._copy else part


class Decoder:
    """Packed bytes to values. ``find_object(part, number)`` gives the objects that were kept while encoding."""

    __slots__ = ("_beside", "_find_object", "_has_marks", "_open_marks")

    def __init__(
        self, has_marks: bool, beside: Beside | None = None, find_object: Callable[[int, int], Any] | None = None
    ) -> None:
        self._has_marks = has_marks
        self._beside = beside
        self._find_object = find_object
        self._open_marks = 0

    def options(self) -> dict[str, Any]:
        """For an unpacker. Not kept here: a payload in memory would be there until the collector finds the cycle."""
        hooks = {"ext_hook": self._extension, "list_hook": self._array if self._has_marks else None}
        return {**_READING, **hooks}

    def unpack(self, packed: bytes | memoryview) -> Any:
        """The value, all of it.

        Raises:
            CheckpointDamaged: the bytes are not what an encoder wrote.
        """
        try:
            value = unpackb(packed, **self.options())
        except DAMAGE as error:
            raise damaged(error) from None
        self.check_marks()
        return value

    def unpack_each(self, packed: bytes | memoryview, start: int, stop: int) -> Iterator[Any]:
        """The items of a packed array from *start* up to *stop*, one by one, the others unread."""
        unpacker = Unpacker(max_buffer_size=len(packed), **self.options())
        unpacker.feed(packed)
        try:
            count = unpacker.read_array_header()
            for index in range(min(count, stop)):
                if index < start:
                    unpacker.skip()
                    continue
                value = unpacker.unpack()
                self.check_marks()
                yield value
            if stop >= count and unpacker.tell() != len(packed):
                raise ValueError("bytes are left over")
        except DAMAGE as error:
            raise damaged(error) from None

    def check_marks(self) -> None:
        """Raise ``CheckpointDamaged`` if what was read so far ends within a tuple or a set."""
        if self._open_marks:
            raise CheckpointDamaged("encoded values are damaged: a mark stands where none belongs")

    def _extension(self, code: int, data: bytes) -> Any:
        if code in _MARKS:
            if data:
                raise ValueError("a mark with content")
            self._open_marks += 1
            return _MARKS[code]
        if code == _OBJECT and self._find_object is not None:
            return self._find_object(*_OBJECT_FORM.unpack(data))
        if code == _ARRAY_BESIDE and self._beside is not None:
            dtype, shape, by_columns, offset, size = unpackb(data)
            return arrays.array_from_buffer(dtype, shape, by_columns, self._beside.take(offset, size))
        return _plain_extension(code, data)

    def _array(self, items: list[Any]) -> Any:
        if items and type(items[0]) is _Mark:
            self._open_marks -= 1
            return items[0].build(items[1:])
        return items


def unpack_simple(packed: bytes | memoryview) -> Any:
    """As ``Decoder.unpack`` for values without marks, buffers and objects: the quick way."""
    try:
        return unpackb(packed, ext_hook=_plain_extension, **_READING)
    except DAMAGE as error:
        raise damaged(error) from None


class _Mark:
    __slots__ = ("build",)

    def __init__(self, build: Callable[[list[Any]], Any]) -> None:
        self.build = build


class _AsObject:
    """A value to be kept as an object although the packer would take it."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


_MARKS: Final = {_TUPLE: _Mark(tuple), _SET: _Mark(set), _FROZENSET: _Mark(frozenset)}
_READING: Final[dict[str, Any]] = {"strict_map_key": False, "unicode_errors": "surrogatepass"}
#: All that reading plain data can raise: no code of the user's runs here.
DAMAGE: Final = (
    ValueError, TypeError, OverflowError, struct.error, MemoryError, OutOfData, UnpackException
)  # fmt: skip


def damaged(error: BaseException) -> CheckpointDamaged:
    """What is said of one of ``DAMAGE``."""
    return CheckpointDamaged(f"encoded values are damaged: {type(error).__name__}: {error}"[:300])


def has_impostor(value: Any, depth_max: int = 3) -> bool:
    """Whether there is something in it that the packer takes for another type.

    Small and flat values by a loop, others level by level in C. The packer has already refused cycles.
    """
    kind = type(value)
    if kind not in _CONTAINERS:
        return kind in _IMPOSTORS
    if depth_max and len(value) <= _FEW:
        if kind is dict:
            for key in value:
                if type(key) is not str and has_impostor(key, depth_max - 1):
                    return True
            value = value.values()
        for item in value:
            if type(item) not in _ATOMS and has_impostor(item, depth_max - 1):
                return True
        return False
    level = [value]
    while level:
        types = set(map(type, level))
        if not types.isdisjoint(_IMPOSTORS):
            return True
        inner = types & _CONTAINERS
        if not inner:
            return False
        if len(inner) != len(types):
            level = [item for item in level if type(item) in _CONTAINERS]
        level = gc.get_referents(*level)
    return False


def _without_impostors(value: Any) -> Any:
    match value:
        case bytearray() if type(value) is bytearray:
            return ExtType(_BYTEARRAY, bytes(value))
        case memoryview() | ExtType() | Timestamp():
            return _AsObject(value)
        case dict() if type(value) is dict:
            return {_without_impostors(key): _without_impostors(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset() if type(value) in _CONTAINERS:
            return type(value)(map(_without_impostors, value))
    return value


def _pack_zone(zone: tzinfo | None) -> bytes | None:
    """The suffix for a fixed offset; None when the zone is an object (its rules are code and tables)."""
    if zone is None:
        return b""
    if type(zone) is not timezone:
        return None
    offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
    microseconds = offset // timedelta(microseconds=1)
    return struct.pack(">qB", microseconds, len(name)) + (name[0].encode("utf-8", "surrogatepass") if name else b"")


def _unpack_zone(data: bytes) -> timezone | None:
    if not data:
        return None
    microseconds, has_name = struct.unpack_from(">qB", data)
    offset = timedelta(microseconds=microseconds)
    return timezone(offset, data[9:].decode("utf-8", "surrogatepass")) if has_name else timezone(offset)


def _pack_time(value: time | datetime) -> bytes:
    return _TIME_FORM.pack(value.hour, value.minute, value.second, value.microsecond, value.fold)


def _pack_date(value: date) -> bytes:
    return _DATE_FORM.pack(value.year, value.month, value.day)


def _from_datetime(value: datetime) -> ExtType | None:
    zone = _pack_zone(value.tzinfo)
    return None if zone is None else ExtType(_DATETIME, _pack_date(value) + _pack_time(value) + zone)


def _from_time(value: time) -> ExtType | None:
    zone = _pack_zone(value.tzinfo)
    return None if zone is None else ExtType(_TIME, _pack_time(value) + zone)


def _from_int(value: int) -> ExtType:
    return ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


#: What the packer asks about and is told with a mark.
MARK_RULES: Final[dict[type, Callable[[Any], Any]]] = {
    tuple: lambda value: [_MARK_TUPLE, *value],
    set: lambda value: [_MARK_SET, *value],
    frozenset: lambda value: [_MARK_FROZENSET, *value],
}

#: What the packer asks about, by exact type; None as the answer means: an object after all.
_RULES: Final[dict[type, Callable[[Any], Any]]] = MARK_RULES | {
    int: _from_int,
    datetime: _from_datetime,
    date: lambda value: ExtType(_DATE, _pack_date(value)),
    time: _from_time,
    timedelta: lambda value: ExtType(_TIMEDELTA, _DELTA_FORM.pack(value.days, value.seconds, value.microseconds)),
    complex: lambda value: ExtType(_COMPLEX, _COMPLEX_FORM.pack(value.real, value.imag)),
}


def _read_datetime(data: bytes) -> datetime:
    hour, minute, second, microsecond, fold = _TIME_FORM.unpack_from(data, _DATE_FORM.size)
    zone = _unpack_zone(data[_DATE_FORM.size + _TIME_FORM.size :])
    year, month, day = _DATE_FORM.unpack_from(data)
    return datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _read_time(data: bytes) -> time:
    hour, minute, second, microsecond, fold = _TIME_FORM.unpack_from(data)
    return time(hour, minute, second, microsecond, _unpack_zone(data[_TIME_FORM.size :]), fold=fold)


def _read_array(data: bytes) -> Any:
    dtype, shape, by_columns, content = unpackb(data)
    return arrays.array_from_buffer(dtype, shape, by_columns, bytearray(content))


#: The closed set of extensions that need nothing but their own bytes.
_READERS: Final[dict[int, Callable[[bytes], Any]]] = {
    _BIG_INT: lambda data: int.from_bytes(data, "big", signed=True),
    _DATETIME: _read_datetime,
    _DATE: lambda data: date(*_DATE_FORM.unpack(data)),
    _TIME: _read_time,
    _TIMEDELTA: lambda data: timedelta(*_DELTA_FORM.unpack(data)),
    _COMPLEX: lambda data: complex(*_COMPLEX_FORM.unpack(data)),
    _BYTEARRAY: bytearray,
    _ARRAY: _read_array,
    _NUMPY_SCALAR: lambda data: arrays.scalar_from_bytes(*unpackb(data)),
}


def _plain_extension(code: int, data: bytes) -> Any:
    reader = _READERS.get(code)
    if reader is None:
        raise ValueError(f"unknown extension {code}")
    return reader(data)
