"""What holds for every test: private key and checkpoints, and nothing left behind.

A test fails when a process, a thread or a descriptor that it started is still there after it, or
when it left a file in the source tree. Some need a moment to go, so the check polls with a deadline.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How quick a draw is says nothing on a machine that is shared.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

_ROOT = Path(__file__).resolve().parent.parent
_LEAK_DEADLINE_S = 3.0
_PRIVATE = tempfile.TemporaryDirectory(prefix="routilux-mp-tests-", ignore_cleanup_errors=True)

# Before anything of the package is imported: no test reads or writes the user's own key and checkpoints.
os.environ["ROUTILUX_MP_KEY_FILE"] = str(Path(_PRIVATE.name, "key"))
os.environ["ROUTILUX_MP_CHECKPOINT_DIR"] = str(Path(_PRIVATE.name, "checkpoints"))


#: Rings that are thorough by nature: `scripts/test --quick` leaves them to the whole suite.
_SLOW_RINGS = (
    "tests/failover", "tests/model", "tests/property", "tests/recovery", "tests/storage_faults",
    "tests/simulation/test_mutants.py", "tests/simulation/test_store_sim.py", "tests/acceptance/test_examples.py",
    "tests/acceptance/test_demo.py", "tests/acceptance/test_end_of_script.py", "tests/integration/test_api_details.py",
    "tests/integration/test_documents.py", "tests/integration/test_error_table.py", "tests/seeds/test_programs.py",
    "tests/network", "tests/torture", "tests/integration/test_edited_tasks.py", "tests/integration/test_messages.py",
    "tests/integration/test_unreadable_input.py", "tests/integration/test_containment.py",
    "tests/integration/test_failed_and_resumed.py", "tests/acceptance/test_code_changes.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow rings as such."""
    for item in items:
        if item.path.relative_to(_ROOT).as_posix().startswith(_SLOW_RINGS):
            item.add_marker(pytest.mark.slow)


def _children() -> set[int]:
    """Direct children of this process, zombies included: one that was not reaped is left behind too."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(map(int, path.read_text().split()))
        except OSError:
            pass  # the thread ended while we looked
    return found


def _descriptors() -> dict[int, str]:
    """Open descriptors and what they are; the ones of this look itself are gone by the time they are read."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    return found


def _left_behind(children: set[int], threads: set[threading.Thread], descriptors: dict[int, str]) -> list[str]:
    left = [f"process {pid}" for pid in _children() - children]
    left += [f"thread {thread.name}" for thread in set(threading.enumerate()) - threads if thread.is_alive()]
    left += [
        f"descriptor {fd}: {what}"
        for fd, what in _descriptors().items()
        if descriptors.get(fd) != what and not what.startswith(("/dev/", str(_ROOT), sys.prefix, sys.base_prefix))
    ]
    return left


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a process, thread or descriptor. Linux only: elsewhere there is no /proc."""
    if not os.path.isdir("/proc/self/fd"):
        yield
        return
    children, threads, descriptors = _children(), set(threading.enumerate()), _descriptors()
    yield
    _close_default_runtime()
    left = _left_behind(children, threads, descriptors)
    deadline = time.monotonic() + _LEAK_DEADLINE_S
    while left and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
        left = _left_behind(children, threads, descriptors)
    if left:
        pytest.fail(f"{request.node.nodeid} left behind: {', '.join(sorted(left))}", pytrace=False)


def _close_default_runtime() -> None:
    """The default runtime lives until the process ends, by design; here that is the end of the test."""
    runtime = sys.modules.get("routilux_mp.runtime")
    if runtime is not None:
        runtime.close_default()


@pytest.fixture(scope="session", autouse=True)
def source_tree_stays_clean() -> Iterator[None]:
    """No test writes into the source tree, whatever its working directory."""

    def listing() -> set[str]:
        return {path.name for path in _ROOT.iterdir()} | {
            f"checkpoints/{p.name}" for p in (_ROOT / "checkpoints").iterdir()
        }

    before = listing()
    yield
    new = {name for name in listing() - before if not name.startswith((".", "out"))}
    assert not new, f"the tests left files in the source tree: {sorted(new)}"
