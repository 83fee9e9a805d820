"""Objects that are not plain data, by pickle protocol 5; signed by the caller, always.

Classes that travel by value (see ``shipped``) are named, not carried: those of ``__main__`` by their name
there, others by their place in the code they came with. Lambdas, closures and classes that were never sent
with any code go by value. The objects of one emission are pickled together, so that they go on sharing what
they share; those of two emissions never share anything, since batches must not be seen.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterable
from types import FunctionType
from typing import Any

from ..errors import EmissionNotSerializable
from . import arrays, code, shipped
from .paths import deepest_failure

Buffer = memoryview | bytes | bytearray


class UnreadableObject(Exception):
    """An object of an emission cannot be built here; its text says why."""


def dump_objects(objects: list[Any]) -> tuple[bytes, list[memoryview]]:
    """The pickle of *objects* and the large buffers that belong beside it. Errors are those of pickle."""
    beside: list[memoryview] = []

    def keep_beside(buffer: pickle.PickleBuffer) -> bool:
        try:
            content = buffer.raw()
        except BufferError:
            return True  # not contiguous: into the pickle
        if content.nbytes < arrays.OUT_OF_BAND_BYTES_MIN:
            return True
        beside.append(content)
        return False

    file = io.BytesIO()
    _ObjectPickler(file, protocol=5, buffer_callback=keep_beside).dump(objects)
    return file.getvalue(), beside


def load_objects(data: Buffer, beside: Iterable[Buffer]) -> list[Any]:
    """The objects again. *data* has been verified: this runs whatever it says.

    Raises:
        UnreadableObject: a class or module is missing here, or the user's code failed.
    """
    try:
        loaded = pickle.loads(data, buffers=beside)
    except Exception as error:  # the user's __setstate__ and __new__ run here
        raise UnreadableObject(f"{type(error).__name__}: {error}") from error
    if not isinstance(loaded, list):
        raise UnreadableObject("it holds no list of objects")
    return loaded


def refusal(value: Any, error: Exception) -> EmissionNotSerializable:
    """The error that says which part of *value* made pickling fail with *error*."""
    path, part = deepest_failure(value, "value", _can_be_pickled)
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__
    return EmissionNotSerializable(
        f"{path} ({type(part).__name__}) cannot be serialized: {reason}. "
        "Emit plain data, or give the class a __getstate__ that leaves it out"
    )


def _can_be_pickled(value: Any) -> bool:
    try:
        dump_objects([value])
    except Exception:  # whatever the user's __reduce__ raises, the answer is no
        return False
    return True


class _ObjectPickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, type):
            return _take_class(thing)
        if type(thing) is FunctionType and shipped.is_by_value(thing) and not _is_in_main(thing):
            return code.load_value, (code.ship_value(thing),)
        return shipped.by_member_name(thing) or NotImplemented


def _take_class(cls: type) -> Any:
    if not shipped.is_by_value(cls):
        return NotImplemented
    reference = shipped.reference_to(cls)
    if reference is None:
        return code.load_value, (code.ship_value(cls),)
    return NotImplemented if _is_in_main(cls) else (shipped.resolve, reference)


def _is_in_main(thing: type | FunctionType) -> bool:
    """Whether other processes with this code have the thing in their ``__main__``, under its own name."""
    name = thing.__qualname__
    if thing.__module__ != "__main__" or not shipped.is_in_main(name.partition(".")[0]):
        return False
    return "__main__" in sys.modules and shipped.by_name("__main__", name) is thing
