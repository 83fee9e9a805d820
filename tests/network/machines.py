"""Virtual machines for tests of network file systems: one image, a kernel and a client cache each.

Software emulation will do; nothing is made outside the folder that the caller names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PACKAGES = "linux-image-cloud-amd64,initramfs-tools,nfs-kernel-server,rpcbind,openssh-server,iproute2,python3,kmod"
LIBRARIES = ("multiprocess", "dill", "filelock>=4.2.7", "watchdog", "msgpack")
SSH = (
    "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "
    "-o ConnectTimeout=5 -o ControlMaster=auto -o ControlPersist=60"
)
NUMBERS = {"server": 1, "a": 2, "b": 3}
DEADLINE_S = 400.0  # machines in software are slow
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
for word in $(cat /proc/cmdline); do case $word in name=*|n=*) export "$word";; esac; done
hostname "$name"
mount -t tmpfs tmpfs /tmp
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
ip addr add "10.9.0.$n/24" dev eth1; ip link set eth1 up
mkdir -p /run/sshd /run/rpcbind /export /shared /srv/log
/usr/sbin/sshd
rpcbind; rpc.statd
if [ "$n" = 1 ]; then
    modprobe nfsd; mount -t nfsd nfsd /proc/fs/nfsd
    echo 10 > /proc/fs/nfsd/nfsv4gracetime; echo 10 > /proc/fs/nfsd/nfsv4leasetime
    echo '/export *(rw,sync,no_subtree_check,no_root_squash,fsid=1)' > /etc/exports
    exportfs -a; rpc.nfsd 8; rpc.mountd
fi
while :; do sleep 1; done
"""


class Machine:
    """One virtual machine, and what runs on it."""

    def __init__(self, folder: Path, name: str, accel: str) -> None:
        self.name, self._folder = name, folder
        self._port = 22800 + NUMBERS[name]
        kernel, initrd = (next(folder.glob(f"root/boot/{kind}-*")) for kind in ("vmlinuz", "initrd.img"))
        lan = "socket,id=lan,mcast=230.0.0.1:22800,localaddr=127.0.0.1"
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", accel, "-cpu", "max", "-m", "768", "-display", "none",
             "-serial", f"file:{folder / name}.console", "-kernel", kernel, "-initrd", initrd,
             "-drive", f"file={folder}/root.ext4,format=raw,if=virtio,snapshot=on",
             "-netdev", f"user,id=host,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22",
             "-device", "virtio-net-pci,netdev=host", "-netdev", lan,
             "-device", f"virtio-net-pci,netdev=lan,mac=52:54:00:09:00:0{NUMBERS[name]}", "-append",
             f"console=ttyS0 root=/dev/vda rw net.ifnames=0 init=/routilux-init name={name} n={NUMBERS[name]}"],
            env={**os.environ, "TMPDIR": str(folder)}, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, command: str, data: bytes = b"", *, is_checked: bool = True) -> str:
        """A shell command there, to its end."""
        options = f"-p {self._port} -i {self._folder}/key -o ControlPath={self._folder}/{self.name}.ssh {SSH}"
        ssh = ["ssh", *options.split(), "root@127.0.0.1", command]
        done = subprocess.run(ssh, input=data, capture_output=True, check=False, timeout=DEADLINE_S)
        if is_checked and done.returncode:
            raise RuntimeError(f"{self.name}: {command}\n{done.stdout.decode()}{done.stderr.decode()}")
        return done.stdout.decode()

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            require(self.qemu.poll() is None, f"qemu of {self.name} runs")
            return "up" in self.run("echo up", is_checked=False)

        until(is_up, f"{self.name} is up")

    def start(self, what: str, arguments: str) -> None:
        """``routilux-mp`` there, in the background; `said` and `exit` tell of it later by the name ``what``."""
        names = "ROUTILUX_MP_KEY_FILE=/srv/key PYTHONPATH=/opt/site:/opt/routilux"
        main = f"env {names} python3 -um routilux_mp.cli {arguments}"
        inner = f"{main} & echo $! > {what}.pid; wait $!; echo exit $? >> {what}.said"
        self.run(f"cd /srv; setsid sh -c '{inner}' > {what}.said 2>&1 < /dev/null &")

    def said(self, what: str) -> str:
        return self.run(f"cat /srv/{what}.said", is_checked=False)

    def kill(self, what: str, number: str) -> None:
        self.run(f"kill -{number} $(cat /srv/{what}.pid)")

    def marks(self) -> list[tuple[int, float]]:
        """(item, when) of every handler that began there."""
        lines = self.run("cat /srv/log/* 2>/dev/null", is_checked=False).splitlines()
        return [(int(item), float(when)) for item, when in map(str.split, lines)]

    def python(self, program: str, *arguments: object) -> str:
        words = " ".join(map(str, arguments))
        return self.run(f"PYTHONPATH=/opt/site:/opt/routilux python3 - {words}", program.encode())

    def clear(self) -> None:
        self.run("cd /srv; for p in *.pid; do kill -9 $(cat $p); done; rm -f *.said *.pid log/*", is_checked=False)


def require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def until(probe: Callable[[], object], what: str, machines: Iterable[Machine] = ()) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not probe():
        if time.monotonic() > deadline:
            said = [f"{m.name}: {m.run('cat /srv/*.said', is_checked=False)}" for m in machines]
            raise AssertionError("\n".join([f"not within {DEADLINE_S:.0f} s: {what}", *said]))
        time.sleep(0.05)


def make_image(folder: Path, mirror: str) -> None:
    """The root file system that all three start from."""
    root = folder / "root"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root), mirror]
    subprocess.run(command, check=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:", "--python-version", "3.11"]
    subprocess.run([*pip, "--target", str(root / "opt/site"), *LIBRARIES], check=True)
    (root / "routilux-init").write_text(INIT)
    (root / "routilux-init").chmod(0o755)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    (root / "root/.ssh/authorized_keys").write_bytes((folder / "key.pub").read_bytes())
    image = folder / "root.ext4.new"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image), "2G"], check=True)
    image.rename(folder / "root.ext4")
