"""Entry: ``python api_server_qwen3vl.py [flags]``. Works from this folder without an install."""

import sys

from qqvl_server.entry import run

if __name__ == "__main__":
    sys.exit(run())
