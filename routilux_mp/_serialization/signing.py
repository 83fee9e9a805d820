"""Keys and signatures: what proves that bytes were written by somebody who holds the key.

The rule it owns: nothing that can run code is loaded unless ``Signer.verify`` has accepted it, and a
signature is good for one place only (the *context* is part of it), so that a signed part can be
neither forged nor moved. Nothing touches the disk before the first signature is made or checked, and
only ``create_if_missing`` ever creates a key. No error, log or ``repr`` shows a key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import KeyUnavailable, SignatureInvalid

if TYPE_CHECKING:
    from pathlib import Path

    from ..settings import Settings

KEY_BYTES = 32
KEY_ID_BYTES = 8
SIGNATURE_BYTES = KEY_ID_BYTES + hashlib.sha256().digest_size
#: A key file is a few lines; anything larger is not one.
KEY_FILE_BYTES_MAX = 64 * 1024

_DOMAIN = b"routilux_mp signature 1\0"
#: Windows has no owners and modes of this kind; there the user's folder keeps others out.
_HAS_OWNERS = hasattr(os, "geteuid")
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def key_path(settings: Settings | None = None) -> Path:
    """Where the key file is looked for: the setting, the environment, else the per-user file."""
    from pathlib import Path  # with all that it imports, 4 ms that workers can do without

    named = (settings.key_file if settings is not None else "") or os.environ.get("ROUTILUX_MP_KEY_FILE", "")
    if named:
        return Path(named).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "routilux_mp" / "key"


class Signer:
    """Signs with its first key, accepts the signatures of all of them.

    Args:
        keys: raw keys, 32 bytes each (a worker gets them through its pipe). Empty: read from *path*.
        path: the key file, read when the first signature is made or checked.
        may_create: ``sign`` and ``keys`` create a missing key file (for a process whose duty it is to sign).
    """

    __slots__ = ("_by_id", "_keys", "_lock", "_may_create", "opens_objects", "path")

    def __init__(self, keys: Sequence[bytes] = (), *, path: Path | None = None, may_create: bool = False) -> None:
        for key in keys:
            if len(key) != KEY_BYTES:
                raise KeyUnavailable(f"a signing key has {KEY_BYTES} bytes, this one has {len(key)}")
        self.path = path if path is not None or keys else key_path()
        self._keys: tuple[bytes, ...] = tuple(keys)
        self._by_id: dict[bytes, bytes] = {_key_id(key): key for key in keys}
        self._may_create = may_create
        self._lock = threading.Lock()
        #: Whether what it has verified may be unpickled, which runs the code of whoever signed it.
        self.opens_objects = True

    @classmethod
    def from_settings(cls, settings: Settings | None = None, *, may_create: bool = False) -> Signer:
        """The signer of this user: keys come from ``key_path(settings)`` when they are needed."""
        return cls(path=key_path(settings), may_create=may_create)

    def that_opens_nothing(self) -> Signer:
        """The same keys, for one that passes objects on as they are stored (see ``sealed``)."""
        other = Signer(self._keys, path=self.path, may_create=self._may_create)
        other.opens_objects = False
        return other

    def __repr__(self) -> str:
        return f"Signer({len(self._keys)} keys loaded, file {self.path})"

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The raw keys, for a child process that is given them through a pipe. Reads the file."""
        self._create_when_allowed()
        self._load()
        return self._keys

    def sign(self, context: bytes, content: bytes) -> bytes:
        """The signature of *content* (or its digest) at the place that *context* names."""
        self._create_when_allowed()
        self._load()
        key = self._keys[0]
        return _key_id(key) + _mac(key, context, content)

    def verify(self, context: bytes, content: bytes, signature: bytes) -> None:
        """Return when the signature is good.

        Raises:
            SignatureInvalid: the content, the place or the signature was changed.
            KeyUnavailable: the key is missing, or another one than it was signed with.
        """
        if len(signature) != SIGNATURE_BYTES:
            raise SignatureInvalid(f"a signature has {SIGNATURE_BYTES} bytes, this one has {len(signature)}")
        self._load()
        key_id, mac = bytes(signature[:KEY_ID_BYTES]), bytes(signature[KEY_ID_BYTES:])
        key = self._by_id.get(key_id)
        if key is None:
            raise KeyUnavailable(
                f"signed with key {key_id.hex()}, which is not among the {len(self._keys)} keys of {self._where()}; "
                "append that key's line from the key file of the machine that wrote this"
            )
        if not hmac.compare_digest(mac, _mac(key, context, content)):
            raise SignatureInvalid("the signature does not fit the content and its place; nothing of it was loaded")

    def create_if_missing(self) -> bool:
        """Create the key file unless there is one; True when this call created it.

        Put-if-absent: of several processes that start together exactly one key survives.
        """
        if self._keys or self.path is None:
            return False
        folder = self.path.parent
        private = folder / f".{self.path.name}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            if os.path.lexists(self.path):
                return False
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600)
            try:
                if _HAS_OWNERS:
                    os.fchmod(descriptor, 0o600)
                os.write(descriptor, os.urandom(KEY_BYTES).hex().encode() + b"\n")
                os.fsync(descriptor)
                try:
                    os.link(private, self.path)
                except FileExistsError:
                    return False
            finally:
                os.close(descriptor)
                os.unlink(private)
        except OSError as error:
            raise KeyUnavailable(f"the signing key {self.path} cannot be created: {error}; {_CURE}") from error
        return True

    def _create_when_allowed(self) -> None:
        if self._may_create and not self._keys:
            self.create_if_missing()

    def _where(self) -> str:
        return str(self.path) if self.path is not None else "this process"

    def _load(self) -> None:
        if self._keys:
            return
        assert self.path is not None, "without keys there is a path"
        with self._lock:
            if not self._keys:
                keys = _read_keys(self.path)
                self._by_id = {_key_id(key): key for key in keys}
                self._keys = keys


_CURE = "copy the key file from the machine that wrote the checkpoint (mode 0600), or name it in ROUTILUX_MP_KEY_FILE"


def _read_keys(path: Path) -> tuple[bytes, ...]:
    try:
        descriptor = os.open(path, os.O_RDONLY | _SAFE | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise KeyUnavailable(f"there is no signing key at {path}; {_CURE}") from None
    except OSError as error:
        raise KeyUnavailable(f"the signing key {path} cannot be read: {error}; {_CURE}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyUnavailable(f"the signing key {path} is not a regular file; {_CURE}")
        if _HAS_OWNERS and status.st_uid != os.geteuid():
            raise KeyUnavailable(f"the signing key {path} belongs to user {status.st_uid}, not to {os.geteuid()}")
        if _HAS_OWNERS and status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise KeyUnavailable(f"the signing key {path} has mode {mode:04o}: others can use it; chmod 600 '{path}'")
        if status.st_size > KEY_FILE_BYTES_MAX:
            raise KeyUnavailable(f"the signing key {path} has {status.st_size} bytes: that is not a key file")
        text = os.read(descriptor, KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise KeyUnavailable(f"the signing key {path} cannot be read: {error}; {_CURE}") from error
    finally:
        os.close(descriptor)
    return _parse_keys(text, path)


def _parse_keys(text: bytes, path: Path) -> tuple[bytes, ...]:
    keys = []
    for number, line in enumerate(text.decode("ascii", "replace").splitlines(), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            key = bytes.fromhex(word)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise KeyUnavailable(f"{path}, line {number}: a key is {KEY_BYTES * 2} hexadecimal digits")
        keys.append(key)
    if not keys:
        raise KeyUnavailable(f"the key file {path} holds no key; {_CURE}")
    return tuple(keys)


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"routilux_mp key id\0" + key).digest()[:KEY_ID_BYTES]


def _mac(key: bytes, context: bytes, content: bytes) -> bytes:
    framed = b"".join((_DOMAIN, len(context).to_bytes(4, "big"), context, content))
    return hmac.digest(key, framed, "sha256")
