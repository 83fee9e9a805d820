"""The code of flows on its way to the workers: packed, signed for the log, loaded once.

Not here: how it is packed (``_serialization.code``), who loads it (``backends``). The rules it owns: code from
a log is loaded only with its signature checked; and whoever waits for a load hears of its end, however many
wait and whatever ends it.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .._core.records import Adopted, Submitted
from .._serialization.packing import pack, unpack
from .._serialization.signing import SIGNATURE_BYTES
from .._storage.codec import decode_record
from .._storage.replay import LogRef
from ..backends.base import Code
from ..errors import NotShippable
from . import recovery
from .compiled import CompiledFlow

if TYPE_CHECKING:
    from .supervisor import Supervisor

#: Where the code of a job is: the first frame of its first commit.
CODE_PLACE = LogRef(1, 2, 0)


class Shipping:
    """Methods may be called from any thread, but for :meth:`answered`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._lock = threading.Lock()
        #: code -> why it was refused, or None; what was refused may be asked for again.
        self._loads: dict[str, Future[str | None]] = {}

    def code_of(self, flow: CompiledFlow) -> Code:
        """The flow's code, for the kind of workers there are."""
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

    def answered(self, code_id: str, refusal: str | None) -> None:
        """The word of the backend; called in the loop's thread."""
        with self._lock:
            future = self._loads.get(code_id)
            if refusal is not None:
                self._loads.pop(code_id, None)
        if future is not None and not future.done():
            future.set_result(refusal)

    def allow(self, flow: CompiledFlow, code: Code) -> None:
        """Let the flow have as many worker processes as it may."""
        supervisor = self._supervisor
        if flow.max_workers:
            is_fixed = supervisor.settings.max_workers > 0
            supervisor.call(lambda: supervisor.loop.placement.allow(code.code_id, flow.max_workers, is_fixed))

    def signed(self, job_id: str, code: Code) -> tuple[Any, ...]:
        """(code id, environment, signature and bundle), as the first record keeps it."""
        if code.bundle is None or not self._supervisor.is_durable:
            return ()
        environment = pack(dict(code.environment))
        content = pack((code.code_id, environment, code.bundle))
        return (self._supervisor.signer.sign(_code_place(job_id), content) + content,)

    def check_signature(self, job_id: str, frame: bytes) -> None:
        """Raise unless the job's first record was signed with a key of ours, if it was signed at all."""
        record = decode_record(frame)
        if isinstance(record, (Submitted, Adopted)) and record.code:
            self.stored(job_id, frame)

    def stored(self, job_id: str, frame: bytes) -> Code:
        """The code that the job's first record keeps.

        Raises:
            NotShippable: it keeps none.
            SignatureInvalid, KeyUnavailable: it is not known to be ours.
        """
        record = decode_record(frame)
        if not isinstance(record, (Submitted, Adopted)) or not record.code:
            raise NotShippable(f"job {job_id} keeps no code of its flow; resume it from a program that defines it")
        signed = record.code[0]
        signature, content = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
        self._supervisor.signer.verify(_code_place(job_id), content, signature)
        code_id, environment, bundle = unpack(content)
        return Code(code_id, bundle, None, unpack(environment))

    def _ask(self, code: Code) -> tuple[Future[str | None], bool]:
        supervisor = self._supervisor
        with self._lock:
            future = self._loads.get(code.code_id)
            if future is not None:
                return future, False
            future = self._loads[code.code_id] = Future()
        try:
            supervisor.call(lambda: supervisor.loop.backend.load(code))
        except Exception as error:  # whatever it is, those who wait for the same code meet it too
            with self._lock:
                self._loads.pop(code.code_id, None)
            future.set_exception(error)
            raise
        return future, True


def _code_place(job_id: str) -> bytes:
    return pack(("code", job_id))
