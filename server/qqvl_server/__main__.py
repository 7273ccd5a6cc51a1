"""``python -m qqvl_server``."""

import sys

from qqvl_server.entry import run

sys.exit(run())
