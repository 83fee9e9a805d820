"""The names of the ``serilux`` package that routilux_mp implements, under the same names."""

from ._serialization.registry import Serializable, register_serializable

__all__ = ["Serializable", "register_serializable"]
