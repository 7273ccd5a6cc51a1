"""The QQ client's entry: hands over to qqvl_client, nothing else."""

import sys

from qqvl_client.entry import run

if __name__ == "__main__":
    sys.exit(run())
