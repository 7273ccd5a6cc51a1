"""How many threads a CPU's matrix kernels get: no more than the machine really gives this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import psutil
import torch

# A few million parameters gain nothing from a second thread, whose spinning starves everything else.
TINY_BYTES: Final = 100_000_000
# Below this many cores their second hardware threads still help to reach the memory's speed.
_MANY_CORES: Final = 4
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def set_threads(weight_bytes: int) -> None:
    """Leaves torch's own choice alone where the operator has made one (``OMP_NUM_THREADS``)."""
    if 0 < weight_bytes < TINY_BYTES:
        torch.set_num_threads(1)
    elif not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(sensible(_processors(), psutil.cpu_count(logical=False), _quota()))


def sensible(processors: int, cores: int | None, quota: str) -> int:
    """Args:
    processors: those this process may run on.
    cores: physical ones of the whole machine, where known.
    quota: a container's share as ``cpu.max`` writes it (cgroup v2): microseconds per period, or ``max``.
    """
    threads = processors
    if cores is not None and _MANY_CORES <= cores < threads:
        threads = cores
    share, _, period = quota.partition(" ")
    if share.isdecimal() and period.strip().isdecimal():
        threads = min(threads, int(share) // int(period))
    return max(threads, 1)


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        # Not on macOS.
        return os.cpu_count() or 1


def _quota() -> str:
    try:
        return _QUOTA.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
