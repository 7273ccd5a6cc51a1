"""NVIDIA's own figures of its cards: memory and how busy they are. Nothing where there is no card or no driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Cards(Collector):
    """All cards of this machine, by NVML's numbers, which are those of ``nvidia-smi``.

    ``library`` is ``pynvml``: https://docs.nvidia.com/deploy/nvml-api/. Whoever collects waits for the driver, which
    takes milliseconds, or as long as a lost card takes to be noticed: never on an event loop.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._handles: list[Any] | None = None

    @classmethod
    def here(cls) -> Cards | None:
        """None where NVIDIA's library for Python is missing: that costs these figures, and no server."""
        try:
            import pynvml
        except ImportError:
            return None
        return cls(pynvml)

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("qqvl_gpu_memory_used_bytes", "显卡用掉的显存，所有程序合起来", labels=["gpu", "name"])
        total = GaugeMetricFamily("qqvl_gpu_memory_total_bytes", "显卡的显存", labels=["gpu", "name"])
        busy = GaugeMetricFamily(
            "qqvl_gpu_utilisation_ratio", "显卡有多少时间在算，0 到 1，所有程序合起来", labels=["gpu", "name"]
        )
        for number, handle in enumerate(self._found()):
            labels = [str(number), self._asked(self._library.nvmlDeviceGetName, handle) or ""]
            memory = self._asked(self._library.nvmlDeviceGetMemoryInfo, handle)
            if memory is not None:
                used.add_metric(labels, memory.used)
                total.add_metric(labels, memory.total)
            rates = self._asked(self._library.nvmlDeviceGetUtilizationRates, handle)
            if rates is not None:
                busy.add_metric(labels, rates.gpu / 100)
        for family in (used, total, busy):
            if family.samples:
                yield family

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that the driver is not asked before somebody wants to know."""
        return iter(())

    def _found(self) -> list[Any]:
        if self._handles is None:
            try:
                self._library.nvmlInit()
                count = self._library.nvmlDeviceGetCount()
                self._handles = [self._library.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
            except self._library.NVMLError:
                self._handles = []
        return self._handles

    def _asked(self, what: Any, handle: Any) -> Any:
        """None where this card does not tell: parts of a card (MIG) have no utilisation."""
        try:
            return what(handle)
        except self._library.NVMLError:
            return None
