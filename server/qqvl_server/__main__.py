"""``python -m qqvl_server``."""

import sys

from qqvl_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
