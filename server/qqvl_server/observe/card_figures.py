"""What ``cards.py`` reads, as metrics. Nothing where there is no card or no driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qqvl_server.observe.cards import Cards

_MB = 2**20


class CardFigures(Collector):
    """All cards of this machine, by NVML's numbers, which are those of ``nvidia-smi``.

    Whoever collects waits for the driver, which takes milliseconds, or as long as a lost card takes to be noticed:
    never on an event loop.
    """

    def __init__(self, cards: Cards) -> None:
        self._cards = cards

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("qqvl_gpu_memory_used_bytes", "显卡用掉的显存，所有程序合起来", labels=["gpu", "name"])
        total = GaugeMetricFamily("qqvl_gpu_memory_total_bytes", "显卡的显存", labels=["gpu", "name"])
        busy = GaugeMetricFamily(
            "qqvl_gpu_utilisation_ratio", "显卡有多少时间在算，0 到 1，所有程序合起来", labels=["gpu", "name"]
        )
        for card in self._cards.read():
            labels = [str(card["gpu"]), card["name"]]
            used.add_metric(labels, card["used_mb"] * _MB)
            total.add_metric(labels, card["total_mb"] * _MB)
            if card["busy"] is not None:
                busy.add_metric(labels, card["busy"])
        return [family for family in (used, total, busy) if family.samples]

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that the driver is not asked before somebody wants to know."""
        return iter(())
