"""The same workloads on other systems, one per process: ``python bench/others.py NAME N`` prints one JSON line.

``peers.py`` starts these with an interpreter that has the systems installed; nothing here needs routilux_mp. A system
that is not installed is said on one line, with exit code 3. Chains are source -> A -> B and do nothing; jobs are three
steps each; arrays are made in one process and read in another (``BENCH_ARRAY_BYTES``).
"""

from __future__ import annotations

import importlib.metadata
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from work import fresh_folder, report

_ARRAY_BYTES = int(os.environ.get("BENCH_ARRAY_BYTES", "10000000"))
#: Promises that are out at a time, so that what waits does not fill the memory.
_WINDOW = 2000
_HERE = Path(__file__).resolve().parent
MISSING = 3


def _same(x: Any) -> Any:
    return x


def _made(i: int) -> Any:
    import numpy as np

    array = np.ones(_ARRAY_BYTES // 8)
    array[0] = i
    return array


def _total(array: Any) -> float:
    return float(array.sum())


def _items(n: int) -> list[dict[str, int]]:
    return [{"i": i} for i in range(n)]


def _report(n: int, seconds: float, count: int, **versions: str) -> None:
    """Handler runs per second of a chain of two, or jobs per second."""
    report(seconds=seconds, per_s=count * n / seconds, **versions)


def _report_arrays(n: int, seconds: float, **versions: str) -> None:
    report(seconds=seconds, mb_per_s=n * _ARRAY_BYTES / 1e6 / seconds, **versions)


def _version(name: str) -> str:
    return f"{name} {importlib.metadata.version(name)}"


# -- the standard library -----------------------------------------------------------------------------


def _mapped(n: int, through: Callable[..., Any]) -> None:
    """One lazy ``map`` into the next."""
    list(through(_same, range(4)))
    start = time.perf_counter()
    count = sum(1 for _ in through(_same, through(_same, _items(n))))
    seconds = time.perf_counter() - start
    assert count == n, count
    _report(n, seconds, 2)


def pool(n: int, folder: str) -> None:
    """``Pool(2).imap`` into ``imap``, item by item."""
    with multiprocessing.Pool(2) as workers:
        _mapped(n, workers.imap)


def executor(n: int, folder: str) -> None:
    """``ProcessPoolExecutor.map`` into ``map``, item by item."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as workers:
        _mapped(n, workers.map)


def copy(n: int, folder: str) -> None:
    """An array made, copied once and read, all in one process: what memory itself allows."""
    _total(_made(0).copy())
    start = time.perf_counter()
    for i in range(n):
        _total(_made(i).copy())
    _report_arrays(n, time.perf_counter() - start)


# -- Dask, Ray, joblib ----------------------------------------------------------------------------------


def dask(n: int, folder: str) -> None:
    """Futures on a local cluster of two processes."""
    import dask as settings
    from distributed import Client, LocalCluster

    settings.config.set({"distributed.admin.tick.limit": "60s", "temporary-directory": folder})
    logging.getLogger("distributed").setLevel(logging.ERROR)
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, Client(cluster) as client:
        client.gather(client.map(_same, client.map(_same, list(range(8)), pure=False), pure=False))
        start = time.perf_counter()
        count = len(client.gather(client.map(_same, client.map(_same, _items(n), pure=False), pure=False)))
        seconds = time.perf_counter() - start
    assert count == n, count
    _report(n, seconds, 2, version=_version("distributed"))


def _ray() -> Any:
    os.environ.update(RAY_DEDUP_LOGS="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", RAY_USAGE_STATS_ENABLED="0")
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False,
             object_store_memory=2 << 30)  # fmt: skip
    return ray


def _gathered(ray: Any, promise: Callable[[int], Any], n: int, window: int) -> float:
    """Seconds until ``n`` promises are kept, ``window`` of them out at a time at most."""
    start = time.perf_counter()
    waiting: list[Any] = []
    for i in range(n):
        waiting.append(promise(i))
        if len(waiting) >= window:
            ray.get(waiting[: window // 2])
            del waiting[: window // 2]
    ray.get(waiting)
    return time.perf_counter() - start


class _Stage:
    def go(self, x: Any) -> Any:
        return x


def ray_actors(n: int, folder: str) -> None:
    """Two actors in a row."""
    ray = _ray()
    actor = ray.remote(num_cpus=1)(_Stage)
    a, b = actor.remote(), actor.remote()
    ray.get(b.go.remote(a.go.remote(0)))
    seconds = _gathered(ray, lambda i: b.go.remote(a.go.remote({"i": i})), n, _WINDOW)
    ray.shutdown()
    _report(n, seconds, 2, version=_version("ray"))


def ray_arrays(n: int, folder: str) -> None:
    """Arrays through the object store."""
    ray = _ray()
    make, total = ray.remote(_made), ray.remote(_total)
    ray.get([total.remote(make.remote(i)) for i in range(4)])
    seconds = _gathered(ray, lambda i: total.remote(make.remote(i)), n, 40)
    ray.shutdown()
    _report_arrays(n, seconds, version=_version("ray"))


def joblib_arrays(n: int, folder: str) -> None:
    """Arrays that ``Parallel`` hands to its workers as files mapped into memory."""
    from joblib import Parallel, delayed

    with Parallel(n_jobs=2, max_nbytes=100_000, mmap_mode="r", batch_size=1) as parallel:
        parallel(delayed(_total)(_made(i)) for i in range(4))
        start = time.perf_counter()
        count = len(parallel(delayed(_total)(_made(i)) for i in range(n)))
        seconds = time.perf_counter() - start
    assert count == n, count
    _report_arrays(n, seconds, version=_version("joblib"))


# -- bytewax --------------------------------------------------------------------------------------------


def bytewax(n: int, folder: str) -> None:
    """Two processes, a batch of one item at a time."""
    _bytewax(n, folder, 1, is_kept=False)


def bytewax_64(n: int, folder: str) -> None:
    """Two processes, batches of 64."""
    _bytewax(n, folder, 64, is_kept=False)


def bytewax_store(n: int, folder: str) -> None:
    """Two processes, batches of 64, a snapshot of every epoch."""
    _bytewax(n, folder, 64, is_kept=True)


def _bytewax(n: int, folder: str, batch: int, is_kept: bool) -> None:
    importlib.metadata.version("bytewax")
    store: list[str] = []
    if is_kept:
        store = ["-r", f"{folder}/store", "-s", "0", "-b", "0"]
        os.mkdir(f"{folder}/store")
        subprocess.run([sys.executable, "-m", "bytewax.recovery", f"{folder}/store", "2"], check=True)
    ports = 21_000 + os.getpid() % 5000
    addresses = f"127.0.0.1:{ports};127.0.0.1:{ports + 5000}"
    paths = os.pathsep.join([str(_HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"BENCH_N": str(n), "BENCH_BATCH": str(batch), "BENCH_FOLDER": folder, "PYTHONPATH": paths}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bytewax.run", *store, "-i", str(i), "-a", addresses, "others_bytewax"],
            env={**os.environ, **own}, cwd=folder,
        )
        for i in range(2)
    ]  # fmt: skip
    first = None
    while any(process.poll() is None for process in processes):
        time.sleep(0.005)
        if first is None and _bytewax_counts(folder):
            first = time.perf_counter()
    seconds = time.perf_counter() - (first or 0)
    assert not any(process.returncode for process in processes)
    count = sum(sum(map(int, path.read_text().split())) for path in _bytewax_counts(folder))
    assert count == n, count
    _report(n, seconds, 2, version=_version("bytewax"))


def _bytewax_counts(folder: str) -> list[Path]:
    return list(Path(folder).glob("count*"))


# -- systems that keep every step -----------------------------------------------------------------------


def _dbos(folder: str) -> Any:
    from dbos import DBOS

    DBOS(config={
        "name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.sqlite", "log_level": "ERROR",
        "enable_otlp": False, "run_admin_server": False, "application_version": "1", "executor_id": "local",
    })  # fmt: skip
    return DBOS


def dbos(n: int, folder: str) -> None:
    """One workflow that calls two steps per item; SQLite."""
    system = _dbos(folder)
    a, b = system.step(name="a")(_same), system.step(name="b")(_same)

    @system.workflow()  # type: ignore[untyped-decorator]
    def loop(n: int) -> int:
        return sum(1 for i in range(n) if b(a({"i": i})))

    system.launch()
    loop(3)
    start = time.perf_counter()
    count = loop(n)
    seconds = time.perf_counter() - start
    system.destroy()
    assert count == n, count
    _report(n, seconds, 2, version=_version("dbos"))


def dbos_jobs(n: int, folder: str) -> None:
    """Workflows of three steps, all started, then waited for; SQLite."""
    system = _dbos(folder)
    a, b, c = (system.step(name=name)(_same) for name in "abc")

    @system.workflow()  # type: ignore[untyped-decorator]
    def job(i: int) -> Any:
        return c(b(a({"i": i})))

    system.launch()
    job(0)
    start = time.perf_counter()
    handles = [system.start_workflow(job, i) for i in range(n)]
    assert [handle.get_result() for handle in handles] == _items(n)
    seconds = time.perf_counter() - start
    system.destroy()
    _report(n, seconds, 1, version=_version("dbos"))


def huey(n: int, folder: str) -> None:
    """Tasks in pairs, a consumer of two processes; SQLite with fsync."""
    _huey(n, folder, 2)


def huey_jobs(n: int, folder: str) -> None:
    """Tasks in threes, a consumer of two processes; SQLite with fsync."""
    _huey(n, folder, 3)


def _huey(n: int, folder: str, steps: int) -> None:
    importlib.metadata.version("huey")
    os.environ["BENCH_FOLDER"] = folder
    import huey as package
    import others_huey as tasks

    program = str(Path(package.__file__).parent / "bin" / "huey_consumer.py")
    paths = os.pathsep.join([str(_HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = ["-w", "2", "-k", "process", "-d", "0.01", "-m", "0.05", "-q"]
    consumer = subprocess.Popen(
        [sys.executable, program, "others_huey.huey", *options],
        env={**os.environ, "PYTHONPATH": paths}, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        tasks.enqueue({"i": 0}, steps)
        tasks.wait_for(1)
        start = time.perf_counter()
        for i in range(n):
            tasks.enqueue({"i": i}, steps)
        tasks.wait_for(1 + n)
        seconds = time.perf_counter() - start
    finally:
        consumer.terminate()
        consumer.wait(10)
    _report(n, seconds, 2 if steps == 2 else 1, version=_version("huey"))


def luigi(n: int, folder: str) -> None:
    """Two tasks per item, a file each; the local scheduler with two workers."""
    import luigi as package

    logging.disable(logging.CRITICAL)

    class A(package.Task):  # type: ignore[misc]
        i = package.IntParameter()

        def output(self) -> Any:
            return package.LocalTarget(f"{folder}/{type(self).__name__}{self.i}")

        def run(self) -> None:
            with self.output().open("w") as file:
                file.write(str(self.i))

    class B(A):
        def requires(self) -> Any:
            return A(self.i)

        def run(self) -> None:
            with self.input().open() as source, self.output().open("w") as file:
                file.write(source.read())

    start = time.perf_counter()
    assert package.build([B(i) for i in range(n)], workers=2, local_scheduler=True, log_level="CRITICAL")
    seconds = time.perf_counter() - start
    assert len(os.listdir(folder)) == 2 * n
    _report(n, seconds, 2, version=_version("luigi"))


def parsl(n: int, folder: str) -> None:
    """Two apps per item on two worker processes, a checkpoint at every task's exit."""
    import parsl as package
    from parsl.dataflow.memoization import BasicMemoizer
    from parsl.executors import HighThroughputExecutor

    def another(x: Any) -> Any:  # with the same function for both, the second step would be found in the memo
        return x

    logging.disable(logging.CRITICAL)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # its workers are scripts
    executor = HighThroughputExecutor(label="bench", max_workers_per_node=2, address="127.0.0.1", cores_per_worker=1)
    config = package.Config(
        executors=[executor], run_dir=f"{folder}/runs", memoizer=BasicMemoizer(checkpoint_mode="task_exit"),
        initialize_logging=False,
    )  # fmt: skip
    with package.load(config):
        a, b = (package.python_app(step, cache=True, executors=["bench"]) for step in (_same, another))
        b(a({"i": -1})).result()
        start = time.perf_counter()
        promises = [b(a({"i": i})) for i in range(n)]
        count = sum(1 for promise in promises if promise.result())
        seconds = time.perf_counter() - start
    assert count == n, count
    _report(n, seconds, 2, version=_version("parsl"))


def main() -> None:
    """Run the workload that the command line names."""
    workloads: dict[str, Callable[[int, str], None]] = {
        f.__name__: f
        for f in (pool, executor, copy, dask, ray_actors, ray_arrays, joblib_arrays, bytewax, bytewax_64,
                  bytewax_store, dbos, dbos_jobs, huey, huey_jobs, luigi, parsl)
    }  # fmt: skip
    try:
        with fresh_folder() as folder:
            workloads[sys.argv[1]](int(sys.argv[2]), folder)
    except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError) as error:
        print(f"not installed: {error.name}", file=sys.stderr)
        sys.exit(MISSING)


if __name__ == "__main__":
    main()
