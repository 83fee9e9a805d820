"""Disk full, quota, read-only: the job is blocked and says why, nothing is lost, and it goes on when writing works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from routilux_mp import Runtime
from routilux_mp.errors import StorageError
from tests.recovery.torture import ROOT
from tests.recovery.trouble import ITEMS, flow_of

SMALL = "800k"
LARGE = "256m"


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with very little space."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs tmpfs")
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(place))
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


class Program:
    """``trouble`` in a process of its own."""

    def __init__(self, root: Path, size: int, limit: int = 0, pace_s: float = 0.002) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.recovery.trouble", str(root), str(size), str(limit), str(pace_s)],
            cwd=ROOT,
            env=dict(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"it ended with {self._process.wait(10)}"
        told: dict[str, Any] = json.loads(line)
        return told

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def close(self) -> int:
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()


@contextmanager
def program(*arguments: Any) -> Iterator[Program]:
    made = Program(*arguments)
    try:
        yield made
    finally:
        status = made.close()
    assert status == 0


def expect_blocked(told: dict[str, Any], reason: str) -> None:
    assert told["blocked"] is not None, told
    assert reason in told["blocked"]["reason"]
    assert "tried again" in told["blocked"]["reason"]
    assert told["status"] == "running"
    assert told["went_on"] <= 1  # what ran when the disk was full


def expect_complete(told: dict[str, Any], size: int) -> None:
    assert (told["ended"], told["status"], told["error"], told["blocked"]) == (True, "completed", None, None), told
    assert told["results"] == [{"i": i, "size": size, "is_right": True} for i in range(ITEMS)]


@pytest.mark.parametrize("size", [pytest.param(30_000, id="log"), pytest.param(400_000, id="blobs")])
def test_a_full_disk_blocks_the_job_until_there_is_room(size: int, small_disk: Path) -> None:
    with program(small_disk / "checkpoints", size) as running:
        expect_blocked(running.told(), "No space left on device")
        mount("-o", f"remount,size={LARGE}", str(small_disk))
        running.go_on()
        expect_complete(running.told(), size)


def test_a_disk_that_becomes_read_only_blocks_the_job(small_disk: Path) -> None:
    mount("-o", f"remount,size={LARGE}", str(small_disk))
    root = small_disk / "checkpoints"
    with program(root, 500, 0, 0.03) as running:
        deadline = time.monotonic() + 30
        while len(list(root.glob("*/epochs/*/c*"))) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        # Refused while a file is open for writing, which it is now and then.
        while (
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, check=False).returncode
            != 0
        ):
            assert time.monotonic() < deadline
        expect_blocked(running.told(), "Read-only file system")
        mount("-o", f"remount,rw,size={LARGE}", str(small_disk))
        running.go_on()
        expect_complete(running.told(), 500)


def test_a_limit_for_the_size_of_files_blocks_the_job(tmp_path: Path) -> None:
    with program(tmp_path / "checkpoints", 30_000, 20_000) as running:
        expect_blocked(running.told(), "File too large")
        running.go_on()
        expect_complete(running.told(), 30_000)


def test_a_read_only_disk_is_refused_at_once(small_disk: Path) -> None:
    root = small_disk / "checkpoints"
    mount("-o", "remount,ro", str(small_disk))
    with Runtime(2, checkpoint_dir=str(root)) as runtime:
        with pytest.raises(StorageError, match=r"Read-only file system.*checkpoint_dir=") as caught:
            runtime.exec(flow_of(), {"n": 1, "size": 1})
        assert str(root) in str(caught.value)
        assert runtime.list_jobs() == []


def test_a_directory_without_permission_is_refused_at_once(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("permissions do not stop root")
    tmp_path.chmod(0o500)
    runtime = Runtime(2, checkpoint_dir=str(tmp_path / "checkpoints"))
    with runtime, pytest.raises(StorageError, match=r"Permission denied.*checkpoint_dir="):
        runtime.exec(flow_of(), {"n": 1, "size": 1})
    tmp_path.chmod(0o700)
