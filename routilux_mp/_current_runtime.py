"""Which runtime ``flow.execute`` and its friends use, and what happens to runtimes at the end of the script.

The innermost ``with Runtime()`` block counts, else one default per process, made on first use.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .settings import Settings

if TYPE_CHECKING:
    from .runtime import Runtime


log = logging.getLogger(__name__)

_lock = threading.RLock()
_in_use: set[Runtime] = set()
_begun: WeakSet[Runtime] = WeakSet()
_active: list[Runtime] = []
_default: Runtime | None = None
_overrides: dict[str, Any] = {}


def current_runtime() -> Runtime:
    """The innermost ``with Runtime()`` block's, else the process's default one, made now if need be."""
    global _default
    with _lock:
        if _active:
            return _active[-1]
        if _default is None or _default.is_closed:
            from .runtime import Runtime  # it needs this module first

            settings = dict(_overrides)
            _default = Runtime(settings.pop("max_workers", None), **settings)
        return _default


def close_default() -> None:
    """Shut the default runtime down as the end of the script would; the next use makes a new one."""
    global _default
    with _lock:
        old, _default = _default, None
    if old is not None:
        old.shutdown()


def configure(**settings: Any) -> None:
    """Set settings of the default runtime; one that is already in use ends first, as at the end of the script.

    Raises:
        ValueError: a setting that does not exist or has an impossible value.
    """
    merged = {**_overrides, **settings}
    Settings.load(**merged)
    with _lock:
        _overrides.clear()
        _overrides.update(merged)
    close_default()


def remember(runtime: Runtime) -> None:
    """``runtime`` has begun to run jobs: have it shut down at the end of the script, at the latest."""
    with _lock:
        _in_use.add(runtime)
        _begun.add(runtime)


def leave_all() -> None:
    """Every runtime hands its jobs over once what runs has ended; also those that are being shut down."""
    with _lock:
        begun = list(_begun)
    for runtime in begun:
        runtime._leave()


def activate(runtime: Runtime) -> None:
    """``runtime`` is the current one until :func:`deactivate`."""
    with _lock:
        _active.append(runtime)


def deactivate(runtime: Runtime) -> None:
    """``runtime`` is no longer to be used."""
    with _lock:
        _in_use.discard(runtime)
        if runtime in _active:
            _active.remove(runtime)


def _drain_at_exit() -> None:
    """The end of the script is like leaving a ``with`` block, for every runtime that is still open."""
    for runtime in list(_in_use):
        is_interrupted = _has_been_interrupted()
        handles = runtime._handles()  # of jobs that nobody else may look at any more
        try:
            runtime.shutdown(wait=not is_interrupted)
        except KeyboardInterrupt:
            is_interrupted = True
        if is_interrupted:
            _tell_of_unfinished(runtime, [handle.job_id for handle in handles if not handle.view.is_terminal])


def _has_been_interrupted() -> bool:
    """Whether Ctrl-C has ended the script; an interactive session goes on after one, and ends otherwise."""
    is_interactive = hasattr(sys, "ps1") or sys.flags.interactive
    return not is_interactive and getattr(sys, "last_type", None) is KeyboardInterrupt


def _tell_of_unfinished(runtime: Runtime, left: list[str]) -> None:
    if not left:
        return
    root = runtime.settings.checkpoint_dir
    if runtime.settings.durability == "none":
        cure = "nothing of that is kept"
    elif len(left) == 1:
        cure = f"go on by: routilux-mp resume {os.path.join(root, left[0])}"
    else:
        cure = f"see: routilux-mp status {root}"
    log.warning("interrupted, %d unfinished; %s", len(left), cure)


def _drain_after_the_main_thread() -> None:
    """The same before new threads are refused, unless other threads may still want to run jobs."""
    if all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        _drain_at_exit()


def _begin_anew() -> None:
    """In a process that has been forked: the runtimes are its parent's, and shut for it; it may have one of its own."""
    global _lock, _default
    _lock = threading.RLock()
    _default = None
    for known in (_in_use, _begun, _active):
        for runtime in list(known):
            runtime._is_closed = True
        known.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)

# Before executors and the like are shut, if the interpreter offers that moment; what is begun later, by threads or by
# others who are called at its end, is waited for then.
atexit.register(_drain_at_exit)
if hasattr(threading, "_register_atexit"):
    threading._register_atexit(_drain_after_the_main_thread)
