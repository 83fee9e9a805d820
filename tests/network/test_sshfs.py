"""Two hosts that see the root through sshfs: no file locks, answers from a client's cache, an error for "exists"."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from routilux_mp._storage.store import Store
from routilux_mp.errors import MultiHostUnsupported, StorageError
from routilux_mp.settings import Settings
from tests.failover.cluster import Cluster
from tests.network import scenarios

pytestmark = pytest.mark.slow

_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_DEADLINE_S = 15.0
SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
LogLevel ERROR
"""


class Server:
    """An sshd of our own on a port of the loopback, and the directory that it serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served = folder / "served"
        self.served.mkdir()
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        (folder / "sshd_config").write_text(SSHD.format(port=self._port, folder=folder))
        with (folder / "sshd.txt").open("wb") as said:
            command = [shutil.which("sshd", path=_PATH) or "sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        deadline = time.monotonic() + _DEADLINE_S
        while not self._listens() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self._port)) == 0

    @contextmanager
    def mounted(self, name: str, *options: str) -> Iterator[Path]:
        """What it serves, as one more client sees it."""
        point = self.folder / name
        point.mkdir()
        ssh = f"port={self._port},IdentityFile={self.folder}/key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
        words = ["sshfs", "-f", "-o", ",".join([ssh, "LogLevel=ERROR", "BatchMode=yes", *options])]
        user = f"{os.environ.get('USER') or 'root'}@127.0.0.1:{self.served}"
        with (self.folder / f"{name}.txt").open("wb") as said:
            client = subprocess.Popen([*words, user, str(point)], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + _DEADLINE_S
            while not os.path.ismount(point):
                if client.poll() is not None or time.monotonic() > deadline:
                    told = [(self.folder / file).read_text() for file in ("sshd.txt", f"{name}.txt")]
                    pytest.skip(f"sshfs over loopback does not work here: {' '.join(told).strip() or 'no answer'}")
                time.sleep(0.02)
            yield point
        finally:
            subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False, capture_output=True)
            client.terminate()
            client.wait(_DEADLINE_S)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(_DEADLINE_S)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    missing = [name for name in ("sshfs", "sshd", "ssh", "fusermount3") if shutil.which(name, path=_PATH) is None]
    if missing:
        pytest.skip(f"sshfs over loopback needs {', '.join(missing)}: install sshfs and openssh-server")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("sshfs needs /dev/fuse, which cannot be opened here")
    with tempfile.TemporaryDirectory(prefix="routilux-sshfs-") as folder:
        made = Server(Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def mounts(server: Server) -> Iterator[dict[str, Path]]:
    with server.mounted("a") as a, server.mounted("b") as b, server.mounted("c") as c:
        yield {"a": a, "b": b, "c": c}


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.a_zombie_is_fenced,
        scenarios.of_two_standbys_one_wins,
        scenarios.a_hand_over_runs_nothing_twice,
        scenarios.of_many_takers_one_wins_each_job,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_over_sshfs(
    tmp_path: Path, server: Server, mounts: dict[str, Path], scenario: Callable[[Cluster], None]
) -> None:
    name = f"root-{scenario.__name__}"
    seen = {host: point / name for host, point in mounts.items()}
    with Cluster(tmp_path, mounts={"": server.served / name, **seen}, lease_s=scenarios.LEASE_S) as cluster:
        scenario(cluster)


def test_file_locks_exclude_nobody_there(mounts: dict[str, Path]) -> None:
    """Why they are not relied on. Should this fail one day, sshfs has learned something."""
    import fcntl

    with ExitStack() as held:
        for point in mounts.values():
            file = held.enter_context(open(point / "some.lock", "w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_hard_links_it_is_refused(server: Server) -> None:
    with server.mounted("linkless", "disable_hardlink") as point:
        root = point / "linkless-root"
        refused = pytest.raises(MultiHostUnsupported, match="hard links do not work here")
        with Store(str(root), Settings()) as store, refused:
            store.prepare()
        refused = pytest.raises(StorageError, match="neither hard links nor renames that replace nothing work here")
        with Store(str(root), Settings(single_host=True)) as store, refused:
            store.prepare()
