"""Whether an NVIDIA card is in this machine, asked of the system and not of PyTorch, which may be unable to see it."""

from __future__ import annotations

import os
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
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, timeout=_ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return b"GPU" in listed.stdout
