"""Giving back the memory of weights that were read where they lie in their file. Knows addresses; no torch, no model.

A mapped page counts as this process's memory from when it is first read. Once a weight has been copied into another
layout nobody reads its pages again, but they stay for as long as anything else of the file is in use.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_TABLE: Final = Path("/proc/self/smaps")


class MappedFiles:
    """Where files stand in this process's memory, as of now, and nobody has written to the copy. Empty but on Linux."""

    def __init__(self) -> None:
        try:
            lines = _TABLE.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        self._ranges = list(_unwritten(lines))
        self._advise = ctypes.CDLL(None).madvise if self._ranges else None

    def forget(self, address: int, size: int) -> bool:
        """Give back the pages wholly inside ``size`` bytes from ``address``; true if they were a file's.

        Whoever reads them again gets the same bytes from the file. Anything but a file's pages is left alone, because
        it would come back as zeros.
        """
        if self._advise is None or not any(start <= address and address + size <= end for start, end in self._ranges):
            return False
        first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._advise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
        return True


def _unwritten(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Start and end of each file's mapping without a page of its own (proc_pid_smaps(5): ``Anonymous``)."""
    start = end = inode = 0
    for line in lines:
        name, *rest = line.split()
        if not name.endswith(":"):
            start, end = (int(edge, 16) for edge in name.split("-"))
            inode = int(rest[3])
        elif name == "Anonymous:" and inode and rest[0] == "0":
            yield start, end
