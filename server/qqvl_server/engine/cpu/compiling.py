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

from qqvl_server.observe.logs import logger

COMPILER: Final = "c++"
# Beside what Python compiles from this package: as much the user's own, and gone with it.
_BESIDE: Final = Path(importlib.util.cache_from_source(__file__)).parent
SOURCES: Final = Path(__file__).with_name("cpp")
# The parts of -ffast-math that sums need; the whole of it would change how this process rounds denormals.
_FLAGS: Final = (
    "-std=c++17", "-O3", "-march=native", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math",
    "-fassociative-math", "-fno-signed-zeros", "-ffinite-math-only", "-Wno-psabi",
)  # fmt: skip
_COMPILE_S: Final = 120
# What is left of a compilation that was killed goes with the next, if it is as old as this.
_LEFT_S: Final = 3600
# A compiler starts further programs. They all die when standard input ends, which it does with this process: killed
# while it compiles it would leave them running, each with a processor to itself.
_WATCHED: Final = 'exec 3<&0 </dev/null; (read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 & exec 3<&-; "$@"'


def built(folder: Path | None = None, compiler: str = COMPILER) -> Path:
    """The library in ``folder``, by default beside this package's bytecode, or in the user's cache where nobody may
    write there. Raises OSError (no compiler, no room), SubprocessError (it fails or hangs)."""
    # A library for another processor would end this process with an illegal instruction.
    sources = [source.read_bytes() for source in sorted(SOURCES.glob("*.[ch]*"))]
    made_of = repr((_FLAGS, compiler, torch.__version__, _processor(), sources)).encode()
    name = f"kernels-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    places = [folder] if folder else [_BESIDE, _in_the_cache()]
    for place in places:
        if (place / name).exists():
            return place / name
    if shutil.which(compiler) is None:
        raise FileNotFoundError(compiler)
    folder = next((place for place in places if _can_be_written(place)), places[-1])
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("building-*"):
        if time.time() - left.stat().st_mtime > _LEFT_S:
            shutil.rmtree(left, ignore_errors=True)
    logger().info("正在编译 CPU 算子，只有第一次要", folder=str(folder))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-", ignore_cleanup_errors=True) as scratch:
        linked = Path(scratch, "linked.so")
        _run([compiler, *_FLAGS, "-shared", str(SOURCES / "kernels.cpp"), "-o", str(linked)])
        os.replace(linked, folder / name)
    size_kb = (folder / name).stat().st_size // 1024
    logger().info("CPU 算子编译好了", kb=size_kb, seconds=round(time.monotonic() - began, 1))
    return folder / name


def _in_the_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "qqvl")


def _can_be_written(folder: Path) -> bool:
    return os.access(next(place for place in (folder, *folder.parents) if place.exists()), os.W_OK)


def _run(command: list[str]) -> None:
    """Raises SubprocessError: it failed, or took too long."""
    watched, ours = os.pipe()
    try:
        subprocess.run(
            ["/bin/sh", "-c", _WATCHED, "sh", *command],
            stdin=watched, check=True, capture_output=True, timeout=_COMPILE_S, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(watched)


def _processor() -> str:
    """What -march=native looks at, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
