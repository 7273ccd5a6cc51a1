"""What every way of starting the server calls first: nothing is imported here that takes time."""

from __future__ import annotations

import signal


def run() -> int:
    """Run the command line; returns the process's exit status."""
    # Until the command takes over, and after it is done, Ctrl-C ends the process without a traceback. Where a shell
    # has started it in the background SIGINT is ignored, and stays so.
    if quiet := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from qqvl_server.cli import main

    try:
        return main()
    finally:
        if quiet:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
