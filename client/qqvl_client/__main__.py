"""`python -m qqvl_client`: the client where only the package is installed."""

import sys

from qqvl_client.entry import run

if __name__ == "__main__":
    sys.exit(run())
