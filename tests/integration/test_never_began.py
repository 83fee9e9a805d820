"""A process that ends between making a job and writing its first record leaves nothing to worry about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Flow, Routine, Runtime
from routilux_mp._storage.store import Store
from routilux_mp._supervisor.standby import Standby
from routilux_mp._supervisor.supervisor import Supervisor
from routilux_mp.errors import NeverBegan
from routilux_mp.settings import Settings

MAKE = """
import sys
from routilux_mp._storage.store import Store
from routilux_mp.settings import Settings
Store(sys.argv[1], Settings()).create("j", b"{}")
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With a job ``j`` whose maker is gone."""
    subprocess.run([sys.executable, "-c", MAKE, str(tmp_path)], check=True, timeout=60)
    return tmp_path


def command(*arguments: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "routilux_mp.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_commands_say_so(root: Path) -> None:
    code, said = command("status", str(root))
    assert code == 0
    assert "pending" in said
    assert "never began" in said
    assert "resume" not in said
    _, said = command("status", "--json", str(root))
    (listed,) = json.loads(said)["jobs"]
    assert (listed["is_orphan"], listed["has_never_begun"], listed["trouble"]) == (False, True, "")
    code, said = command("fsck", str(root / "j"))
    assert (code, "never began" in said) == (0, True)
    code, said = command("show", str(root / "j"))
    assert (code != 0, "never began" in said) == (True, True)


def test_it_cannot_be_resumed(root: Path) -> None:
    flow = Flow(flow_id="f")
    flow.add_routine(Routine(), "r")
    with Runtime(1, checkpoint_dir=str(root)) as runtime, pytest.raises(NeverBegan, match="Start it again"):
        runtime.resume_job("j", flow)


def test_a_standby_leaves_it_alone(root: Path) -> None:
    settings = Settings(checkpoint_dir=str(root), backend="inline")
    said: list[str] = []
    supervisor = Supervisor(settings)
    supervisor.start()
    standby = Standby(supervisor, capacity=0, flow_of=lambda flow_id: None, say=said.append)
    try:
        standby.look()
        for thread in list(standby._taking.values()):
            thread.join(30)
        standby.look()
        assert not standby._ended, "its maker may only be slow"
        assert not said
        standby.look()
        assert not standby._taking
    finally:
        standby._wakeup.close()
        supervisor.close()


def test_while_its_maker_lives_it_is_only_young(tmp_path: Path) -> None:
    with Store(str(tmp_path), Settings()) as store:
        tenure = store.create("j", b"{}")
        try:
            _, said = command("status", str(tmp_path))
            assert "pending" in said
            assert "never began" not in said
        finally:
            tenure.close()
