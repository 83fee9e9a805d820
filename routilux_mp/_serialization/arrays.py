"""numpy arrays and scalars as plain data: which ones are plain, and their exact way there and back.

Plain are booleans, integers, floats, complex numbers, dates, time spans and fixed-width strings;
arrays of objects, records and subclasses of ``ndarray`` are not. numpy is imported only to decode an
array; an encoder that meets one finds numpy already imported.
"""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

#: Arrays from this size on lie beside the values, aligned, and can be mapped instead of copied.
OUT_OF_BAND_BYTES_MIN = 64 * 1024
ALIGNMENT_BYTES = 64
DIMENSIONS_MAX = 64

#: Exactly what ``dtype.str`` gives for a plain dtype. Nothing else reaches ``numpy.dtype``, which parses a language.
_DTYPE = re.compile(r"[<>|=](?:[biufcSU][1-9][0-9]{0,9}|[mM]8(?:\[[0-9]{0,10}[A-Za-zμ]{1,7}\])?)\Z")


def is_plain(value: Any) -> bool:
    """Whether *value* is a numpy array or scalar that is plain data."""
    np = sys.modules.get("numpy")
    array_type = getattr(np, "ndarray", None)
    if array_type is None:
        return False
    if type(value) is not array_type and not isinstance(value, np.generic):  # type: ignore[union-attr]
        return False
    if type(value).__module__ != "numpy":
        return False
    dtype = value.dtype
    return dtype.metadata is None and dtype.subdtype is None and _DTYPE.match(dtype.str) is not None


def is_scalar(value: Any) -> bool:
    """Whether a plain numpy value is a scalar, not an array."""
    return isinstance(value, sys.modules["numpy"].generic)


def describe(array: np.ndarray[Any, Any]) -> tuple[str, list[int], bool]:
    """(dtype, shape, whether columns come first) of an array."""
    flags = array.flags
    return array.dtype.str, list(array.shape), bool(flags.f_contiguous and not flags.c_contiguous)


def raw(array: np.ndarray[Any, Any], by_columns: bool) -> memoryview | bytes:
    """The array's bytes, without a copy where it is contiguous."""
    if by_columns:
        array = array.T
    if array.size == 0:
        return b""
    np = sys.modules["numpy"]
    contiguous = np.ascontiguousarray(array)
    return memoryview(contiguous.reshape(-1).view(np.uint8))


def scalar_to_bytes(value: np.generic) -> tuple[str, bytes]:
    """(dtype, bytes) of a numpy scalar."""
    return value.dtype.str, value.tobytes()


def scalar_from_bytes(dtype_text: str, data: bytes) -> Any:
    """The numpy scalar that ``scalar_to_bytes`` described."""
    return array_from_buffer(dtype_text, [], False, data)[()]


def array_from_buffer(
    dtype_text: Any, shape: Any, by_columns: Any, buffer: bytes | bytearray | memoryview
) -> np.ndarray[Any, Any]:
    """The array over *buffer*, without a copy; writable when the buffer is.

    Raises:
        ValueError: the description is none of a plain array, or does not fit the buffer.
    """
    import numpy as np

    if not isinstance(dtype_text, str) or not _DTYPE.match(dtype_text):
        raise ValueError("not the dtype of a plain array")
    if not isinstance(shape, list) or len(shape) > DIMENSIONS_MAX:
        raise ValueError("not the shape of an array")
    if not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ValueError("not the shape of an array")
    dtype = np.dtype(dtype_text)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError("the size of an array does not fit its shape")
    order: Literal["C", "F"] = "F" if by_columns else "C"
    if len(buffer) == 0:
        return np.zeros(tuple(shape), dtype=dtype, order=order)  # numpy refuses an empty buffer
    return np.ndarray(tuple(shape), dtype, buffer, order=order)
