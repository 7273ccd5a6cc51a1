"""Where what is derived while we run is kept: the program's folder, the home and even ``/tmp`` may be read-only.

Python's bytecode is left out: without it a start takes a second longer, and elsewhere it would be compiled anew for all
of torch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

# What each program asks before it takes a folder of the home: the kernels for CPUs, compiled when they are first needed
# (https://specifications.freedesktop.org/basedir-spec/latest/), Triton's, the NVIDIA driver's.
_CACHES: Final = {"XDG_CACHE_HOME": "", "TRITON_CACHE_DIR": "triton", "CUDA_CACHE_PATH": "nvidia"}


def keep_in(data_dir: Path, env: MutableMapping[str, str] = os.environ) -> None:
    """Point at ``data_dir/cache`` what would be kept in a home that cannot be written or is not there.

    Scratch files go there as well where no folder takes them. Leaves alone what the operator has set. Call it before
    torch is imported.
    """
    cache = data_dir.absolute() / "cache"
    # Else torch makes itself a folder in /tmp, used or not.
    env.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    home = os.path.expanduser("~")
    if not os.access(home, os.W_OK):
        for name, folder in _CACHES.items():
            env.setdefault(name, str(cache / folder))
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        scratch = cache / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        env["TMPDIR"] = str(scratch)
