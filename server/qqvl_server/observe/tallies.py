"""Histograms for the hot path: filled by one thread without a lock, read by whoever renders the metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class _Tally:
    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.sum = 0.0


class Tallies(Collector):
    """One histogram for each value of ``label``, all of which are there from the start.

    ``add`` is called by one thread only; prometheus_client's own histogram takes a lock for each value, and takes
    them one at a time. A reader copies the counts at once, and makes the total of them, so that a bucket never holds
    more than all.
    """

    def __init__(self, name: str, text: str, label: str, values: Iterable[str], buckets: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._buckets = tuple(buckets)
        self._tallies = {value: _Tally(len(self._buckets)) for value in values}

    def add(self, value: str, amount: float, times: int = 1) -> None:
        """``amount`` was seen ``times``."""
        tally = self._tallies[value]
        tally.counts[bisect_left(self._buckets, amount)] += times
        tally.sum += amount * times

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        bounds = [*(str(float(bound)) for bound in self._buckets), "+Inf"]
        for value, tally in self._tallies.items():
            total, counts = tally.sum, tuple(tally.counts)
            family.add_metric([value], list(zip(bounds, accumulate(counts), strict=True)), total)
        yield family
