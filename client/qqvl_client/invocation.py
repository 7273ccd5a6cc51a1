"""How this process was started, so that what it advises can be typed as it stands."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

# Set by run_client.sh: how that script was typed.
LAUNCHER = "QQVL_LAUNCHER"
ROOT = Path(__file__).resolve().parents[2]


def command(*words: str) -> str:
    """`words` after whatever started this process: `./run_client.sh`, `python client/qqbot_client_full.py`."""
    line, script = sys.orig_argv, sys.argv[0]
    return " ".join([os.environ.get(LAUNCHER) or _typed(script, line), *map(shlex.quote, words)])


def _typed(script: str, line: list[str]) -> str:
    if "-m" in line:
        return shlex.join(line[: line.index("-m") + 2])
    if script in line and script.endswith(".py"):
        return shlex.join(line[: line.index(script) + 1])
    # A console script: by its bare name where that would find it.
    name = Path(script).name
    found = shutil.which(name)
    return name if found and Path(found).resolve() == Path(script).resolve() else shlex.quote(script)


def install(requirements: str, *packages: str) -> str:
    """The command that adds what the relay needs to the Python it runs in: by the project's list, or by name."""
    listed = ROOT / "client" / requirements
    pins = ROOT / "constraints.txt"
    pinned = ["-c", str(pins)] if pins.is_file() else []
    wanted = ["-r", str(listed)] if listed.is_file() else list(packages)
    return shlex.join([sys.executable, "-m", "pip", "install", *pinned, *wanted])
