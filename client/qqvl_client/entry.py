"""What starts the client calls first: nothing is imported here that takes time."""

from __future__ import annotations

import signal
import sys


def run() -> int:
    """Run the client with the process's arguments; returns its exit code."""
    # Until the relay listens for it, Ctrl-C ends the process without a traceback; what was taken is in the journal.
    # Where a shell has started it in the background SIGINT is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from qqvl_client.cli import main

    return main(sys.argv[1:])
