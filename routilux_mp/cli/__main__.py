"""``python -m routilux_mp.cli``: the same as ``routilux-mp``."""

import sys

from . import main

sys.exit(main())
