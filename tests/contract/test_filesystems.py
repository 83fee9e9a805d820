"""What the store relies on, the same for the real file system and the one that tests use."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from routilux_mp._storage.files import FileTooLarge, NotARegularFile, RealFiles
from tests.support.memory import MemoryFiles


@pytest.fixture(params=["real", "memory"])
def fs(request: pytest.FixtureRequest) -> Any:
    return RealFiles() if request.param == "real" else MemoryFiles()


@pytest.fixture
def at(fs: Any, tmp_path: Path) -> Iterator[int]:
    handle = fs.open_root(f"{tmp_path}/root", create=True)
    yield handle
    fs.close(handle)


def put(fs: Any, at: int, name: str, data: bytes) -> None:
    handle = fs.create(name, at)
    fs.write(handle, data)
    fs.fsync(handle)
    fs.close(handle)


def test_a_file_is_created_once(fs: Any, at: int) -> None:
    put(fs, at, "a", b"data")
    with pytest.raises(FileExistsError):
        fs.create("a", at)
    assert fs.read("a", at, 100) == b"data"
    assert fs.names(at) == ["a"]


def test_link_does_not_replace(fs: Any, at: int) -> None:
    put(fs, at, "a", b"first")
    put(fs, at, "b", b"second")
    fs.link("a", at, "target", at)
    with pytest.raises(FileExistsError):
        fs.link("b", at, "target", at)
    fs.unlink("a", at)
    assert fs.read("target", at, 100) == b"first"


def test_a_file_without_a_name(fs: Any, at: int) -> None:
    handle = fs.create_unnamed(at)
    fs.write(handle, b"data")
    assert fs.names(at) == []
    fs.link_unnamed(handle, "target", at)
    with pytest.raises(FileExistsError):
        fs.link_unnamed(handle, "target", at)
    fs.close(handle)
    assert fs.read("target", at, 100) == b"data"


def test_replace_replaces(fs: Any, at: int) -> None:
    put(fs, at, "a", b"old")
    put(fs, at, "b", b"new")
    fs.replace("b", at, "a", at)
    assert fs.names(at) == ["a"]
    assert fs.read("a", at, 100) == b"new"


def test_directories(fs: Any, at: int) -> None:
    assert fs.make_dir("d", at) is True
    assert fs.make_dir("d", at) is False
    inner = fs.open_dir("d", at)
    put(fs, inner, "file", b"x")
    fs.fsync(inner)
    fs.close(inner)
    assert [(entry.name, entry.is_dir) for entry in fs.entries(at)] == [("d", True)]
    put(fs, at, "plain", b"")
    with pytest.raises(NotADirectoryError):
        fs.open_dir("plain", at)


def test_reading_ranges_and_mapping(fs: Any, at: int) -> None:
    put(fs, at, "a", bytes(range(100)))
    assert fs.read_range("a", at, 90, 50) == bytes(range(90, 100))
    assert fs.read_range("a", at, 200, 5) == b""
    assert bytes(fs.map("a", at)) == bytes(range(100))
    put(fs, at, "empty", b"")
    assert bytes(fs.map("empty", at)) == b""
    with pytest.raises(FileTooLarge):
        fs.read("a", at, 99)


@pytest.mark.parametrize("use", ["read", "read_range", "map", "open_dir", "unlink"])
def test_what_is_not_there(fs: Any, at: int, use: str) -> None:
    arguments = {"read": (1,), "read_range": (0, 1)}.get(use, ())
    with pytest.raises(FileNotFoundError):
        getattr(fs, use)("nothing", at, *arguments)


def test_a_missing_root(fs: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fs.open_root(f"{tmp_path}/nothing", create=False)


# -- only the real one ----------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[RealFiles, int]]:
    fs = RealFiles()
    handle = fs.open_root(str(tmp_path), create=False)
    yield fs, handle
    fs.close(handle)


def test_links_are_not_followed(real: tuple[RealFiles, int], tmp_path: Path) -> None:
    fs, at = real
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dirlink").symlink_to("dir")
    for use in (lambda: fs.read("link", at, 100), lambda: fs.map("link", at), lambda: fs.read_range("link", at, 0, 1)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError):
        fs.open_dir("dirlink", at)
    with pytest.raises(FileExistsError):
        fs.create("link", at)


def test_only_regular_files_are_read(real: tuple[RealFiles, int], tmp_path: Path) -> None:
    """Opening a FIFO would wait for its writer for ever."""
    fs, at = real
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotARegularFile):
        fs.read("fifo", at, 100)
    (tmp_path / "dir").mkdir()
    with pytest.raises(OSError):
        fs.read("dir", at, 100)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_modes_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        fs = RealFiles()
        at = fs.open_root(str(tmp_path), create=False)
        fs.make_dir("dir", at)
        fs.close(fs.create("file", at))
        handle = fs.create_unnamed(at)
        fs.link_unnamed(handle, "linked", at)
        fs.close(handle)
        fs.close(at)
    finally:
        os.umask(old)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in tmp_path.iterdir()}
    assert modes == {"dir": 0o700, "file": 0o600, "linked": 0o600}


def test_the_root_is_private_and_its_parents_are_made(tmp_path: Path) -> None:
    fs = RealFiles()
    fs.close(fs.open_root(f"{tmp_path}/a/b", create=True))
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_handles_are_not_inherited(real: tuple[RealFiles, int]) -> None:
    fs, at = real
    for handle in (at, (made := fs.create("f", at))):
        assert not os.get_inheritable(handle)
    fs.close(made)


def test_a_short_write_is_continued(real: tuple[RealFiles, int], monkeypatch: pytest.MonkeyPatch) -> None:
    fs, at = real
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, bytes(data)[:3]))
    put(fs, at, "a", b"0123456789")
    assert fs.read("a", at, 100) == b"0123456789"
