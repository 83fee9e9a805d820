"""Records of small jobs that are kept in memory: the same as in the log, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._core.records import Durable, Submitted
from routilux_mp._storage.store import Store
from routilux_mp._supervisor import recent
from routilux_mp._supervisor.handle import JobHandle
from routilux_mp._supervisor.recent import Recent


def submitted() -> Submitted:
    return Submitted(0, "f", {}, 0, 0, None, code=(b"code" * 10_000,))


def other() -> Durable:
    return object()  # type: ignore[return-value]  # it is never looked at


def test_only_what_stands_is_told() -> None:
    kept = Recent()
    kept.take(1, [submitted(), other()], [b"", b""])
    assert kept.records() is None
    kept.take(2, [other()], [b""])
    kept.stands(1)
    assert len(kept.records() or []) == 2
    kept.stands(2)
    assert len(kept.records() or []) == 3


def test_code_is_not_kept_and_weighs_nothing() -> None:
    kept = Recent()
    kept.take(1, [submitted()], [b"x" * 100_000])
    kept.stands(1)
    (record,) = kept.records() or []
    assert isinstance(record, Submitted)
    assert record.code == ()


def test_a_job_with_a_past_is_read_from_its_log() -> None:
    kept = Recent()
    kept.take(1, [other()], [b""])
    kept.take(2, [other()], [b""])
    kept.stands(2)
    assert kept.records() is None


@pytest.mark.parametrize(
    ("count", "size"), [(recent._RECORDS_MAX + 1, 1), (2, recent._BYTES_MAX)], ids=["records", "bytes"]
)
def test_a_job_that_grew_is_read_from_its_log(count: int, size: int) -> None:
    kept = Recent()
    kept.take(1, [submitted()], [b""])
    kept.stands(1)
    kept.take(2, [other()] * count, [b"x" * size] * count)
    assert kept.records() is None
    kept.stands(2)
    kept.take(3, [other()], [b""])
    kept.stands(3)
    assert kept.records() is None


class Say(Routine):
    def __init__(self, slot: str = "trigger") -> None:
        super().__init__()
        self.add_slot(slot, handler=self.go)
        self.add_event("out")

    def go(self, n: int) -> None:
        for i in range(n):
            self.emit("out", i=i)
        context = self.get_execution_context()
        assert context is not None
        context.job_state.append_to_shared_log({"said": n})


def told(state: Any) -> tuple[list[Any], list[Any], list[Any]]:
    history = [(r.routine_id, r.event_name, r.data) for r in state.execution_history]
    return history, list(state.results("say", "out")), [{**e} for e in state.shared_log]


def test_what_is_told_from_memory_is_what_the_log_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow("recent")
    flow.add_routine(Say(), "say")
    read: list[str] = []
    store_read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, job_id: read.append(job_id) or store_read(self, job_id))
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        state = flow.execute("say", {"n": 3})
        flow.wait_for_completion(job_state=state)
        assert state.status == "completed"
        from_memory = told(state)
        assert read == []
        live = runtime._handles()[0].live
        assert live.recent.records() is not None
        live.recent = Recent()
        assert told(state) == from_memory
        assert read
    assert len(from_memory[1]) == 3


def test_the_newest_entries_are_read_from_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Flow("recent")
    flow.add_routine(Say("inp"), "say")
    with Runtime(1, checkpoint_dir=str(tmp_path), backend="inline") as runtime:
        state = runtime.exec(flow)
        handle = runtime._handles()[0]
        for number in range(4):
            runtime.post(flow, "say", "inp", {"n": number})
        handle.close_input()
        flow.wait_for_completion(job_state=state)
        assert handle.wait_sealed(10.0), "until its description, which reads the same, is written"
        handle.live.recent = Recent()
        whole = list(handle.history())
        decoded: list[Any] = []
        decode = JobHandle._decode
        monkeypatch.setattr(JobHandle, "_decode", lambda self, *more: decoded.append(1) or decode(self, *more))
        for count in (0, 1, 3, len(whole) - 1, len(whole), 1000):
            assert handle.newest_history(count) == whole[len(whole) - min(count, len(whole)) :]
        decoded.clear()
        handle.newest_history(1)
        assert len(decoded) == 1, "what is not shown is not decoded"
    assert len(whole) > 6
