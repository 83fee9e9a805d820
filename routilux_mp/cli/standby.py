"""``standby``: wait beside a checkpoint root and take over what its owners leave behind."""

from __future__ import annotations

import argparse
import os
import sys
import time

from ..settings import Settings
from ..standby import Standby
from . import OK, checkpoint_root
from .running import Interrupts
from .target import load_flow


def standby(options: argparse.Namespace) -> int:
    """Watch until Ctrl-C or SIGTERM; what runs then is handed over."""
    root = options.root or checkpoint_root(options)
    flows = [load_flow(target) for target in options.modules]
    waiting = Standby(
        root, capacity=options.capacity, flows=flows, workers=options.workers or os.cpu_count() or 1, say=_say
    )
    with Interrupts(waiting.stop), waiting:
        lease_s = Settings.load().lease_s
        _say(f"watching {root}; jobs of other hosts are taken over after {1.25 * lease_s:.1f} s of silence")
        waiting.run()
        _say("leaving: what runs may finish, the rest is handed over")
    return OK


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
