"""Values, signatures and shipped code as bytes, and the registry of serialisable classes.

Modules, lowest first: ``signing`` (keys), ``packing`` (the door to MessagePack), ``arrays`` and
``values`` (plain data), ``shipped`` (classes that travel by value), ``reducers`` and ``code`` (user
code; the door to dill), ``pickling`` (objects), ``batch`` (what moves between routines), ``sources``
(digests of source text), ``registry``, ``callables`` and ``json_values`` (``serialize`` and
``deserialize`` to dictionaries).
"""
