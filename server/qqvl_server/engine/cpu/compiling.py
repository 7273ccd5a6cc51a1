"""Compiling ``cpp/`` for this processor: once, kept by what it was made of."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import torch

COMPILER: Final = "c++"
# Beside what Python compiles from this package: as much the user's own, and gone with it.
KEPT: Final = Path(importlib.util.cache_from_source(__file__)).parent
SOURCES: Final = Path(__file__).with_name("cpp")
# The parts of -ffast-math that sums need; the whole of it would change how this process rounds denormals.
_FLAGS: Final = (
    "-std=c++17", "-O3", "-march=native", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math",
    "-fassociative-math", "-fno-signed-zeros", "-ffinite-math-only", "-Wno-psabi",
)  # fmt: skip
_COMPILE_S: Final = 120


def built(folder: Path = KEPT, compiler: str = COMPILER) -> Path:
    """The library in ``folder``. Raises OSError (no compiler, no room), SubprocessError (it fails or hangs)."""
    # A library for another processor would end this process with an illegal instruction.
    sources = [source.read_bytes() for source in sorted(SOURCES.glob("*.[ch]*"))]
    made_of = repr((_FLAGS, compiler, torch.__version__, _processor(), sources)).encode()
    target = folder / f"kernels-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if target.exists():
        return target
    if shutil.which(compiler) is None:
        raise FileNotFoundError(compiler)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("compiling-*"):
        # Of a process that was ended while it compiled, unless it still may be at it.
        if time.time() - left.stat().st_mtime > 2 * _COMPILE_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="compiling-", dir=folder) as scratch:
        linked = Path(scratch, "linked.so")
        command = [compiler, *_FLAGS, "-shared", str(SOURCES / "kernels.cpp"), "-o", str(linked)]
        # In a session of its own: Ctrl-C at the terminal is for this process, which then says why it stops.
        subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_S, start_new_session=True)
        os.replace(linked, target)
    return target


def _processor() -> str:
    """What -march=native looks at, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
