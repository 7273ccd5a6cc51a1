"""Whether an NVIDIA card is in this machine, asked of the system and not of PyTorch, which may be unable to see it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

_ASK_S: Final = 10


def card_beside(root: Path = Path("/")) -> bool:
    """False, too, where the operator has hidden the cards (``CUDA_VISIBLE_DEVICES``).

    Args:
    root: where ``/proc`` and ``/dev`` are looked for.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles"):
        return False
    if any((root / "proc/driver/nvidia/gpus").glob("*")) or any((root / "dev").glob("nvidia[0-9]*")):
        return True
    # WSL has neither, but the program.
    return b"GPU" in _asked("-L")


def driver_version(root: Path = Path("/")) -> str | None:
    """As ``550.54.15``; None where nobody says.

    Args:
    root: where ``/proc`` is looked for.
    """
    try:
        said = (root / "proc/driver/nvidia/version").read_text("utf-8", "replace")
    except OSError:
        said = ""
    found = re.search(r"Kernel Module(?: for \S+)?\s+(\d+\.[\d.]+)", said)
    if found is None:
        asked = _asked("--query-gpu=driver_version", "--format=csv,noheader").decode("ascii", "replace")
        found = re.match(r"\s*(\d+\.[\d.]+)", asked)
    return None if found is None else found[1]


def _asked(*words: str) -> bytes:
    """What ``nvidia-smi`` prints; nothing where it is not there or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return b""
    try:
        return subprocess.run([program, *words], capture_output=True, timeout=_ASK_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return b""
