"""The code of flows on its way to the workers: packed, signed for the log, loaded once.

Not here: how it is packed (``_serialization.code``), who loads it (``backends``). The rules it owns: code from
a log is loaded only with its signature checked; and whoever waits for a load hears of its end, however many
wait and whatever ends it.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from .._serialization.packing import pack, unpack
from .._serialization.signing import SIGNATURE_BYTES
from ..backends.base import Code
from ..errors import NotShippable
from . import recovery
from .compiled import CompiledFlow
from .recoding import Kept

if TYPE_CHECKING:
    from .supervisor import Supervisor

#: Codes that are kept loaded though nothing uses them: the next job of the same flow begins the sooner.
CODES_MAX = 64
_KEPT_NS = 600_000_000_000


class Shipping:
    """Methods may be called from any thread, but for :meth:`answered`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._lock = threading.Lock()
        #: code -> why it was refused, or None; what was refused may be asked for again. Asked for last, listed last.
        self._loads: dict[str, Future[str | None]] = {}
        self._asked_ns: dict[str, int] = {}
        #: code -> its sources, as far as they are known here
        self._sources: dict[str, bytes] = {}

    def code_of(self, flow: CompiledFlow) -> Code:
        """The flow's code, for the kind of workers there are."""
        if flow.code is not None:
            return Code(flow.code.code_id, flow.code.bundle, None, flow.code.environment)
        if self._supervisor.settings.backend == "inline":
            return Code(f"inline-{id(flow.routines)}", None, flow.routines, recovery.environment())
        from .._serialization.code import pack_code

        bundle = pack_code(flow.routines, main=sys.modules.get("__main__"))
        return Code(bundle.digest, bundle.data, None, recovery.environment())

    def ask(self, code: Code) -> bool:
        """Let it be loaded, unless that was asked for already."""
        return self._ask(code)[1]

    def load(self, code: Code) -> None:
        """Have it loaded where workers start.

        Raises:
            NotShippable: it cannot be loaded there, and why.
        """
        future, _ = self._ask(code)
        refusal = self._supervisor.wait_for(future, "its flow has been loaded")
        if refusal is not None:
            raise NotShippable(refusal)

    def answered(self, code_id: str, refusal: str | None, sources: bytes = b"") -> None:
        """The word of the backend; called in the loop's thread."""
        with self._lock:
            if sources:
                self._sources[code_id] = sources
            future = self._loads.get(code_id)
            if refusal is not None:
                self._loads.pop(code_id, None)
                self._asked_ns.pop(code_id, None)
        if future is not None and not future.done():
            future.set_result(refusal)

    def allow(self, flow: CompiledFlow, code: Code) -> None:
        """Let the flow have as many worker processes as it may; the loop hears of it before it hears of the job."""
        supervisor = self._supervisor
        if flow.max_workers:
            placement, is_fixed = supervisor.loop.placement, supervisor.settings.max_workers > 0
            supervisor.tell(lambda: placement.allow(code.code_id, flow.max_workers, is_fixed), is_awaited=False)

    def read_sources(self, flow: CompiledFlow, code: Code) -> None:
        """Know the sources of a flow of this process; done while its code is being loaded, since it takes a while."""
        if flow.code is not None:
            self._sources[code.code_id] = flow.code.sources
        elif flow.routines and self._supervisor.is_durable and code.code_id not in self._sources:
            from .._serialization.sources import pack_sources

            self._sources[code.code_id] = pack_sources(flow.routines)

    def kept(self, job_id: str, code: Code) -> Kept:
        """The code as a job keeps it: signed, and its sources."""
        if not self._supervisor.is_durable:
            return Kept()
        sources = self._sources.get(code.code_id, b"")
        if code.bundle is None:
            return Kept(b"", sources)
        environment = pack(dict(code.environment))
        content = pack((code.code_id, environment, code.bundle))
        return Kept(self._supervisor.signer.sign(_code_place(job_id), content) + content, sources)

    def check_signature(self, job_id: str, kept: Kept) -> None:
        """Raise unless the job's code was signed with a key of ours, if it was signed at all."""
        if kept.signed:
            self.stored(job_id, kept)

    def stored(self, job_id: str, kept: Kept) -> Code:
        """The code that a job keeps.

        Raises:
            NotShippable: it keeps none.
            SignatureInvalid, KeyUnavailable: it is not known to be ours.
        """
        if not kept.signed:
            raise NotShippable(f"job {job_id} keeps no code of its flow; resume it from a program that defines it")
        signature, content = kept.signed[:SIGNATURE_BYTES], kept.signed[SIGNATURE_BYTES:]
        self._supervisor.signer.verify(_code_place(job_id), content, signature)
        code_id, environment, bundle = unpack(content)
        return Code(code_id, bundle, None, unpack(environment), wants_sources=True)

    def _ask(self, code: Code) -> tuple[Future[str | None], bool]:
        supervisor = self._supervisor
        with self._lock:
            future = self._loads.pop(code.code_id, None)
            is_new = future is None
            future = self._loads[code.code_id] = future or Future()
            self._asked_ns[code.code_id] = supervisor.clock.monotonic_ns()
        if not is_new:
            return future, False
        try:
            supervisor.call(lambda: self._load_now(code))
        except Exception as error:  # raised again; those who wait for the same code meet it too
            with self._lock:
                self._loads.pop(code.code_id, None)
                self._asked_ns.pop(code.code_id, None)
            future.set_exception(error)
            raise
        return future, True

    def _load_now(self, code: Code) -> None:
        """In the loop's thread. What was asked for least lately makes room, if nothing uses it."""
        loop = self._supervisor.loop
        loop.backend.load(code)
        before_ns = self._supervisor.clock.monotonic_ns() - _KEPT_NS  # whoever has just asked is about to use it
        with self._lock:
            done = [code_id for code_id, future in self._loads.items() if future.done()]
            old = [code_id for code_id in done if self._asked_ns[code_id] < before_ns]
            excess = len(self._loads) - CODES_MAX
            for code_id in loop.forget_codes(old[: max(0, excess)]):
                del self._loads[code_id], self._asked_ns[code_id]
                self._sources.pop(code_id, None)


def _code_place(job_id: str) -> bytes:
    return pack(("code", job_id))
