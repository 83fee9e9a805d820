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

import copyreg
import hashlib
import io
import pickle
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..errors import CheckpointDamaged, CheckpointFormat, NotShippable
from . import reducers, shipped
from .paths import deepest_failure
from .values import Encoder, unpack_simple

_FORMAT: Final = 1
_PYTHON: Final = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
#: Names every module has for itself; the worker's own are kept.
_OWN_NAMES: Final = frozenset(("__builtins__", "__name__", "__spec__", "__loader__", "__doc__", "__cached__"))
_STAY_HOME: Final = ("routilux_mp.flow", "routilux_mp.runtime")

_MAIN: Final = -1
Key = int | str  # _MAIN, the number of a namespace sent by value, or the name of an importable module


@dataclass(frozen=True, slots=True)
class CodeBundle:
    """The code of one flow. Equal code has an equal digest."""

    data: bytes
    digest: str


def pack_code(routines: Mapping[str, object], *, main: types.ModuleType | None) -> CodeBundle:
    """The code of *routines* for processes that have never seen it; *main* is usually ``sys.modules["__main__"]``.

    Raises:
        NotShippable: names the routine, the attribute or global, its type and the cure.
    """
    return _Packer(main, is_partial=False).pack(routines)


def load_code(data: bytes) -> LoadedCode:
    """Load a bundle (part A only the first time in this process). The caller has verified its signature.

    Raises:
        CheckpointDamaged, CheckpointFormat: it is no bundle, or one of another version of Python.
        NotShippable: something the code needs is missing here.
    """
    return LoadedCode(data)


def ship_value(value: object) -> bytes:
    """A function or class in a payload, by value: a bundle that adds to ``__main__`` what is missing there."""
    if isinstance(value, type):
        if value not in _shipped_classes:
            _shipped_classes[value] = _Packer(sys.modules.get("__main__"), is_partial=True).pack({"": value}).data
        return _shipped_classes[value]
    return _Packer(sys.modules.get("__main__"), is_partial=True).pack({"": value}).data


def load_value(data: bytes) -> object:
    """What ``ship_value`` packed (called while unpickling signed bytes)."""
    return load_code(data).routine("")


_shipped_classes: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class _Space:
    """Stands for a dictionary of globals inside a pickle."""

    key: Key


class _CodePickler(pickle.Pickler):
    """pickle, with functions, classes and namespaces as the packer numbers them."""

    def __init__(self, file: io.BytesIO, packer: _Packer, names_main: bool) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._packer = packer
        self._names_main = names_main

    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, type):
            return self._packer.class_id(thing)
        if type(thing) is _Space:
            return ("space", thing.key)
        if self._names_main and type(thing) is types.FunctionType:
            return self._packer.main_id(thing)
        return None

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        if kind is types.FunctionType:
            return self._packer.take_function(thing) if shipped.is_by_value(thing) else NotImplemented
        if isinstance(thing, type):
            return reducers.take_builtin_type(thing) or NotImplemented
        if isinstance(thing, types.ModuleType):
            return reducers.take_module(thing, shipped.is_importable(thing.__name__))
        if (rule := reducers.RULES.get(kind)) is not None:
            return rule(thing)
        if kind in copyreg.dispatch_table:
            return NotImplemented
        _refuse_supervisor_objects(thing)
        return reducers.take_standard_object(thing) or reducers.take_by_protocol(thing, _take_by_dill)


def _take_by_dill(value: Any) -> reducers.Reduced:
    import dill

    return _make_by_dill, (dill.dumps(value, recurse=True),)


def _make_by_dill(data: bytes) -> Any:
    import dill

    return dill.loads(data)


def _refuse_supervisor_objects(thing: Any) -> None:
    for cls in type(thing).__mro__:
        if cls.__module__ in _STAY_HOME and cls.__name__ in ("Flow", "Runtime") and not _says_how(cls):
            raise reducers.CannotBeSent(
                f"a {cls.__name__} belongs to the process that runs it; "
                "keep the names you need instead, or use the methods of the routine"
            )


def _says_how(cls: type) -> bool:
    return "__reduce__" in cls.__dict__ or "__reduce_ex__" in cls.__dict__


class _Packer:
    """Collects what is reachable, and writes it in an order in which it can be loaded.

    Skeletons of classes come first, each its own pickle; then one stream of contents, in which classes
    precede functions and functions precede other values, so that a value's methods work when it is built.
    """

    def __init__(self, main: types.ModuleType | None, *, is_partial: bool) -> None:
        self._main = main
        self._is_partial = is_partial
        self._classes: dict[type, int] = {}
        self._skeletons: list[tuple[int, bytes]] = []
        self._spaces: list[dict[str, Any]] = []
        self._wanted: dict[tuple[Key, str], str] = {}
        self._imports: dict[str, None] = {}
        self._queues: tuple[deque[tuple[Any, ...]], ...] = (deque(), deque(), deque())
        self._stream = io.BytesIO()
        self._writer = _CodePickler(self._stream, self, names_main=False)
        self._operation_count = 0
        self._asker = ""

    def pack(self, routines: Mapping[str, object]) -> CodeBundle:
        pieces = {}
        for routine_id, routine in routines.items():
            self._asker = f"Routine '{routine_id}'" if routine_id else ""
            pieces[routine_id] = self._dump_routine(routine)
        self._drain()
        if self._main is not None and not self._is_partial:
            self._add_classes_of_main(self._main)
        part_a = self._part_a()
        digest = hashlib.sha256(part_a).digest()
        known = shipped.table_of(digest)
        if known is None or known.classes != list(self._classes):
            names = [name for key, name in self._wanted if key == _MAIN]
            shipped.enter(digest, shipped.Table(list(self._classes), self._spaces), names)
        data: bytes = Encoder().pack({"format": _FORMAT, "python": _PYTHON, "a": part_a, "b": pieces})
        return CodeBundle(data, hashlib.sha256(data).hexdigest())

    # -- what the pickler asks --

    def class_id(self, cls: type) -> tuple[Any, ...] | None:
        """The persistent id of a class that travels by value."""
        index = self._classes.get(cls)
        if index is None:
            if not shipped.is_by_value(cls) or reducers.take_builtin_type(cls) is not None:
                return None
            if self._is_partial and (reference := shipped.reference_to(cls)) is not None:
                return ("known", *reference)
            index = self._add_class(cls)
        return ("class", index)

    def main_id(self, function: types.FunctionType) -> tuple[str, str] | None:
        """The persistent id of a function that ``__main__`` has under its own name."""
        if self._main is None or function.__globals__ is not self._main.__dict__:
            return None
        name = function.__name__
        if self._main.__dict__.get(name) is not function:
            return None
        self._want(_MAIN, self._main.__dict__, name, name)
        return ("main", name)

    def take_function(self, function: types.FunctionType) -> reducers.Reduced:
        """A function by value; what it uses of its globals is sent too."""
        key = self._key_of(function.__globals__)
        if not isinstance(key, str):
            user = function.__qualname__.replace("<locals>.", "")
            for name in reducers.global_names(function.__code__):
                if name in function.__globals__ and name not in _OWN_NAMES:
                    self._want(key, function.__globals__, name, user)
            self._note_submodules(function)
        return reducers.take_function(function, _Space(key))

    # -- collecting --

    def _key_of(self, namespace: dict[str, Any]) -> Key:
        if self._main is not None and namespace is self._main.__dict__:
            return _MAIN
        name = namespace.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        if isinstance(name, str) and module is not None and module.__dict__ is namespace:
            if shipped.is_importable(name):
                return name
        for index, space in enumerate(self._spaces):
            if space is namespace:
                return index
        self._spaces.append(namespace)
        return len(self._spaces) - 1

    def _want(self, key: Key, namespace: dict[str, Any], name: str, user: str) -> None:
        if (key, name) in self._wanted or (self._is_partial and key == _MAIN and shipped.is_in_main(name)):
            return
        self._wanted[key, name] = f"{self._asker}\0{user}"
        value = namespace[name]
        is_code = isinstance(value, type | types.FunctionType | types.ModuleType)
        self._queues[1 if is_code else 2].append(("name", key, name, value))

    def _note_submodules(self, function: types.FunctionType) -> None:
        words = set(reducers.attribute_names(function.__code__))
        for name in reducers.global_names(function.__code__):
            package = function.__globals__.get(name)
            if isinstance(package, types.ModuleType) and hasattr(package, "__path__"):
                prefix = package.__name__ + "."
                for module in list(sys.modules):
                    if module.startswith(prefix) and words.issuperset(module[len(prefix) :].split(".")):
                        self._imports[module] = None

    def _add_class(self, cls: type) -> int:
        for needed in (*cls.__bases__, type(cls)):
            self.class_id(needed)
        if cls in self._classes:
            return self._classes[cls]
        index = self._classes[cls] = len(self._classes)
        name = cls.__name__
        if self._main is not None and self._main.__dict__.get(name) is cls:
            self._want(_MAIN, self._main.__dict__, name, name)
        self._skeletons.append((index, self._dump(reducers.take_skeleton(cls))))
        self._queues[0].append(("class", index, cls))
        return index

    def _add_classes_of_main(self, main: types.ModuleType) -> None:
        for value in list(main.__dict__.values()):
            if isinstance(value, type) and value.__module__ == "__main__" and value not in self._classes:
                alone = _Packer(main, is_partial=True)
                try:
                    alone.class_id(value)
                    alone._drain()
                except NotShippable:
                    continue  # nobody asked for it
                self.class_id(value)
                self._drain()

    # -- writing --

    def _drain(self) -> None:
        """Write what is waiting, and what that brings along, always the most basic kind first."""
        while True:
            level = next((i for i, queue in enumerate(self._queues) if queue), None)
            if level is None:
                return
            operation = self._queues[level].popleft()
            if operation[0] == "class":
                _, index, cls = operation
                self._write(("class", index, reducers.take_content(cls)), cls)
                continue
            _, key, name, value = operation
            if level == 2:
                self._asker, user = self._wanted[key, name].split("\0")
                self._dump(value, lambda path, part: self._global_refusal(name, user, path, part))  # noqa: B023
                if self._queues[0] or self._queues[1]:
                    self._queues[2].appendleft(operation)
                    continue
            self._write(operation, value)

    def _write(self, operation: tuple[Any, ...], value: Any) -> None:
        if operation[0] == "name":
            self._asker, user = self._wanted[operation[1:3]].split("\0")
            name = operation[2]
            refuse: _Refusal = lambda path, part: self._global_refusal(name, user, path, part)  # noqa: E731
        else:
            refuse = lambda path, part: f"class {value.__qualname__}: {path} ({type(part).__name__})"  # noqa: E731
        try:
            self._writer.dump(operation)
        except Exception as error:  # the user's __reduce__ and __getstate__ run here
            content = operation[-1]
            raise self._refusal(content, error, refuse) from error
        self._operation_count += 1

    def _dump(self, value: Any, refuse: _Refusal | None = None, names_main: bool = False) -> bytes:
        buffer = io.BytesIO()
        try:
            _CodePickler(buffer, self, names_main).dump(value)
        except Exception as error:  # the user's __reduce__ and __getstate__ run here
            raise self._refusal(value, error, refuse or (lambda path, part: f"{path} ({type(part).__name__})")) from error
        return buffer.getvalue()

    def _dump_routine(self, routine: object) -> bytes:
        def refuse(path: str, part: Any) -> str:
            where = f"attribute '{path[1:]}'" if path.startswith(".") else f"its value{path}"
            return f"{where} ({type(part).__name__})"

        return self._dump(routine, refuse, names_main=True)

    def _part_a(self) -> bytes:
        file = self._main.__dict__.get("__file__") if self._main is not None else None
        part = {
            "partial": self._is_partial,
            "file": file if isinstance(file, str) else None,
            "imports": list(self._imports),
            "space_names": [str(space.get("__name__", "")) for space in self._spaces],
            "class_names": [[cls.__module__, cls.__qualname__] for cls in self._classes],
            "skeletons": [[index, data] for index, data in self._skeletons],
            "stream": self._stream.getvalue(),
            "operation_count": self._operation_count,
        }
        return Encoder().pack(part)

    # -- explaining --

    def _global_refusal(self, name: str, user: str, path: str, part: Any) -> str:
        return f"global '{name}{path}' ({type(part).__name__}), used by {user}(),"

    def _refusal(self, root: Any, error: Exception, refuse: _Refusal) -> NotShippable:
        if isinstance(error, NotShippable):
            return error
        path, part = deepest_failure(root, "", self._works)
        who = f"{self._asker}: " if self._asker else ""
        return NotShippable(
            f"{who}{refuse(path, part)} cannot be sent to a worker: {_reason(error, part)}. "
            "Make it in the handler when it is first needed, or leave it out with __getstate__"
        )

    def _works(self, value: Any) -> bool:
        trial = _Packer(self._main, is_partial=self._is_partial)
        try:
            _CodePickler(io.BytesIO(), trial, names_main=True).dump(value)
        except Exception:  # whatever the user's __reduce__ raises, the answer is no
            return False
        return True


_Refusal = Callable[[str, Any], str]


def _reason(error: Exception, part: Any) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).rstrip(".") or type(error).__name__


class LoadedCode:
    """A bundle in this process; ``routine`` builds the objects."""

    def __init__(self, data: bytes) -> None:
        bundle = _read_bundle(data)
        self._pieces: dict[str, bytes] = bundle["b"]
        part_a: bytes = bundle["a"]
        self.digest = hashlib.sha256(data).hexdigest()
        code_digest = hashlib.sha256(part_a).digest()
        self._table = shipped.table_of(code_digest) or _load_part_a(part_a, code_digest)

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
        raise CheckpointFormat(f"the code was packed in format {bundle['format']}, this version reads {_FORMAT}")
    if bundle["python"] != _PYTHON:
        raise CheckpointFormat(
            f"the code was packed by {bundle['python']} and this is {_PYTHON}: code that is not in a module "
            "cannot change versions; run the same Python, or move the code to a module that can be imported"
        )
    return bundle


def _load_part_a(data: bytes, digest: bytes) -> shipped.Table:
    part = unpack_simple(data)
    spaces: list[dict[str, Any]] = [_new_space(name) for name in part["space_names"]]
    table = shipped.Table([_Missing] * len(part["class_names"]), spaces)
    names: list[str] = []
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
    if part["file"] is not None and not part["partial"]:
        main["__file__"] = part["file"]
    shipped.enter(digest, table, names)
    return table


def _perform(
    operation: tuple[Literal["class"], int, dict[str, Any]] | tuple[Literal["name"], Key, str, Any],
    table: shipped.Table,
    is_partial: bool,
    names: list[str],
) -> None:
    match operation:
        case ("class", index, content):
            reducers.fill_class(table.classes[index], content)
        case ("name", key, name, value):
            space = _namespace(key, table)
            if key == _MAIN:
                names.append(name)
            if key != _MAIN or not is_partial or name not in space:
                space[name] = value


class _Missing:
    """Takes the place of a class until its skeleton is made."""


def _new_space(name: str) -> dict[str, Any]:
    return types.ModuleType(name).__dict__ | {"__builtins__": __builtins__}


def _namespace(key: Key, table: shipped.Table) -> dict[str, Any]:
    if key == _MAIN:
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
