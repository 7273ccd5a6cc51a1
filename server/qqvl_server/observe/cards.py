"""NVIDIA cards as their driver sees them (NVML): memory in use, by us and by all, and how busy they are. Blocking.

The driver's library and not torch is asked: it needs no context of CUDA, answers in well under a millisecond, and also
knows what other programs have.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, Final

_MB: Final = 2**20


def _driver() -> Any:
    return importlib.import_module("pynvml")


class Cards:
    """``read`` gives nothing where there is no card, no driver, or a card that does not tell (shared memory).
    ``driver`` gives NVML's functions by their names."""

    def __init__(self, driver: Callable[[], Any] = _driver) -> None:
        self._driver = driver
        self._nvml: Any = None
        self._handles: list[Any] = []
        self._is_open = False

    def read(self) -> list[dict[str, Any]]:
        """A card each: ``gpu``, the driver's number of it, ``name``, ``total_mb``, ``used_mb`` by all, ``own_mb`` by
        this process (None where the driver cannot tell, as in a container with process ids of its own), ``busy`` 0 to
        1 over the driver's last instants.
        """
        if not self._is_open:
            self._is_open = True
            self._open()
        told = (self._told(number, handle) for number, handle in enumerate(self._handles))
        return [card for card in told if card is not None]

    def _open(self) -> None:
        try:
            nvml = self._driver()
            nvml.nvmlInit()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            self._nvml = nvml
        except Exception:
            # The edge of a driver: without figures of cards the state is told all the same. NVML's errors are classes
            # that it makes while it runs, and there may be no such package.
            self._handles = []

    def _told(self, number: int, handle: Any) -> dict[str, Any] | None:
        nvml = self._nvml
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            return {
                "gpu": number,
                "name": str(nvml.nvmlDeviceGetName(handle)),
                "total_mb": int(memory.total) // _MB,
                "used_mb": int(memory.used) // _MB,
                "own_mb": self._own_mb(handle),
                "busy": self._busy(handle),
            }
        except nvml.NVMLError:
            return None

    def _own_mb(self, handle: Any) -> int | None:
        nvml = self._nvml
        try:
            mine = [one for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if one.pid == os.getpid()]
        except nvml.NVMLError:
            return None
        used = [one.usedGpuMemory for one in mine if one.usedGpuMemory is not None]
        return sum(used) // _MB if used else None

    def _busy(self, handle: Any) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        except self._nvml.NVMLError:
            return None
