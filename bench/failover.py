"""The figures of failover: how long until somebody else goes on, and what waiting for it costs.

    python bench/failover.py [--rounds N] [--only NAME ...]

Real processes, started by the commands that a person types. A time ends with the first commit of
work by the successor, as the file system dates it. A figure that misses its goal is printed like any other.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from routilux_mp._storage.store import Store  # noqa: E402  (the checkout is on the path since the line above)
from routilux_mp.demo.processes import below, is_alive  # noqa: E402
from routilux_mp.settings import Settings  # noqa: E402

LEASE_S = 2.0
POLL_S = 0.5
DEADLINE_S = 60.0
FINISHED, RUNNING = 1000, 10


class Field:
    """A root of its own, and the processes on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.log = folder, folder / "checkpoints", folder / "log"
        self.log.mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pids: set[int] = set()

    def start(self, *arguments: str, host: str = "") -> subprocess.Popen[bytes]:
        environment = {
            **os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "ROUTILUX_MP_KEY_FILE": str(self.folder / "key"),
            "ROUTILUX_MP_POLL_S": str(POLL_S), "ROUTILUX_MP_HOST_ID": host,
        }  # fmt: skip
        command = [sys.executable, "-m", "routilux_mp.cli", *arguments]
        with (self.folder / "said").open("ab") as said:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
            )
        self._processes.append(process)
        return process

    def owner(self, host: str = "", **params: object) -> subprocess.Popen[bytes]:
        pairs = [word for name, value in {"log": self.log, **params}.items() for word in ("-p", f"{name}={value}")]
        return self.start("run", "failover_flow:flow", *pairs, "-w", "3", "--plain", "--dir", str(self.root), host=host)

    def standby(self, host: str = "") -> subprocess.Popen[bytes]:
        return self.start("standby", str(self.root), "-w", "3", host=host)

    def begun(self) -> Counter[str]:
        return Counter(line for path in self.log.iterdir() for line in path.read_text().split())

    def remember(self, process: subprocess.Popen[bytes]) -> list[int]:
        """The process and all below it, also to be ended later."""
        pids = below(process.pid)
        self._pids.update(pids)
        return pids

    def first_commit(self, epoch: int) -> float | None:
        """When the first commit of an epoch was made, seconds since 1970."""
        for path in self.root.glob(f"*/epochs/e{epoch:07d}/c00000002"):
            return path.stat().st_mtime_ns / 1e9
        return None

    def close(self) -> None:
        for process in self._processes:
            self.remember(process)
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        for pid in self._pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


@contextmanager
def field() -> Iterator[Field]:
    with tempfile.TemporaryDirectory(prefix="routilux-failover-") as folder:
        made = Field(Path(folder))
        try:
            yield made
        finally:
            made.close()


def until(probe: Callable[[], object], on: Field, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not probe():
        if time.monotonic() > deadline:
            said = (on.folder / "said").read_text()
            raise SystemExit(f"not within {DEADLINE_S:.0f} s: {what}; what was said:\n{said}")
        time.sleep(0.005)


def is_ready(standby: subprocess.Popen[bytes]) -> bool:
    """It watches, and its nursery has loaded the code of what runs."""
    return len(below(standby.pid)) > 1


def one_takeover(number: signal.Signals, owner_host: str = "", standby_host: str = "") -> tuple[float, int, int]:
    """Seconds from the signal to the successor's first commit; items that ran twice; items in flight at most."""
    with field() as on:
        standby = on.standby(standby_host)
        owner = on.owner(owner_host, n=100_000)
        until(lambda: sum(on.begun().values()) >= 50, on, "50 items")
        until(lambda: is_ready(standby), on, "the standby has a nursery")
        time.sleep(0.3)
        pids = on.remember(owner)
        told = time.time()
        for pid in pids if number == signal.SIGSTOP else pids[:1]:
            os.kill(pid, number)
        until(lambda: on.first_commit(2), on, "a commit of the successor")
        took = (on.first_commit(2) or 0.0) - told
        twice = sum(count > 1 for count in on.begun().values())
        return (
            took,
            twice,
            2 * 4,
        )  # two workers, with at most 20 ms of 10 ms items in front of each, and a report of 5 ms


def orphans() -> float:
    """Seconds from the death of a supervisor to that of its last worker, busy in C code, and of their children."""
    with field() as on:
        owner = on.owner(n=2, burn=True)
        until(lambda: len(on.begun()) == 2 and len(below(owner.pid)) >= 6, on, "two busy workers")
        pids = on.remember(owner)
        os.kill(owner.pid, signal.SIGKILL)
        begin = time.perf_counter()
        left = pids[1:]
        while left:
            left = [pid for pid in left if is_alive(pid)]
            if time.perf_counter() - begin > DEADLINE_S:
                raise SystemExit(f"still there: {left}")
        return time.perf_counter() - begin


PROGRAM = """
import sys
from failover_flow import make
from routilux_mp import Runtime
with Runtime(2, checkpoint_dir=sys.argv[1]) as runtime:
    flow = make(workers=1)
    for _ in range(int(sys.argv[2])):
        runtime.exec(flow, {"n": 100000, "pause_s": 0.2}, settle_s=0)
"""


def idle_cost(seconds: float = 20.0) -> tuple[float, float]:
    """Share of a core, and megabytes, of a standby beside many finished jobs and a few running ones."""
    with field() as on:
        with Store(str(on.root), Settings()) as store:
            for number in range(FINISHED):
                tenure = store.create(f"finished-{number}", b"{}")
                tenure.seal("ended")
                tenure.close()
        (on.folder / "many.py").write_text(PROGRAM)
        environment = {
            **os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "ROUTILUX_MP_KEY_FILE": str(on.folder / "key")
        }  # fmt: skip
        many = subprocess.Popen(
            [sys.executable, str(on.folder / "many.py"), str(on.root), str(RUNNING)], env=environment
        )
        on._processes.append(many)
        until(lambda: len(list(on.root.iterdir())) >= FINISHED + RUNNING, on, "all jobs")
        standby = on.standby()
        until(lambda: is_ready(standby), on, "the standby has a nursery")
        time.sleep(4.0)
        pids = below(standby.pid)
        before = sum(map(cpu_s, pids))
        time.sleep(seconds)
        share = (sum(map(cpu_s, pids)) - before) / seconds
        return share, sum(map(pss_mb, below(standby.pid)))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Memory of a process; what it shares with others is divided among them."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024


def spread(values: list[float]) -> str:
    shown = f"median {statistics.median(values) * 1000:.0f} ms, "
    if len(values) >= 100:
        shown += f"p99 {p99(values) * 1000:.0f} ms, "
    return f"{shown}worst of {len(values)} {max(values) * 1000:.0f} ms"


def p99(values: list[float]) -> float:
    """The worst, where there are too few to say."""
    return statistics.quantiles(values, n=100, method="inclusive")[-1] if len(values) >= 100 else max(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each kind (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--lease", type=float, default=LEASE_S, help="seconds, for freeze (default: %(default)s)")
    options = parser.parse_args()
    os.environ["ROUTILUX_MP_LEASE_S"] = str(options.lease)
    for name in options.only:
        for what, figure, goal, is_met in KINDS[name](options.rounds):
            print(f"{what:<62} {figure:<42} {goal:<28} {'' if is_met else 'MISSED'}".rstrip(), flush=True)


Row = tuple[str, str, str, bool]


def kill9(rounds: int) -> list[Row]:
    found = [one_takeover(signal.SIGKILL) for _ in range(rounds)]
    times = [took for took, _, _ in found]
    twice, most = max(t for _, t, _ in found), found[0][2]
    return [
        (
            "same host, kill -9 of the supervisor -> first commit", spread(times), "median < 150 ms, p99 < 1 s",
            statistics.median(times) < 0.15 and p99(times) < 1.0,
        ),
        ("work run twice by that crash", f"at most {twice} items", f"<= {most} in flight", twice <= most),
    ]  # fmt: skip


def sigterm(rounds: int) -> list[Row]:
    here, there = [], []
    for _ in range(rounds):  # in turn: what else the machine does meets both alike
        here.append(one_takeover(signal.SIGTERM)[0])
        there.append(one_takeover(signal.SIGTERM, "a", "b")[0])
    limit_s = POLL_S + 1.0
    return [
        ("same host, SIGTERM -> first commit of the standby", spread(here), "< 500 ms", max(here) < 0.5),
        ("another host, SIGTERM -> first commit", spread(there), f"< {limit_s:.1f} s", max(there) < limit_s),
    ]


def freeze(rounds: int) -> list[Row]:
    times = [one_takeover(signal.SIGSTOP, "a", "b")[0] for _ in range(max(3, rounds // 4))]
    lease_s = float(os.environ["ROUTILUX_MP_LEASE_S"])
    limit_s = 1.25 * lease_s + 1.0
    goal = f"<= 1.25 leases + 1 s = {limit_s:.1f} s"
    return [(f"another host frozen, lease {lease_s:g} s -> first commit", spread(times), goal, max(times) <= limit_s)]


def workers(rounds: int) -> list[Row]:
    times = [orphans() for _ in range(rounds)]
    return [("orphan workers and their children gone after kill -9", spread(times), "p99 <= 50 ms", p99(times) <= 0.05)]


def idle(rounds: int) -> list[Row]:
    share, size = idle_cost()
    what = f"a standby beside {FINISHED:,} finished and {RUNNING} running jobs"
    figure = f"{share * 100:.2f} % of a core, {size:.0f} MB"
    return [(what, figure, "< 2 %, < 100 MB", share < 0.02 and size < 100)]


KINDS: dict[str, Callable[[int], list[Row]]] = {
    "kill9": kill9, "sigterm": sigterm, "freeze": freeze, "workers": workers, "idle": idle
}  # fmt: skip

if __name__ == "__main__":
    main()
