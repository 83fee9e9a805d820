"""Being woken by changes: a hint that must cost nothing when it fails."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from routilux_mp._storage import watch
from routilux_mp._storage.watch import Watch

WAIT_S = 10.0


@pytest.mark.parametrize("is_network", [False, True], ids=["inotify", "polling"])
def test_a_change_wakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_network: bool) -> None:
    monkeypatch.setattr(watch, "is_network", lambda path: is_network)
    woken = threading.Event()
    watcher = Watch(str(tmp_path), woken.set, 0.05)
    try:
        assert watcher.add(str(tmp_path))
        assert watcher.add(str(tmp_path))
        woken.clear()
        (tmp_path / "new").touch()
        assert woken.wait(WAIT_S)
    finally:
        watcher.close()
    assert not watcher.add(str(tmp_path))


def test_reading_wakes_nobody(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    file.write_text("1")
    events: list[None] = []
    woken = threading.Event()

    def wake() -> None:
        events.append(None)
        woken.set()

    watcher = Watch(str(tmp_path), wake, 0.05)
    try:
        watcher.add(str(tmp_path))
        file.read_text()
        os.listdir(tmp_path)
        assert events == []
        file.write_text("2")  # what was reported before this would be seen by now
        assert woken.wait(WAIT_S)
    finally:
        watcher.close()


def test_what_is_not_there_is_not_watched(tmp_path: Path) -> None:
    watcher = Watch(str(tmp_path), lambda: None, 0.05)
    assert not watcher.add(str(tmp_path / "control"))
    watcher.remove(str(tmp_path / "control"))
    watcher.close()


def test_an_observer_that_cannot_be_started_is_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object) -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr("watchdog.observers.api.BaseObserver.start", fail)
    caplog.set_level(logging.DEBUG)
    watcher = Watch(str(tmp_path), lambda: None, 0.05)
    assert not watcher.add(str(tmp_path))
    assert "not watched" in caplog.text
    watcher.close()


MOUNTS = r"""rootfs / ext4 rw 0 0
server:/export /data nfs4 rw 0 0
tmpfs /data/scratch tmpfs rw 0 0
user@host: /mnt/with\040space fuse.sshfs rw 0 0
//nas/share /share cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "is_network"),
    [
        ("/", "ext4", False),
        ("/home/x", "ext4", False),
        ("/data", "nfs4", True),
        ("/data/jobs", "nfs4", True),
        ("/database", "ext4", False),
        ("/data/scratch/jobs", "tmpfs", False),
        ("/mnt/with space/jobs", "fuse.sshfs", True),
        ("/share/jobs", "cifs", True),
    ],
)
def test_the_type_of_the_file_system_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, kind: str, is_network: bool
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    real = open

    def opened(name: object, *args: object, **kwargs: object) -> object:
        return real(mounts if name == "/proc/self/mounts" else name, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", opened)
    assert watch.file_system_of(path) == kind
    assert watch.is_network(path) is is_network
