"""Looking at other processes."""

import os
import subprocess
import sys

from routilux_mp.demo.processes import is_alive, is_below, seconds_until_gone


def test_a_child_is_below_until_it_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        assert is_alive(child.pid)
        assert is_below(child.pid, os.getpid())
        assert not is_below(os.getpid(), child.pid)
        assert seconds_until_gone([child.pid], timeout_s=0.01) is None
        child.kill()
        # Not reaped yet: a zombie counts as gone.
        assert seconds_until_gone([child.pid], timeout_s=10) is not None
        assert not is_alive(child.pid)
        assert not is_below(child.pid, os.getpid())
    finally:
        child.kill()
        child.communicate()
