"""Where there is no POSIX, the package can be imported and the inline backend runs, durably."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Takes away what Windows does not have, and lets nothing be opened relative to a directory.
PROGRAM = '''
import os, select, signal, socket, sys
import filelock  # it has code of its own for every system, and chooses when it is imported

for module, names in {
    os: """O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_DIRECTORY O_TMPFILE geteuid getuid getgid getegid fork forkpty pidfd_open
        memfd_create MFD_CLOEXEC sched_getaffinity chown killpg setsid getpgid setpgid wait3 wait4 waitid
        statvfs fstatvfs uname sysconf mkfifo pipe2 register_at_fork fdatasync pread pwrite sendfile WNOHANG""",
    signal: "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGCHLD SIGALRM SIGPIPE setitimer pthread_sigmask pthread_kill sigwait",
    socket: "AF_UNIX SCM_RIGHTS send_fds recv_fds",
    select: "poll epoll",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None

def by_path_only(function):
    def call(*arguments, **options):
        if any(options.pop(name, None) is not None for name in ("dir_fd", "src_dir_fd", "dst_dir_fd")):
            raise NotImplementedError(function.__name__)
        assert not (function.__name__ in ("listdir", "scandir") and isinstance(arguments[0], int))
        return function(*arguments, **options)
    return call

for name in ("open", "mkdir", "link", "replace", "unlink", "rmdir", "stat", "rename", "listdir", "scandir"):
    setattr(os, name, by_path_only(getattr(os, name)))
os.supports_dir_fd = set()

from routilux_mp import *
from routilux_mp.runtime import Runtime

def flow():
    routine = Routine()
    routine.add_event("output")
    routine.add_slot("trigger", handler=lambda **data: routine.emit("output", **data))
    sink = Routine()
    sink.add_slot("input", handler=lambda **data: sink.emit("result", blob="x" * 400_000, **data))
    sink.add_event("result")
    flow = Flow("f")
    flow.add_routine(routine, "a")
    flow.add_routine(sink, "b")
    flow.connect("a", "output", "b", "input")
    return flow

for durability in ("none", "commit"):
    with Runtime(2, backend="inline", durability=durability, checkpoint_dir=sys.argv[1]):
        state = flow().execute("a", {"n": 1})
        found = [{**row, "blob": len(row["blob"])} for row in state.results("b", "result")]
        print(durability, state.status, len(state.execution_history), found)
with Runtime(2, backend="inline", checkpoint_dir=sys.argv[1]) as runtime:
    print(runtime.resume_job(state.job_id, flow()).status)
'''


def test_without_posix(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "root")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path), "ROUTILUX_MP_KEY_FILE": str(tmp_path / "key"), "HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    result = [{"blob": 400_000, "n": 1}]
    assert done.stdout.splitlines() == [f"none completed 4 {result}", f"commit completed 4 {result}", "completed"], (
        done.stdout + done.stderr
    )
    assert "Error" not in done.stderr, done.stderr
