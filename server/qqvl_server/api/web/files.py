"""The page's built files: read once as long as they stay the same, packed once. Knows files; no routes."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# What a build may name its files: nothing that could leave the folder.
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
# The system's own table may be wrong or empty, and browsers run no script of another type.
_TYPES: Final = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml", ".json": "application/json", ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2", ".woff": "font/woff", ".ttf": "font/ttf", ".png": "image/png", ".txt": "text/plain",
}  # fmt: skip
_PACKED: Final = frozenset({".html", ".js", ".css", ".svg", ".json", ".webmanifest", ".ttf", ".txt"})
_LEAST_PACKED: Final = 1000


@dataclass(frozen=True, slots=True)
class File:
    """``packed`` is its gzip, where that is worth it; ``tag`` tells two contents apart."""

    data: bytes
    packed: bytes | None
    kind: str
    tag: str


class Files:
    """Blocking: reads from ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[int, File]] = {}

    def get(self, *path: str) -> File | None:
        """None where there is no such file."""
        if not all(_NAME.fullmatch(name) for name in path):
            return None
        file = self._folder.joinpath(*path)
        try:
            stamp = file.stat().st_mtime_ns
            known = self._read.get(str(file))
            if known is None or known[0] != stamp:
                known = self._read[str(file)] = (stamp, _file(file.read_bytes(), file.suffix))
        except OSError:
            return None
        return known[1]


def _file(data: bytes, suffix: str) -> File:
    packs = suffix in _PACKED and len(data) > _LEAST_PACKED
    kind = _TYPES.get(suffix) or mimetypes.guess_type(f"x{suffix}")[0] or "application/octet-stream"
    packed = gzip.compress(data, mtime=0) if packs else None
    return File(data, packed, kind, hashlib.sha256(data).hexdigest()[:20])
