"""Taking over jobs that nobody runs any more, from every machine that shares the checkpoint directory.

A standby holds nothing and owns nothing until a job is free: its owner's process has ended, it was
handed over, or its owner on another host has been silent for 1.25 leases. Of several standbys one wins.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from ._compile import compile_flow
from ._current_runtime import leave_all
from .errors import UsageError
from .flow import Flow
from .monitoring.flow_registry import FlowRegistry
from .runtime import Runtime

if TYPE_CHECKING:
    from ._supervisor.compiled import CompiledFlow
    from ._supervisor.standby import Standby as Watcher
    from .job_state import JobState

_log = logging.getLogger(__name__)


class Standby:
    """Waits beside a checkpoint root; see :meth:`run`. Best used as a context manager.

    Args:
        root: the checkpoint root; default: the setting, else ``./checkpoints``.
        capacity: jobs that go on here at the same time at most; 0: any number.
        modules: modules to import flows from. Nothing else is imported that is not signed; a job whose flow is
            in none of them runs with the signed code that it was started with.
        flows: flows of this process to take jobs over with.
        workers: worker processes at most; 0: the number of cores.
        say: is told, in one line, of what happens; default: the log.
        settings: any other setting by its name.

    Raises:
        ValueError: a setting that does not exist, or a module without flows.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        capacity: int = 0,
        modules: Sequence[str] = (),
        flows: Iterable[Flow] = (),
        workers: int = 0,
        say: Callable[[str], None] = _log.info,
        **settings: Any,
    ) -> None:
        self._runtime = Runtime(workers, checkpoint_dir=root, **settings)
        self._runtime._may_create_key = False
        self._capacity = capacity
        self._say = say
        self._flows = {flow.flow_id: flow for name in modules for flow in _flows_of(name)}
        self._flows |= {flow.flow_id: flow for flow in flows}
        self._watcher: Watcher | None = None
        self._is_stopped = False

    def run(self) -> None:
        """Watch and take over until :meth:`stop` is called, from another thread or a signal handler.

        Jobs that were taken over go on until the context is left, or :meth:`close`.
        """
        from ._supervisor.standby import Standby as Watcher  # the engine is imported when it is needed

        self._watcher = Watcher(
            self._runtime._supervisor(), capacity=self._capacity, flow_of=self._compiled, say=self._say
        )
        if self._is_stopped:
            self._watcher.stop()
        self._watcher.run()

    def stop(self) -> None:
        """Make :meth:`run` return."""
        self._is_stopped = True
        if self._watcher is not None:
            self._watcher.stop()

    def close(self) -> None:
        """Stop, let running activations finish, and hand over what has not ended."""
        self.stop()
        self._runtime.shutdown(wait=False)

    @property
    def jobs(self) -> list[JobState]:
        """States of the jobs that were taken over, live."""
        return self._runtime.list_jobs()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _compiled(self, flow_id: str) -> CompiledFlow | None:
        flow = self._flows.get(flow_id)
        return None if flow is None else compile_flow(flow, self._runtime.settings)


def hand_over_on_sigterm() -> None:
    """From now on SIGTERM lets what runs finish, hands every job of this process over, and then ends it.

    A second SIGTERM ends it at once. Nothing is lost either way: handing over only means that a standby
    need not find out first that this process is gone. To be called in the main thread, as every
    installation of a signal handler.
    """
    before = signal.getsignal(signal.SIGTERM)
    threads: list[threading.Thread] = []

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if threads:
            signal.signal(signal.SIGTERM, before if callable(before) else signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        # Not here: whatever this thread was doing may hold the locks that a shutdown needs.
        threads.append(threading.Thread(target=_hand_all_over, name="routilux-sigterm"))
        threads[0].start()

    signal.signal(signal.SIGTERM, on_sigterm)


def _hand_all_over() -> None:
    leave_all()
    os.kill(os.getpid(), signal.SIGTERM)


def _flows_of(name: str) -> list[Flow]:
    """The flows that a module holds or registers; "module:name" for one, or a function that returns one.

    Raises:
        UsageError: it has none.
    """
    place, _, attribute = name.partition(":")
    registered = set(map(id, FlowRegistry.get_instance().list_all()))
    module = importlib.import_module(place)
    if attribute:
        found = getattr(module, attribute, None)
        found = found() if callable(found) and not isinstance(found, Flow) else found
        if not isinstance(found, Flow):
            raise UsageError(f"module '{place}' has no flow '{attribute}'")
        return [found]
    flows = [value for value in vars(module).values() if isinstance(value, Flow)]
    flows += [flow for flow in FlowRegistry.get_instance().list_all() if id(flow) not in registered]
    if not flows:
        raise UsageError(f"module '{place}' holds no flow; name one, or a function that returns one: {place}:NAME")
    return flows
