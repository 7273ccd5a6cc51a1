"""The QQ client's entry: hands argv to qqvl_client.cli, nothing else."""

import sys

from qqvl_client.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
