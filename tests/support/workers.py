"""Drives workers of a backend by hand, as a supervisor would."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from routilux_mp._core.batch import Batch
from routilux_mp._core.effects import Part, Work
from routilux_mp._core.stimuli import Completion
from routilux_mp._core.topology import ConnectionSpec, RoutineSpec, Topology
from routilux_mp._serialization.batch import decode_batch, decode_value, encode_batch
from routilux_mp._serialization.code import pack_code
from routilux_mp._serialization.places import cursor_place, emission_place, slot_place, state_place
from routilux_mp._serialization.signing import Signer
from routilux_mp._worker.spill import PayloadReader
from routilux_mp.backends.base import (
    Backend,
    Code,
    CodeReady,
    CodeRefused,
    Died,
    Event,
    JobInfo,
    Message,
    Printed,
    Report,
    Started,
)  # fmt: skip
from routilux_mp.backends.inline import InlineBackend
from routilux_mp.backends.local import LocalBackend
from routilux_mp.routine import Routine

KEY = b"k" * 32
DEADLINE_S = 20.0


def make_backend(kind: str) -> Backend:
    return LocalBackend() if kind == "local" else InlineBackend()


def spec_of(routine_id: str, routine: Routine, workers: int = 1) -> RoutineSpec:
    style = "logic" if routine._logic is not None else "handler"
    return RoutineSpec(
        routine_id, type(routine).__name__, tuple(routine._slots), tuple(routine._events), style, workers=workers
    )


class Driver:
    """One backend with one job of one flow."""

    def __init__(
        self, backend: Backend, routines: Mapping[str, Routine], *, connections: Iterable[ConnectionSpec] = (),
        workers: Mapping[str, int] | None = None, code_id: str = "", **info: Any,
    ) -> None:  # fmt: skip
        self.backend = backend
        for routine in routines.values():
            if not hasattr(routine, "_incoming"):
                routine._incoming = {}  # type: ignore[attr-defined]
        self.topology = Topology(
            "flow", "concurrent",
            tuple(spec_of(name, r, (workers or {}).get(name, 1)) for name, r in routines.items()), tuple(connections),
        )  # fmt: skip
        self.signer = Signer([KEY])
        self.events: list[Event] = []
        bundle = pack_code(routines, main=sys.modules["__main__"]) if isinstance(backend, LocalBackend) else None
        self.code_id = code_id or (bundle.digest if bundle else "code")
        environment = {"sys_path": sys.path, "cwd": os.getcwd(), "argv": sys.argv}
        self.code = Code(self.code_id, bundle.data if bundle else None, routines, environment)
        info.setdefault("keys", (KEY,))
        self.info = JobInfo("job", self.code_id, "flow", self.topology.to_plain(), **info)
        self.payloads = PayloadReader(self.info.blob_dir)

    def begin(self, *workers: int) -> Driver:
        """Load the code, start workers and introduce the job to them."""
        self.backend.load(self.code)
        for worker in workers or (1,):
            self.backend.start(worker, self.code_id)
            self.backend.send(worker, self.info)
        return self

    def send(self, message: Message, worker: int = 1) -> None:
        self.backend.send(worker, message, self.info.job_id)

    def work(
        self,
        dispatch: int,
        items: list[Any],
        *,
        routine: int = 0,
        slot: int = 0,
        seq: int = 0,
        worker: int = 1,
        **more: Any,
    ) -> Work:
        """Send one batch of emissions from outside to one slot."""
        spec = self.topology.routines[routine]
        place = slot_place(self.info.job_id, spec.routine_id, spec.slots[slot])
        data = encode_batch(items, self.signer, place).data
        part = Part(slot, -1, Batch(len(items), data), 0, len(items))
        work = Work(dispatch, worker, routine, (seq,), (part,), **more)
        self.send(work, worker)
        return work

    def turn(self, timeout_s: float = 0.02) -> None:
        self.events += self.backend.poll(timeout_s)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Poll until the condition holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := condition()):
            assert time.monotonic() < deadline, f"it did not come; so far: {self.events}"
            self.turn()
        return found

    def quiet(self, seconds: float) -> None:
        """Poll for a while in which nothing more is to happen."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.turn()

    def all(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def reports(self, dispatch: int) -> list[Completion]:
        return [e.completion for e in self.all(Report) if e.completion.dispatch == dispatch]

    def finish(self, dispatch: int) -> list[Completion]:
        """All reports of a dispatch, which ends."""
        self.until(lambda: any(c.is_last for c in self.reports(dispatch)))
        return self.reports(dispatch)

    def died(self, worker: int = 1) -> Died:
        self.until(lambda: any(e.worker == worker for e in self.all(Died)))
        return next(e for e in self.all(Died) if e.worker == worker)

    def started(self, worker: int = 1) -> Started:
        self.until(lambda: any(e.worker == worker for e in self.all(Started)))
        return next(e for e in self.all(Started) if e.worker == worker)

    def answered(self) -> CodeReady | CodeRefused:
        self.until(lambda: self.all(CodeReady) or self.all(CodeRefused))
        return (self.all(CodeReady) + self.all(CodeRefused))[0]

    def printed(self) -> str:
        return "".join(e.text for e in self.all(Printed))

    def emitted(self, completions: Iterable[Completion], event: str = "out", routine: int = 0) -> list[Any]:
        """The emissions of one event in these reports."""
        spec = self.topology.routines[routine]
        number = spec.events.index(event)
        place = emission_place(self.info.job_id, spec.routine_id, event)
        values = []
        for completion in completions:
            for emit in completion.emits:
                if emit.event == number:
                    items = decode_batch(self.payloads.open(emit.batch.data), self.signer, place)
                    assert len(items) == emit.batch.count
                    values += items
        return values

    def cursor(self, completion: Completion, routine: int = 0) -> Any:
        if completion.cursor is None:
            return None
        spec = self.topology.routines[routine]
        return decode_value(completion.cursor, self.signer, cursor_place(self.info.job_id, spec.routine_id))

    def ops(self, completions: Iterable[Completion]) -> list[tuple[str, str, str, Any]]:
        """Operations on state, values decoded."""
        out = []
        for completion in completions:
            for op, scope, key, value in completion.ops:
                if isinstance(value, bytes) and op != "log":
                    value = decode_value(value, self.signer, state_place(self.info.job_id, scope, key))
                out.append((op, scope, key, value))
        return out

    def value(self, scope: str, key: str, value: Any) -> tuple[str, str, bytes]:
        """A value as ``Work.state`` carries it."""
        place = state_place(self.info.job_id, scope, key)
        return scope, key, encode_batch([value], self.signer, place).data
