"""A writer of views that stood still for long never puts its old view back, wherever it was stopped."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from routilux_mp._storage import views
from routilux_mp._storage.files import RealFiles
from routilux_mp._storage.log import Tenure
from routilux_mp._storage.store import Store
from routilux_mp.errors import StorageBlocked
from routilux_mp.settings import Settings
from tests.support.faulty import Crashed, FaultyFiles
from tests.support.memory import MemoryFiles
from tests.support.stores import JOB, make_store

#: More operations than any write of a view comes to.
K_MAX = 40


def shown(disk: MemoryFiles) -> bytes | None:
    with make_store(disk, seed=999) as store:
        return store.read_views(JOB)[1]


def say(tenure: Tenure, who: str) -> None:
    tenure.write_views(None, b'{"by": "%s"}' % who.encode())


class Sleeper:
    """Writes in a thread of its own, and stands still just before its k-th operation until it is woken."""

    def __init__(self, write: Callable[[], None], files: FaultyFiles, disk: MemoryFiles, k: int) -> None:
        self._stands, self._goes_on = threading.Event(), threading.Event()

        def stand() -> None:
            self._stands.set()
            self._goes_on.wait(10)

        def run() -> None:
            try:
                write()
            finally:
                self._stands.set()

        files.__init__(disk, k, action=stand)  # type: ignore[misc]
        self._files = files
        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert self._stands.wait(10)

    @property
    def has_ended(self) -> bool:
        """It never came to its k-th operation."""
        return self._files.fired is None

    def wake(self) -> None:
        """It comes to its end."""
        self._goes_on.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


def an_old_owner(disk: MemoryFiles, *, has_written: bool, unnamed: bool = True) -> tuple[Tenure, FaultyFiles]:
    disk.can_unnamed = unnamed
    files = FaultyFiles(disk)
    tenure = make_store(files, seed=1).create(JOB, b"{}")
    if has_written:
        say(tenure, "old, before")
    tenure.commit([b"1"])
    return tenure, files


def woken_at_every_operation(*, has_written: bool, unnamed: bool = True) -> int:
    """The old owner stops at any operation of its write, and goes on at any of its successor's."""
    for stop in range(1, K_MAX):
        for go_on in range(1, K_MAX):
            disk = MemoryFiles()
            old, files = an_old_owner(disk, has_written=has_written, unnamed=unnamed)
            sleeper = Sleeper(lambda old=old: say(old, "old"), files, disk, stop)  # type: ignore[misc]
            new_files = FaultyFiles(disk)
            new = make_store(new_files, seed=2).take_over(JOB)[1]
            new_files.__init__(disk, go_on, action=sleeper.wake)  # type: ignore[misc]
            say(new, "new")
            sleeper.wake()
            assert shown(disk) == b'{"by": "new"}', f"stopped at {stop}, went on at {go_on}"
            say(new, "new, again")
            assert shown(disk) == b'{"by": "new, again"}'
            assert list(disk.files("root/tmp").values()) == [bytes(64 * 1024)] * 2, "more than the ballasts is left"
            if new_files.fired is None:
                break
        if sleeper.has_ended:
            return stop
    raise AssertionError("it never ended")


@pytest.mark.parametrize("unnamed", [True, False], ids=["O_TMPFILE", "named"])
@pytest.mark.parametrize("has_written", [True, False], ids=["replaced", "first"])
def test_a_writer_that_wakes_up_late(has_written: bool, unnamed: bool) -> None:
    assert woken_at_every_operation(has_written=has_written, unnamed=unnamed) > 7


def test_mutant_private_files_that_stay_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views.Views, "_take_away", lambda *args, **kwargs: None)
    with pytest.raises(AssertionError):
        woken_at_every_operation(has_written=True)


def test_mutant_a_writer_that_does_not_look_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views.Views, "_is_shown", lambda *args: True)
    with pytest.raises(AssertionError):
        woken_at_every_operation(has_written=True)


def after_a_killed_successor() -> None:
    """The successor is killed at any operation of its first write: the next one finishes what it has begun."""
    for stop in range(1, K_MAX):
        for killed in range(1, K_MAX):
            disk = MemoryFiles()
            old, files = an_old_owner(disk, has_written=True)
            sleeper = Sleeper(lambda old=old: say(old, "old"), files, disk, stop)  # type: ignore[misc]
            new_files = FaultyFiles(disk)
            new = make_store(new_files, seed=2).take_over(JOB)[1]
            new_files.__init__(disk, killed, error=None)  # type: ignore[misc]
            try:
                say(new, "killed")
            except Crashed:
                pass
            newest = make_store(disk, seed=3).take_over(JOB)[1]
            say(newest, "newest")
            sleeper.wake()
            assert shown(disk) == b'{"by": "newest"}', f"stopped at {stop}, its successor killed at {killed}"
            if new_files.fired is None:
                break
        if sleeper.has_ended:
            return
    raise AssertionError("it never ended")


def test_a_successor_that_is_killed_while_it_writes() -> None:
    after_a_killed_successor()


def test_mutant_a_view_that_does_not_say_who_may_be_unfenced_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = views.wrap
    monkeypatch.setattr(views, "wrap", lambda document, position, since=None: real(document, position))
    with pytest.raises(AssertionError):
        after_a_killed_successor()


def test_a_flow_that_is_written_late_does_not_replace_a_newer_one() -> None:
    for stop in range(1, K_MAX):
        disk = MemoryFiles()
        files = FaultyFiles(disk)
        old = make_store(files, seed=1).create(JOB, None)
        old.commit([b"1"])
        sleeper = Sleeper(lambda old=old: old.write_flow_view(b'{"by": "old"}'), files, disk, stop)  # type: ignore[misc]
        new = make_store(disk, seed=2).take_over(JOB)[1]
        new.write_views(b'{"by": "new"}', b"{}")
        sleeper.wake()
        if sleeper.has_ended:
            return
        assert make_store(disk).read_views(JOB)[0] == b'{"by": "new"}', f"stopped at {stop}"
    raise AssertionError("it never ended")


def test_a_stopped_process(tmp_path: Path) -> None:
    """The same with a process and SIGSTOP: it has looked, and is about to rename."""
    root = str(tmp_path / "root")
    pid = os.fork()
    if pid == 0:
        try:
            tenure = Store(root, Settings()).create(JOB, b"{}")
            say(tenure, "old, before")
            tenure.commit([b"1"])
            rename = RealFiles.replace

            def stop(self: RealFiles, name: str, at: int, target: str, target_at: int) -> None:
                os.kill(os.getpid(), signal.SIGSTOP)
                rename(self, name, at, target, target_at)

            RealFiles.replace = stop  # type: ignore[method-assign]
            say(tenure, "old")
            os._exit(0)
        finally:
            os._exit(1)
    try:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        with Store(root, Settings()) as store:
            tenure = store.take_over(JOB)[1]
            say(tenure, "new")
            os.kill(pid, signal.SIGCONT)
            assert os.waitpid(pid, 0)[1] == 0
            assert store.read_views(JOB)[1] == b'{"by": "new"}'
            tenure.close()
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it came to its end


def test_what_a_failed_write_left_does_not_keep_the_next_one_from_writing() -> None:
    for kind in ("write", "fsync", "replace"):
        disk = MemoryFiles()
        old, files = an_old_owner(disk, has_written=True)
        failing = lambda name, args, kind=kind: name in (kind, "unlink")  # noqa: E731
        files.__init__(disk, 1, error=errno.EIO, only=failing, lasts=True)  # type: ignore[misc]
        with pytest.raises(StorageBlocked):
            say(old, "failed")
        assert len(disk.files("root/tmp")) == 2, "the ballast, and what could not be removed"
        files.heal()
        say(old, "written")
        assert shown(disk) == b'{"by": "written"}'
        assert len(disk.files("root/tmp")) == 1


def test_a_private_file_that_was_swept_is_written_anew() -> None:
    disk = MemoryFiles()
    old, files = an_old_owner(disk, has_written=True)

    def sweep() -> None:
        folder = disk.node("root/tmp")
        for name in [name for name in folder.names if "job_state" in name]:  # type: ignore[union-attr]
            del folder.names[name]  # type: ignore[union-attr]

    files.__init__(disk, 1, action=sweep, only=lambda name, args: name == "replace")  # type: ignore[misc]
    say(old, "swept")
    assert files.fired == "replace"
    assert shown(disk) == b'{"by": "swept"}'


def test_a_view_that_cannot_be_read_is_not_replaced() -> None:
    """What is shown may be newer: an error says nothing about that."""
    disk = MemoryFiles()
    old, files = an_old_owner(disk, has_written=True)
    files.__init__(disk, 1, error=errno.EIO, only=lambda name, args: name == "read_range")  # type: ignore[misc]
    with pytest.raises(StorageBlocked):
        say(old, "blind")
    assert shown(disk) == b'{"by": "old, before"}'


def test_what_is_made_later_is_shown_last() -> None:
    """One thread has made its document and is slow to write it: another one's, made meanwhile, is not replaced."""
    disk = MemoryFiles()
    tenure, _ = an_old_owner(disk, has_written=True)
    is_made, may_go_on = threading.Event(), threading.Event()
    status = b"running"

    def slowly() -> tuple[None, bytes]:
        document = b'{"status": "%s"}' % status
        is_made.set()
        may_go_on.wait(0.2)
        return None, document

    slow = threading.Thread(target=tenure.show, args=(slowly,))
    slow.start()
    assert is_made.wait(10)
    status = b"completed"
    tenure.show(lambda: (None, b'{"status": "%s"}' % status))
    may_go_on.set()
    slow.join(10)
    assert shown(disk) == b'{"status": "completed"}'
