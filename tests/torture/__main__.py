"""``scripts/torture``: as many runs as one likes, and any one of them again."""

from __future__ import annotations

import sys

from tests.torture.cli import main

sys.exit(main())
