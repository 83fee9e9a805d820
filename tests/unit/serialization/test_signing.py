"""Keys: where they come from, who may make one, and what is refused."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from routilux_mp._serialization.signing import SIGNATURE_BYTES, Signer, key_path
from routilux_mp.errors import KeyUnavailable, SignatureInvalid
from routilux_mp.settings import Settings

ONE, TWO = b"1" * 32, b"2" * 32


def write_key(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_key_file_is_named_by_setting_environment_or_user(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("ROUTILUX_MP_KEY_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert key_path() == tmp_path / "config/routilux_mp/key"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_path() == tmp_path / ".config/routilux_mp/key"
    monkeypatch.setenv("ROUTILUX_MP_KEY_FILE", "/there/key")
    assert key_path() == Path("/there/key")
    assert key_path(Settings(key_file="/set/key")) == Path("/set/key")


def test_nothing_touches_the_disk_before_it_is_needed(tmp_path) -> None:
    signer = Signer(path=tmp_path / "no" / "key", may_create=True)
    assert list(tmp_path.iterdir()) == []
    signer.sign(b"", b"")
    assert stat.S_IMODE((tmp_path / "no").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "no" / "key").stat().st_mode) == 0o600


def test_only_one_who_may_create_does(tmp_path) -> None:
    path = tmp_path / "key"
    for use in (lambda s: s.sign(b"", b""), lambda s: s.verify(b"", b"", bytes(SIGNATURE_BYTES)), lambda s: s.keys):
        with pytest.raises(KeyUnavailable, match=f"no signing key at {path}; copy the key file"):
            use(Signer(path=path))
    assert not path.exists()
    # A reader never creates one, even if it could sign.
    with pytest.raises(KeyUnavailable):
        Signer(path=path, may_create=True).verify(b"", b"", bytes(SIGNATURE_BYTES))
    assert not path.exists()


def test_of_many_creators_one_key_survives(tmp_path) -> None:
    signers = [Signer(path=tmp_path / "key") for _ in range(8)]
    start = threading.Barrier(8)
    made: list[bool] = []

    def create(signer: Signer) -> None:
        start.wait()
        made.append(signer.create_if_missing())

    threads = [threading.Thread(target=create, args=(signer,)) for signer in signers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]
    assert len({signer.keys for signer in signers}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_an_existing_key_is_never_replaced(tmp_path) -> None:
    path = write_key(tmp_path / "key", ONE.hex())
    assert Signer(path=path).create_if_missing() is False
    assert path.read_text() == ONE.hex()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_can_use_is_refused(tmp_path, mode) -> None:
    path = write_key(tmp_path / "key", ONE.hex(), mode)
    with pytest.raises(KeyUnavailable, match=f"mode {mode:04o}.*chmod 600"):
        Signer(path=path).sign(b"", b"")


def test_a_key_of_another_user_is_refused(tmp_path, monkeypatch) -> None:
    path = write_key(tmp_path / "key", ONE.hex())
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(KeyUnavailable, match=f"belongs to user {owner}"):
        Signer(path=path).sign(b"", b"")


def test_links_directories_and_pipes_are_refused(tmp_path) -> None:
    write_key(tmp_path / "real", ONE.hex())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "folder", "pipe"):
        with pytest.raises(KeyUnavailable):
            Signer(path=tmp_path / name).sign(b"", b"")


@pytest.mark.parametrize("text", ["", "# only this", "abcd", "zz" * 32, ONE.hex() + "\nshort", "\xff" * 64])
def test_a_file_that_holds_no_key_is_refused_without_showing_it(tmp_path, text) -> None:
    path = write_key(tmp_path / "key", text)
    with pytest.raises(KeyUnavailable, match=str(path)) as caught:
        Signer(path=path).sign(b"", b"")
    assert ONE.hex() not in str(caught.value)


def test_a_huge_file_is_no_key(tmp_path) -> None:
    path = write_key(tmp_path / "key", "0" * 70_000)
    with pytest.raises(KeyUnavailable, match="70000 bytes"):
        Signer(path=path).sign(b"", b"")


def test_rotation_the_first_key_signs_and_all_are_accepted(tmp_path) -> None:
    path = write_key(tmp_path / "key", f"# new\n{TWO.hex()}  # since May\n\n{ONE.hex()}\n")
    both = Signer(path=path)
    both.verify(b"c", b"x", Signer([ONE]).sign(b"c", b"x"))
    Signer([TWO]).verify(b"c", b"x", both.sign(b"c", b"x"))
    with pytest.raises(KeyUnavailable, match=r"signed with key [0-9a-f]{16}"):
        Signer([ONE]).verify(b"c", b"x", both.sign(b"c", b"x"))


def test_a_signature_is_good_for_its_content_and_place_only() -> None:
    signer = Signer([ONE])
    signature = signer.sign(b"place", b"content")
    signer.verify(b"place", b"content", signature)
    for context, content in [
        (b"plac", b"econtent"),
        (b"place", b"content!"),
        (b"", b"placecontent"),
        (b"other", b"content"),
    ]:
        with pytest.raises(SignatureInvalid):
            signer.verify(context, content, signature)
    for place in range(8, SIGNATURE_BYTES):
        flipped = bytearray(signature)
        flipped[place] ^= 1
        with pytest.raises(SignatureInvalid):
            signer.verify(b"place", b"content", bytes(flipped))


def test_no_key_is_ever_shown(tmp_path) -> None:
    path = write_key(tmp_path / "key", ONE.hex())
    signer = Signer(path=path)
    signer.sign(b"", b"")
    assert ONE.hex() not in repr(signer)
    assert repr(ONE) not in repr(signer)


def test_keys_travel_to_a_child_as_bytes(tmp_path) -> None:
    parent = Signer(path=tmp_path / "key", may_create=True)
    child = Signer(parent.keys)
    child.verify(b"c", b"x", parent.sign(b"c", b"x"))
    with pytest.raises(KeyUnavailable, match="32 bytes"):
        Signer([b"short"])
