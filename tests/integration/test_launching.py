"""The process that workers come from, before there is anybody whom it serves: nothing of it is left in any case.

What is left behind by a test (processes, descriptors) fails it; see ``conftest``.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._supervisor.supervisor import Supervisor
from routilux_mp.backends import launching
from routilux_mp.backends.local import LocalBackend
from routilux_mp.errors import BackendError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the promises about processes are made for Linux")


def no_process(statement: str, pass_fds: Sequence[int]) -> int:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def make_flow() -> Flow:
    routine = Routine()
    routine.add_slot("trigger", lambda **data: None)
    flow = Flow("one")
    flow.add_routine(routine, "one")
    return flow


def test_one_that_nobody_takes_over_is_ended() -> None:
    launched = launching.launch()
    assert os.readlink(f"/proc/{launched.pid}/exe") == os.path.realpath(sys.executable)
    launched.close()
    assert not os.path.exists(f"/proc/{launched.pid}")


def test_a_backend_takes_it_over(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = launching.launch()
    backend = LocalBackend(launched)
    monkeypatch.setattr(launching, "spawn_python", no_process)
    backend.prepare()  # there is one
    assert backend._nursery_pid == launched.pid
    backend.close()
    assert not os.path.exists(f"/proc/{launched.pid}")


def test_without_room_for_a_process_the_caller_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launching, "spawn_python", no_process)
    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime, pytest.raises(BackendError) as caught:
        runtime.execute(make_flow(), "one", {})
    assert "cannot be started: [Errno 11]" in str(caught.value)


@pytest.mark.parametrize("cls", [LocalBackend, Supervisor])
def test_what_fails_while_it_starts_ends_it(cls: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise MemoryError("no room")

    with Runtime(1, checkpoint_dir=str(tmp_path)) as runtime:
        with monkeypatch.context() as patched:
            patched.setattr(cls, "__init__", fail)
            with pytest.raises(MemoryError, match="no room"):
                runtime.execute(make_flow(), "one", {})
        assert runtime.execute(make_flow(), "one", {}, settle_s=30).status == "completed", "afterwards it goes"
