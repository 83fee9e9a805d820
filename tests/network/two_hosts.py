"""Fail over between two virtual machines that share a checkpoint directory by NFS: two kernels, two client caches.

    scripts/nfs_two_hosts FOLDER [--versions 3 4.2] [--trials NAME ...]

Three machines of one image are made in FOLDER and nowhere else: `server` exports a directory (kernel nfsd, `sync`),
`a` and `b` mount it. Needs Linux, the right to make a root file system (root), and debootstrap, qemu-system-x86,
e2fsprogs, openssh-client. The image is made once (2 minutes, 2 GB); software emulation will do.

What must hold is required; what is merely good to know (times, whether flock excludes) is printed. The exit code says
whether all held.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from routilux_mp.settings import Settings
from tests.failover.programs import FLOW
from tests.network.machines import NUMBERS, Machine, make_image, require, until

ROOT = Path(__file__).resolve().parents[2]
KEY = os.urandom(32).hex().encode()
RACE = """
import os, sys, time
from routilux_mp._storage.files import RealFiles
from routilux_mp._storage.put import Putter
fs, me = RealFiles(), os.urandom(16)
at = fs.open_root("/shared/race", create=True)
putter = Putter(fs, me)
putter.probe(at, single_host=False, where="/shared/race")
for first in range(0, int(sys.argv[2]), 20):
    fs.close(fs.create(f"ready-{first}-{sys.argv[1]}", at))
    while not {f"ready-{first}-a", f"ready-{first}-b"} <= set(fs.names(at)):
        time.sleep(0.01)
    for n in range(first, first + 20) if sys.argv[1] == "a" else reversed(range(first, first + 20)):
        if putter.put(at, at, f"place{n}", (me.ljust(64, b"."),), where="race"):
            print(n)
"""
FOLDED = """
import json, sys
from routilux_mp._storage.store import Store
from routilux_mp._supervisor import recovery
from routilux_mp.settings import Settings
with Store(sys.argv[1], Settings()) as store:
    job = recovery.read(store, sys.argv[2], Settings()).job
print(json.dumps([job.status, sum(job.results.values())]))
"""
LOCK = """
import fcntl, time
file = open("/shared/lock", "w")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print(1, flush=True)
time.sleep(5)
"""


class Field:
    """The three machines, and one job on what they share."""

    def __init__(self, folder: Path, accel: str) -> None:
        self.machines = {name: Machine(folder, name, accel) for name in NUMBERS}
        self.server, self.a, self.b = self.machines.values()
        self.clients = (self.a, self.b)
        self.folder_there = ""

    def prepare(self) -> None:
        """Wait for the machines, and give them this checkout."""
        for machine in self.machines.values():
            machine.wait_until_up()
            packed = subprocess.run(["tar", "-C", ROOT, "-c", "routilux_mp"], capture_output=True, check=True).stdout
            machine.run("mkdir -p /opt/routilux; tar -x -C /opt/routilux", packed)
            machine.run("cat > /srv/failover_flow.py", FLOW.encode())
            machine.run("umask 077; cat > /srv/key", KEY)

    def mount(self, version: str) -> None:
        for machine in self.clients:
            machine.run(f"umount -f /shared 2>/dev/null; mount -t nfs -o vers={version},hard 10.9.0.1:/export /shared")

    def begin(self, name: str) -> None:
        """A root of its own for what comes next; nothing of earlier ones runs on."""
        for machine in self.clients:
            machine.clear()
        self.folder_there = f"roots/{name}"
        self.server.run(f"mkdir -p /export/{self.folder_there}")

    def owner(self, on: Machine, n: int = 100) -> None:
        on.start("owner", f"run failover_flow.py -p n={n} -p log=/srv/log --plain --dir /shared/{self.folder_there}")
        until(lambda: len(on.marks()) >= 15, "15 items", self.clients)

    def standby(self, on: Machine) -> None:
        on.start("standby", f"standby /shared/{self.folder_there}")
        until(lambda: "watching" in on.said("standby"), "the standby watches", self.clients)

    def job_id(self) -> str:
        return self.server.run(f"cd /export/{self.folder_there}; ls -d *-*-*").strip()

    def epoch(self, number: int) -> set[str]:
        listed = self.server.run(f"ls /export/{self.folder_there}/*/epochs/e{number:07d}", is_checked=False)
        return set(listed.split())

    def require_completed(self, n: int = 100, *, is_once: bool = False) -> None:
        until(lambda: "completed" in self.a.said("standby") + self.b.said("standby"), "the job completes", self.clients)
        status, results = json.loads(self.server.python(FOLDED, f"/export/{self.folder_there}", self.job_id()))
        require((status, results) == ("completed", n), f"it is {status} with {results} results of {n}")
        begun = Counter(item for machine in self.clients for item, _ in machine.marks())
        require(set(begun) == set(range(n)), "every item was begun")
        require(not is_once or max(begun.values()) == 1, "no item was begun twice")
        twice = sum(count > 1 for count in begun.values())
        print(f"    {n} items, each committed once; {twice} were begun twice")

    def __enter__(self) -> Field:
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines.values():
            machine.qemu.kill()
            machine.qemu.wait()


def race(on: Field) -> None:
    """put-if-absent from two clients at the same names: each has one winner."""
    on.server.run("rm -rf /export/race; mkdir /export/race")
    count = 200
    with ThreadPoolExecutor() as pool:
        a, b = pool.map(lambda m: set(m.python(RACE, m.name, count).split()), on.clients)
    require(not a & b and len(a | b) == count, f"each place has one winner: {len(a)} + {len(b)}, both {len(a & b)}")
    with ThreadPoolExecutor() as pool:
        locked = list(pool.map(lambda m: m.run("python3 -", LOCK.encode(), is_checked=False), on.clients))
    excludes = "nobody" if all(locked) else "the other"
    print(f"    {count} places: a won {len(a)}, b won {len(b)}, none was won twice; flock excludes {excludes}")


def freeze(on: Field) -> None:
    """The owner's whole machine freezes; the other takes over; it thaws and is fenced."""
    _lose(on, lambda: on.a.qemu.send_signal(signal.SIGSTOP), lambda: on.a.qemu.send_signal(signal.SIGCONT))


def cut(on: Field) -> None:
    """The owner's machine loses the network, its mount hangs; it comes back and is fenced."""
    _lose(on, lambda: on.a.run("ip link set eth1 down"), lambda: on.a.run("ip link set eth1 up"))


def _lose(on: Field, stop: Callable[[], object], go_on: Callable[[], object]) -> None:
    on.standby(on.b)
    on.owner(on.a)
    begun = time.time()
    stop()
    until(lambda: len(on.epoch(2)) > 1, "the standby commits", on.clients)
    limit_s = 1.25 * Settings().lease_s + 1
    print(f"    first commit of the successor after {time.time() - begun:.2f} s (promised: {limit_s:.2f} s)")
    (told,) = [line for line in on.b.said("standby").splitlines() if "took over" in line]
    print(f"    {told.rpartition(': ')[2]}")
    before = on.epoch(1)
    go_on()
    back = time.time()
    until(lambda: "exit 3" in on.a.said("owner"), "the old owner gives up", on.clients)
    require("was taken over by" in on.a.said("owner"), "it says who has the job")
    new = on.epoch(1) - before
    require(not new, f"it committed nothing more: {new} behind {max(before)}")
    late = [mark for mark in on.a.marks() if mark[1] > back]
    require(not late, f"its workers began nothing after it was back: {late}")
    on.require_completed()


def sigterm(on: Field) -> None:
    """SIGTERM on one machine, hand-over to the other: nothing is begun twice."""
    on.standby(on.a)
    on.owner(on.b)
    begun = time.time()
    on.b.kill("owner", "TERM")
    until(lambda: len(on.epoch(2)) > 1, "the standby commits", on.clients)
    print(f"    first commit of the successor after {time.time() - begun:.2f} s")
    until(lambda: "exit 130" in on.b.said("owner"), "the owner leaves", on.clients)
    on.require_completed(is_once=True)


def kill9(on: Field) -> None:
    """`kill -9` with a standby on either machine: one of them takes over."""
    on.standby(on.a)
    on.standby(on.b)
    on.owner(on.a)
    on.a.kill("owner", "KILL")
    on.require_completed()
    took = sum(machine.said("standby").count("took over") for machine in on.clients)
    require(took == 1, f"one standby took it over ({took})")


def asked(on: Field) -> None:
    """Pause from the machine that does not run the job; cancel what nobody owns then: a standby obeys."""
    on.owner(on.a, n=3000)
    for kind, status in (("pause", "paused"), ("cancel", "cancelled")):
        begun = time.time()
        on.b.start("ask", f"{kind} /shared/{on.folder_there}/{on.job_id()} --json")
        until(lambda: "exit" in on.b.said("ask"), "an answer", on.clients)
        require(f'"status": "{status}"' in on.b.said("ask"), f"{kind}: {on.b.said('ask')}")
        print(f"    {kind}: answered and done after {time.time() - begun:.2f} s")
        on.standby(on.a)


TRIALS = {"race": race, "freeze": freeze, "cut": cut, "sigterm": sigterm, "kill9": kill9, "asked": asked}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the machines are made")
    parser.add_argument("--versions", nargs="+", default=["3", "4.2"], help="of NFS (default: 3 4.2)")
    parser.add_argument("--trials", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--accel", default="tcg", help="of qemu; kvm where that works (default: tcg, slow)")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="Debian packages (%(default)s)")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "root.ext4").exists():
        make_image(folder, options.mirror)
    failed = 0
    with Field(folder, options.accel) as field:
        field.prepare()
        for version in options.versions:
            field.mount(version)
            for name in options.trials:
                print(f"NFS {version}: {name}", flush=True)
                try:
                    field.begin(f"{version}-{name}-{os.getpid()}")
                    TRIALS[name](field)
                except AssertionError as error:
                    failed += 1
                    print(f"    FAILED: {error}", flush=True)
                    field.a.qemu.send_signal(signal.SIGCONT)
                    field.a.run("ip link set eth1 up")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
