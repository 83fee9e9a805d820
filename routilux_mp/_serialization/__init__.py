"""Values, signatures and shipped code as bytes, and the registry of serialisable classes.

Modules, lowest first: ``signing`` (keys), ``arrays`` and ``values`` (plain data; the door to
MessagePack), ``shipped`` (classes that travel by value), ``reducers`` and ``code`` (user code; the
door to dill), ``pickling`` (objects), ``batch`` (what moves between routines), ``sources`` (digests
of source text), ``registry`` and ``callables`` (``serialize``/``deserialize`` to dictionaries).
"""
