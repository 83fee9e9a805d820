"""Any value as JSON-able data, for the documents that people read and exchange.

Plain JSON values stay as they are. What JSON lacks is wrapped in a dictionary with one reserved
key: containers structurally, callables by name, serialisable objects as their own data, and
everything else as text of its binary form, in which objects are signed. Reading verifies the
signature before anything is loaded.
"""

from __future__ import annotations

import base64
import math
from typing import Any

from ..errors import CheckpointDamaged, NotSerializable
from .callables import describe_callable, resolve_callable
from .places import DOCUMENT_PLACE
from .sealed import Joined, Sealed

_TUPLE, _SET, _FROZENSET, _DICT = "$tuple", "$set", "$frozenset", "$dict"
_CALLABLE, _OBJECT, _ENCODED, _JOINED = "$callable", "$object", "$encoded", "$joined"
_RESERVED = frozenset({_TUPLE, _SET, _FROZENSET, _DICT, _CALLABLE, _OBJECT, _ENCODED, _JOINED})
_DEPTH_MAX = 200
_AS_IT_IS = frozenset({type(None), bool, int, str})


#: For errors: a text, or a place and the key or index of what is in it. Spelled out only when there is an error.
Where = str | tuple["Where", Any]


def to_json(value: Any, owner: Any = None, where: Where = "value", depth: int = 0) -> Any:
    """``value`` as JSON-able data.

    ``owner``: the object whose own methods may be named; ``where``: the place, for errors.

    Raises:
        NotSerializable: nested too deeply (or in a cycle), or code that cannot be found by name.
    """
    kind = type(value)
    if kind in _AS_IT_IS or (kind is float and math.isfinite(value)):
        return value
    if depth > _DEPTH_MAX:
        raise NotSerializable(
            f"{_spelled(where)} cannot be serialized: nested more than {_DEPTH_MAX} deep, or in a cycle"
        )
    if kind is list:
        return [to_json(item, owner, (where, i), depth + 1) for i, item in enumerate(value)]
    if kind is dict:
        return _dict_to_json(value, owner, where, depth)
    if kind in (tuple, set, frozenset):
        items = [to_json(item, owner, (where, i), depth + 1) for i, item in enumerate(value)]
        if kind is not tuple:
            import json  # workers need it for nothing else

            items.sort(key=json.dumps)  # the same set gives the same document in every process
        return {f"${kind.__name__}": items}
    if kind is Sealed:
        return {_ENCODED: base64.b64encode(value.data).decode("ascii")}
    if kind is Joined:
        return {_JOINED: [to_json(value.first), to_json(value.items, owner, where, depth + 1)]}
    if callable(value) and not isinstance(value, type):
        return {_CALLABLE: describe_callable(value, owner, _spelled(where))}
    if _is_serializable(value):
        return {_OBJECT: _object_to_json(value, _spelled(where))}
    return _encoded(value, _spelled(where))


def from_json(data: Any, owner: Any = None, where: str = "value") -> Any:
    """The value of :func:`to_json`.

    Raises:
        SignatureInvalid, KeyUnavailable: signed text that does not verify here.
        ValueError: a class or a callable that is not known here.
    """
    kind = type(data)
    if kind is list:
        return [from_json(item, owner, f"{where}[{i}]") for i, item in enumerate(data)]
    if kind is not dict:
        return data
    if len(data) != 1 or next(iter(data)) not in _RESERVED:
        return {key: from_json(item, owner, f"{where}[{key!r}]") for key, item in data.items()}
    [(mark, content)] = data.items()
    match mark:
        case "$callable":
            return resolve_callable(content, owner, None, where)
        case "$object":
            return _object_from(content)
        case "$encoded":
            return _decoded(content, where)
        case "$joined":
            first, rest = (from_json(part, owner, where) for part in content)
            return [*first, *rest] if isinstance(first, (list, tuple)) else [first, *rest]
    items = [from_json(item, owner, f"{where}[{i}]") for i, item in enumerate(content)]
    match mark:
        case "$tuple":
            return tuple(items)
        case "$set":
            return set(items)
        case "$frozenset":
            return frozenset(items)
    return dict(items)


def _spelled(where: Where) -> str:
    keys = []
    while isinstance(where, tuple):
        where, key = where
        keys.append(f"[{key!r}]")
    return where + "".join(reversed(keys))


def _dict_to_json(value: dict[Any, Any], owner: Any, where: Where, depth: int) -> dict[str, Any]:
    if len(value) != 1 or next(iter(value)) not in _RESERVED:
        found: dict[str, Any] = {}
        for key, item in value.items():
            if type(key) is not str:
                break
            found[key] = item if type(item) in _AS_IT_IS else to_json(item, owner, (where, key), depth + 1)
        else:
            return found
    pairs = [
        [to_json(key, owner, f"{_spelled(where)} key", depth + 1), to_json(item, owner, (where, key), depth + 1)]
        for key, item in value.items()
    ]
    return {_DICT: pairs}


def _is_serializable(value: Any) -> bool:
    from .registry import Serializable

    return isinstance(value, Serializable)


def _object_to_json(value: Any, where: str) -> Any:
    from .registry import check_constructible

    check_constructible(type(value), f"{where} ({type(value).__name__})")
    return value.serialize()


def _object_from(content: Any) -> Any:
    from .registry import Serializable

    return Serializable.deserialize(content)


def _encoded(value: Any, where: str) -> dict[str, str]:
    from .batch import encode_value
    from .signing import Signer

    try:
        data = encode_value(value, Signer(may_create=True), DOCUMENT_PLACE)
    except (TypeError, ValueError) as error:
        raise NotSerializable(f"{where} cannot be serialized: {error}") from error
    return {_ENCODED: base64.b64encode(data).decode("ascii")}


def _decoded(content: Any, where: str) -> Any:
    from .batch import decode_value
    from .signing import Signer

    try:
        raw = base64.b64decode(content, validate=True)
    except (TypeError, ValueError) as error:
        raise CheckpointDamaged(f"{where}: not the text of an encoded value: {error}") from None
    return decode_value(raw, Signer(), DOCUMENT_PLACE)
