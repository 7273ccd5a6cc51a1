"""How this process was started, so that what it advises can be typed as it stands."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

# Set by run_server.sh: how that script was typed.
LAUNCHER: Final = "QQVL_LAUNCHER"
ROOT: Final = Path(__file__).resolve().parents[2]


def command(*words: str) -> str:
    """``words`` after what started this process: ``./run_server.sh``, ``python …/api_server_qwen3vl.py``, ``qqvl``."""
    started_as = os.environ.get(LAUNCHER) or _typed(sys.argv[0], sys.orig_argv)
    return " ".join([started_as, *map(shlex.quote, words)])


def _typed(script: str, line: list[str]) -> str:
    name = Path(script).name
    if name.endswith(".py") and script in line:
        return shlex.join(line[: line.index(script) + 1])
    if "-m" in line:
        return shlex.join(line[: line.index("-m") + 2])
    # A console script: by its bare name where that would find it.
    found = shutil.which(name)
    return name if found and Path(found).resolve() == Path(script).resolve() else shlex.quote(script)


def install(*packages: str) -> str:
    """The command that adds ``packages`` to the environment this process runs in, at the pinned versions."""
    pins = ROOT / "constraints.txt"
    pinned = ["-c", str(pins)] if pins.is_file() else []
    return shlex.join([sys.executable, "-m", "pip", "install", *pinned, *packages])
