"""User code as bytes for fresh processes, and back (the only module that imports ``dill``).

A bundle has two parts. Part A is loaded once per process: every class that must travel by value, and the
names of ``__main__`` (and of modules that cannot be imported) that the sent code uses, found from the code
itself, so that a global nobody uses cannot get in the way. On load the names are laid into the worker's own
``__main__``: functions keep it as their globals, so late binding works, and payloads say ``__main__.Item``.
Part B is one piece per routine; each time it is loaded it gives a fresh object graph whose classes are
those of part A, so a routine object never leaks between jobs while ``isinstance`` holds across them.

The bytes run code when they are loaded: whoever stores or reads them signs and verifies them first.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import types
import weakref
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ..errors import CheckpointDamaged, CheckpointFormat, NotShippable
from . import reducers, shipped
from .cells import remember
from .shipped import MAIN, Key
from .values import Encoder, unpack_simple

#: Another one whenever what a bundle is built with (``reducers``, ``type_names``) is named or called otherwise.
_FORMAT: Final = 2
_PYTHON: Final = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"


class CodeBundle(NamedTuple):
    """The code of one flow. Equal code has an equal digest."""

    data: bytes
    digest: str


def pack_code(routines: Mapping[str, object], *, main: types.ModuleType | None) -> CodeBundle:
    """The code of *routines* for processes that have never seen it; *main* is usually ``sys.modules["__main__"]``.

    Raises:
        NotShippable: names the routine, the attribute or global, its type and the cure.
    """
    return _pack(routines, main, is_partial=False)


def load_code(data: bytes) -> LoadedCode:
    """Load a bundle (part A only the first time in this process). The caller has verified its signature.

    Raises:
        CheckpointDamaged, CheckpointFormat: it is no bundle, or one of another version of Python.
        NotShippable: something the code needs is missing here.
    """
    return LoadedCode(data)


def ship_value(value: object) -> bytes:
    """A function or class in a payload, by value: a bundle that adds to ``__main__`` what is missing there."""
    if not isinstance(value, type):
        return _pack({"": value}, sys.modules.get("__main__"), is_partial=True).data
    data = _shipped_classes.get(value)
    if data is None:
        data = _shipped_classes[value] = _pack({"": value}, sys.modules.get("__main__"), is_partial=True).data
    return data


def load_value(data: bytes) -> object:
    """What ``ship_value`` packed (called while unpickling signed bytes)."""
    return load_code(data).routine("")


_shipped_classes: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()


def _pack(routines: Mapping[str, object], main: types.ModuleType | None, *, is_partial: bool) -> CodeBundle:
    from .packer import Packer  # who only loads code need not have it

    try:
        packed = Packer(main, _take_by_dill, is_partial=is_partial, is_careful=False).pack(routines)
    except NotShippable:  # perhaps only a class of `__main__` that nobody needs
        packed = Packer(main, _take_by_dill, is_partial=is_partial).pack(routines)
    digest = hashlib.sha256(packed.part_a).digest()
    known = shipped.table_of(digest)
    if known is None or known.classes != packed.table.classes:
        shipped.enter(digest, packed.table, packed.main_names)
    data = Encoder().pack({"format": _FORMAT, "python": _PYTHON, "a": packed.part_a, "b": packed.pieces})
    return CodeBundle(data, hashlib.sha256(data).hexdigest())


def _take_by_dill(value: Any) -> reducers.Reduced:
    import dill

    return _make_by_dill, (dill.dumps(value, recurse=True),)


def _make_by_dill(data: bytes) -> Any:
    import dill

    return dill.loads(data)


class LoadedCode:
    """A bundle in this process; ``routine`` builds the objects."""

    def __init__(self, data: bytes) -> None:
        bundle = _read_bundle(data)
        self._pieces: dict[str, bytes] = bundle["b"]
        part_a: bytes = bundle["a"]
        self.digest = hashlib.sha256(data).hexdigest()
        #: Of what the bundle shares with others of the same classes.
        self.shared_digest = hashlib.sha256(part_a).digest()
        self._table = shipped.table_of(self.shared_digest) or _load_part_a(part_a, self.shared_digest)

    @property
    def routine_ids(self) -> list[str]:
        """The routines in the bundle."""
        return list(self._pieces)

    def routine(self, routine_id: str) -> object:
        """A fresh routine object, sharing its classes and nothing else with those built before."""
        piece = self._pieces.get(routine_id)
        if piece is None:
            raise NotShippable(f"Routine '{routine_id}' is not in this code; it has: {', '.join(self._pieces)}")
        try:
            return _CodeUnpickler(io.BytesIO(piece), self._table).load()
        except Exception as error:  # the user's __setstate__ and imports run here
            raise _not_loadable(f"Routine '{routine_id}'", error) from error


def _read_bundle(data: bytes) -> dict[str, Any]:
    bundle = unpack_simple(data)
    if not isinstance(bundle, dict) or not {"format", "python", "a", "b"} <= bundle.keys():
        raise CheckpointDamaged("this is no bundle of code")
    if bundle["format"] != _FORMAT:
        raise CheckpointFormat(
            f"the code was packed in format {bundle['format']}, this version reads {_FORMAT}; "
            "resume with the flow itself"
        )
    if bundle["python"] != _PYTHON:
        raise CheckpointFormat(
            f"the code was packed by {bundle['python']} and this is {_PYTHON}: code that is not in a module "
            "cannot change versions; run the same Python, or move the code to a module that can be imported"
        )
    return bundle


def _load_part_a(data: bytes, digest: bytes) -> shipped.Table:
    part = unpack_simple(data)
    packages = part.get("space_packages", [""] * len(part["space_names"]))  # older ones have none
    spaces: list[dict[str, Any]] = [_new_space(*both) for both in zip(part["space_names"], packages, strict=True)]
    table = shipped.Table([_Missing] * len(part["class_names"]), spaces)
    names: list[str] = []
    remember(part.get("lines", {}))  # older ones have none
    try:
        for module in part["imports"]:
            __import__(module)
        for index, skeleton in part["skeletons"]:
            make, arguments = _CodeUnpickler(io.BytesIO(skeleton), table).load()
            table.classes[index] = make(*arguments)
        stream = _CodeUnpickler(io.BytesIO(part["stream"]), table)
        for _ in range(part["operation_count"]):
            _perform(stream.load(), table, part["partial"], names)
    except Exception as error:  # the user's metaclasses, __setstate__ and imports run here
        raise _not_loadable("The code of this flow", error) from error
    main = sys.modules["__main__"].__dict__
    if not part["partial"]:
        if part["file"] is not None:
            main["__file__"] = part["file"]
        main["__package__"] = part.get("package")  # older ones have none
    shipped.enter(digest, table, names)
    return table


def _perform(operation: tuple[Any, ...], table: shipped.Table, is_partial: bool, names: list[str]) -> None:
    if operation[0] == "class":
        _, index, content = operation
        reducers.fill_class(table.classes[index], content)
        return
    _, key, name, value = operation
    space = _namespace(key, table)
    if key == MAIN:
        names.append(name)
    if key != MAIN or not is_partial or name not in space:
        space[name] = value


class _Missing:
    """Takes the place of a class until its skeleton is made."""


def _new_space(name: str, package: str) -> dict[str, Any]:
    return types.ModuleType(name).__dict__ | {"__builtins__": __builtins__, "__package__": package or None}


def _namespace(key: Key, table: shipped.Table) -> dict[str, Any]:
    if key == MAIN:
        return sys.modules["__main__"].__dict__
    if isinstance(key, str):
        __import__(key)
        return sys.modules[key].__dict__
    return table.spaces[key]


class _CodeUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, table: shipped.Table) -> None:
        super().__init__(file)
        self._table = table

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("class", index):
                return self._table.classes[index]
            case ("space", key):
                return _namespace(key, self._table)
            case ("main", name):
                return sys.modules["__main__"].__dict__[name]
            case ("known", digest, index, module, qualname):
                return shipped.resolve(digest, index, module, qualname)
        raise pickle.UnpicklingError(f"unknown reference {pid!r}")


def _not_loadable(what: str, error: Exception) -> NotShippable:
    hint = "; install it for the workers too" if isinstance(error, ModuleNotFoundError) else ""
    return NotShippable(f"{what} cannot be loaded in this process: {type(error).__name__}: {error}{hint}")
