"""Collects the user code that is reachable from routines and writes it in an order in which it can be loaded.

Mechanism is in ``reducers``, the bundle and its loading in ``code``. The rule it owns: what is sent is found
from the code itself (the globals that its instructions name, the classes of its objects), so what nobody
uses cannot get in the way, and what is used and cannot be sent is refused by name.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import types
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ..errors import NotShippable
from . import limits, reducers, shipped
from .cells import lines_of
from .explaining import Label, Weighed, in_class, in_global, in_routine, place_of, say_heavy, too_heavy
from .shipped import MAIN, Key
from .values import Encoder

ByDill = Callable[[Any], reducers.Reduced]
#: Names every module has for itself; the worker's own are kept.
_OWN_NAMES: Final = frozenset(("__builtins__", "__name__", "__spec__", "__loader__", "__doc__", "__cached__"))
_STAY_HOME: Final = ("routilux_mp.flow", "routilux_mp.runtime")


_CURE: Final = "Make it in the handler when it is first needed, or leave it out with __getstate__"

_CLASSES, _FUNCTIONS, _VALUES, _INSTANCES = range(4)


class _Content(NamedTuple):
    """The content of a class, waiting to be written."""

    number: int
    cls: type
    asker: str


class _Name(NamedTuple):
    """A name of a namespace, waiting to be written."""

    key: Key
    name: str
    value: Any
    user: str
    asker: str


class Packed(NamedTuple):
    """The two parts of a bundle, and what part A would bring into a process."""

    part_a: bytes
    pieces: dict[str, bytes]
    table: shipped.Table
    main_names: list[str]


@dataclass(frozen=True, slots=True)
class Space:
    """Stands for a dictionary of globals inside a pickle."""

    key: Key


class _CodePickler(pickle.Pickler):
    """pickle, with functions, classes and namespaces as the packer numbers them."""

    def __init__(self, file: io.BytesIO, packer: Packer, names_main: bool) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._packer = packer
        self._names_main = names_main
        #: What could not be taken apart, if that is why ``dump`` failed.
        self.culprit: tuple[Any, ...] = ()

    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, type):
            return self._packer.class_id(thing)
        if type(thing) is Space:
            return ("space", thing.key)
        if self._names_main and type(thing) is types.FunctionType:
            return self._packer.main_id(thing)
        return None

    def reducer_override(self, thing: Any) -> Any:
        try:
            return self._take(thing)
        except Exception:  # the user's __reduce__ runs here
            self.culprit = (thing,)
            raise

    def _take(self, thing: Any) -> Any:
        kind = type(thing)
        if kind is types.FunctionType:
            return self._packer.take_function(thing) if shipped.is_by_value(thing) else NotImplemented
        if isinstance(thing, type):
            return reducers.take_builtin_type(thing) or NotImplemented
        if isinstance(thing, types.ModuleType):
            return reducers.take_module(thing, shipped.is_importable(thing.__name__))
        if (named := shipped.by_member_name(thing)) is not None:
            return named
        if kind is types.MethodType:
            owner = thing.__self__
            is_of_new_class = isinstance(owner, type) and shipped.is_by_value(owner)
            return reducers.take_method(thing, is_of_new_class=is_of_new_class)
        if (rule := reducers.RULES.get(kind)) is not None:
            return rule(thing)
        if kind in copyreg.dispatch_table:
            return NotImplemented
        _refuse_supervisor_objects(thing)
        return reducers.take_standard_object(thing) or reducers.take_by_protocol(thing, self._packer.by_dill)


def _refuse_supervisor_objects(thing: Any) -> None:
    for cls in type(thing).__mro__:
        if cls.__module__ in _STAY_HOME and cls.__name__ in ("Flow", "Runtime") and not _says_how(cls):
            raise reducers.CannotBeSent(
                f"a {cls.__name__} belongs to the process that runs it; "
                "keep the names you need instead, or use the methods of the routine"
            )


def _says_how(cls: type) -> bool:
    return not {"__reduce__", "__reduce_ex__", "__getstate__"}.isdisjoint(cls.__dict__)


class Packer:
    """One bundle in the making.

    Skeletons of classes come first, each its own pickle; then one stream of contents, in which classes
    precede functions, functions precede values, and instances of the sent classes come last, so that their
    methods work when they are built (a ``__hash__`` or ``__setstate__`` may run then).
    """

    def __init__(
        self, main: types.ModuleType | None, by_dill: ByDill, *, is_partial: bool, is_careful: bool = True
    ) -> None:  # fmt: skip
        """``is_careful``: try first whether what nobody has asked for can be sent, and leave out what cannot."""
        self.by_dill = by_dill
        self._is_careful = is_careful
        self._main = main
        self._is_partial = is_partial
        self._classes: dict[type, int] = {}
        self._skeletons: list[tuple[int, bytes]] = []
        self._spaces: list[dict[str, Any]] = []
        self._wanted: set[tuple[Key, str]] = set()
        self._main_names: list[str] = []
        self._imports: dict[str, None] = {}
        self._files: dict[str, None] = {}
        self._queues: tuple[deque[_Content | _Name], ...] = tuple(deque() for _ in range(4))
        self._stream = io.BytesIO()
        self._writer = _CodePickler(self._stream, self, names_main=False)
        self._operation_count = 0
        self._asker = ""
        self._saw_class = False
        self._told: NotShippable | None = None
        self._heaviest = Weighed(-1, None, in_global("", ""), "")

    def pack(self, routines: Mapping[str, object]) -> Packed:
        """Everything that *routines* need.

        Raises:
            NotShippable: names the routine, the attribute or global, its type and the cure.
        """
        try:
            return self._pack(routines)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Of the circle that this is in: what it has written would wait for the garbage collector."""
        del self._writer

    def _pack(self, routines: Mapping[str, object]) -> Packed:
        pieces = {}
        for routine_id, routine in routines.items():
            self._asker = f"Routine '{routine_id}'" if routine_id else ""
            pieces[routine_id] = self._dump(routine, in_routine, names_main=True)
            self._weigh(len(pieces[routine_id]), routine, in_routine)
        self._drain()
        if self._main is not None and not self._is_partial:
            self._add_classes_of_main(self._main)
        part_a = self._part_a()
        if (weight := len(part_a) + sum(map(len, pieces.values()))) > limits.CODE_BYTES_MAX:
            raise too_heavy(self._heaviest, weight, self._size_of)
        if weight > limits.CODE_BYTES_HEAVY and not self._is_partial:
            say_heavy(self._heaviest, self._size_of)
        return Packed(part_a, pieces, shipped.Table(list(self._classes), self._spaces), self._main_names)

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
        self._saw_class = True
        return ("class", index)

    def main_id(self, function: types.FunctionType) -> tuple[str, str] | None:
        """The persistent id of a function that ``__main__`` has under its own name."""
        if self._main is None or function.__globals__ is not self._main.__dict__:
            return None
        name = function.__name__
        if self._main.__dict__.get(name) is not function:
            return None
        self._want(MAIN, self._main.__dict__, name, "the routine")
        return ("main", name)

    def take_function(self, function: types.FunctionType) -> reducers.Reduced:
        """A function by value; what it uses of its globals is sent too."""
        self._files[function.__code__.co_filename] = None
        key = self._key_of(function.__globals__)
        user = function.__qualname__.replace("<locals>.", "") + "()"
        for name in reducers.global_names(function.__code__):
            # Names like this are put into a module by what loads it (pytest, for its asserts): importing it gives none.
            is_missing = not isinstance(key, str) or name.startswith("@")
            if is_missing and name in function.__globals__ and name not in _OWN_NAMES:
                self._want(key, function.__globals__, name, user)
        if not isinstance(key, str):
            self._note_submodules(function)
        return reducers.take_function(function, Space(key))

    # -- collecting --

    def _key_of(self, namespace: dict[str, Any]) -> Key:
        if self._main is not None and namespace is self._main.__dict__:
            return MAIN
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
        if (key, name) in self._wanted or (self._is_partial and key == MAIN and shipped.is_in_main(name)):
            return
        self._wanted.add((key, name))
        if key == MAIN:
            self._main_names.append(name)
        value = namespace[name]
        is_code = isinstance(value, type | types.FunctionType | types.ModuleType)
        level = _FUNCTIONS if is_code else _VALUES
        self._queues[level].append(_Name(key, name, value, user, self._asker))

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
            self._want(MAIN, self._main.__dict__, name, "the routine")
        self._skeletons.append((index, self._dump(reducers.take_skeleton(cls), in_class(cls))))
        self._queues[_CLASSES].append(_Content(index, cls, self._asker))
        return index

    def _add_classes_of_main(self, main: types.ModuleType) -> None:
        """Whatever class the user has defined may turn up in a payload; one that cannot be sent is nobody's loss."""
        left = [value for value in list(main.__dict__.values()) if isinstance(value, type)]
        left = [cls for cls in left if cls.__module__ == "__main__" and cls not in self._classes]
        is_whole = not self._is_careful or self._can_send(left)
        for group in [left] if is_whole else [[cls] for cls in left if self._can_send([cls])]:
            for cls in group:
                self.class_id(cls)
            self._drain()

    def _can_send(self, classes: list[type]) -> bool:
        trial = Packer(self._main, self.by_dill, is_partial=False)
        try:
            for cls in classes:
                trial.class_id(cls)
            trial._drain()
        except NotShippable:
            return False
        finally:
            trial.let_go()
        return True

    # -- writing --

    def _drain(self) -> None:
        """Write what is waiting, and what that brings along, always the most basic kind first."""
        while (level := next((i for i, queue in enumerate(self._queues) if queue), None)) is not None:
            match self._queues[level].popleft():
                case _Content(number, cls, asker):
                    self._asker = asker
                    content = reducers.take_content(cls)
                    self._write(("class", number, content), types.SimpleNamespace(**content), in_class(cls))
                case _Name(key, name, value, user, asker) as wanted:
                    self._asker = asker
                    if level == _VALUES:
                        self._saw_class = False
                        self._dump(value, in_global(name, user))  # only to see what it brings along
                        if self._saw_class:
                            self._queues[_INSTANCES].append(wanted)
                            continue
                    self._write(("name", key, name, value), value, in_global(name, user))

    def _write(self, operation: tuple[Any, ...], content: Any, label: Label) -> None:
        before = self._stream.tell()
        try:
            self._writer.dump(operation)
        except Exception as error:  # the user's __reduce__ and __getstate__ run here
            raise self._refusal(content, error, label, self._writer.culprit) from error
        self._weigh(self._stream.tell() - before, content, label)
        self._operation_count += 1

    def _weigh(self, size: int, value: Any, label: Label) -> None:
        if size > self._heaviest.size:
            self._heaviest = Weighed(size, value, label, self._asker)

    def _dump(self, value: Any, label: Label, names_main: bool = False) -> bytes:
        buffer = io.BytesIO()
        pickler = _CodePickler(buffer, self, names_main)
        try:
            pickler.dump(value)
        except Exception as error:  # the user's __reduce__ and __getstate__ run here
            raise self._refusal(value, error, label, pickler.culprit) from error
        return buffer.getvalue()

    def _part_a(self) -> bytes:
        own = {} if self._main is None else self._main.__dict__
        file, package = own.get("__file__"), own.get("__package__")  # of a package that is run: imports may be relative
        part = {
            "partial": self._is_partial,
            "file": file if isinstance(file, str) else None,
            "package": package if isinstance(package, str) else None,
            "imports": list(self._imports),
            "lines": {} if self._is_partial else lines_of(self._files),
            "space_names": [str(space.get("__name__", "")) for space in self._spaces],
            "space_packages": [str(space.get("__package__") or "") for space in self._spaces],
            "class_names": [[cls.__module__, cls.__qualname__] for cls in self._classes],
            "skeletons": [[index, data] for index, data in self._skeletons],
            "stream": self._stream.getvalue(),
            "operation_count": self._operation_count,
        }
        return Encoder().pack(part)

    # -- explaining --

    def _refusal(self, root: Any, error: Exception, label: Label, culprit: tuple[Any, ...]) -> NotShippable:
        if error is self._told:
            return self._told
        path, part = place_of(root, culprit, self._works)
        who = f"{self._asker}: " if self._asker else ""
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).rstrip(".")
        cure = "" if isinstance(error, reducers.CannotBeSent | NotShippable) else f". {_CURE}"
        what = label(path, type(part).__name__)
        self._told = NotShippable(f"{who}{what} cannot be sent to a worker: {reason or type(error).__name__}{cure}")
        return self._told

    def _works(self, value: Any) -> bool:
        try:
            self._size_of(value)
        except Exception:  # whatever the user's __reduce__ raises, the answer is no
            return False
        return True

    def _size_of(self, value: Any) -> int:
        trial, buffer = Packer(self._main, self.by_dill, is_partial=self._is_partial), io.BytesIO()
        try:
            _CodePickler(buffer, trial, names_main=True).dump(value)
        finally:
            trial.let_go()
        return buffer.tell()
