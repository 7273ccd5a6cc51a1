"""How much of a file this process holds in memory through its mappings (Linux)."""

from __future__ import annotations

from pathlib import Path


def resident(file: Path) -> int:
    """Bytes, over all of the file's mappings."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            inside = line.endswith(str(file.resolve()))
        elif name == "Rss:" and inside:
            total += int(rest[0]) << 10
    return total
