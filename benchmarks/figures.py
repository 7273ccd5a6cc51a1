"""Measured rows as one JSON line and one readable table, with the machine they were measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between neighbours; nan of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    return percentile(values, 50)


def machine() -> dict[str, Any]:
    """What the figures depend on; no name of the machine."""
    versions = {}
    for name in ("torch", "transformers"):
        versions[name] = importlib.metadata.version(name)
    return {
        "cpu": platform.machine(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(),
        **versions, "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def report(name: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Print the table, then everything as one line of JSON."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[_shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns))]
    print()
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print(json.dumps({"benchmark": name, "machine": machine(), **_plain(more), "rows": [_plain(r) for r in rows]}))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}
