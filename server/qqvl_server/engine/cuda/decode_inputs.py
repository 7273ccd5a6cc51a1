"""What a recorded decode step reads: tensors at fixed places, filled anew for each step.

They are filled from pinned memory, so that the host goes on while the device is still busy with the step before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy
import torch

from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.cache.paged_attention import PagedBatch
from qqvl_server.engine.cuda.varlen import VarlenKernel, VarlenMetadata, VarlenRows


class Decode(NamedTuple):
    """One request's next step: ``length`` counts its tokens, this one included. ``blocks`` is its own list."""

    token: int
    position: int
    blocks: list[int]
    length: int


def slot(row: Decode, block_size: int) -> int:
    """Where in the cache the row's key and value go."""
    place = row.length - 1
    return row.blocks[place // block_size] * block_size + place % block_size


class _Layout(NamedTuple):
    """Views of one piece of memory, the tables of blocks last, so that a small batch is its beginning."""

    whole: torch.Tensor
    longs: torch.Tensor
    ints: torch.Tensor
    table: torch.Tensor

    @classmethod
    def of(cls, whole: torch.Tensor, most: int, width: int) -> _Layout:
        """``whole`` as ``size`` says, uint8."""
        longs, ints = 5 * most * 8, cls.size(most, 0)
        return cls(
            whole,
            whole[:longs].view(torch.int64).view(5, most),
            whole[longs:ints].view(torch.int32).view(2, most + 1),
            whole[ints:].view(torch.int32).view(most, width),
        )

    @staticmethod
    def size(most: int, width: int) -> int:
        """Bytes of ``most`` rows of ``width`` blocks."""
        return 5 * most * 8 + 2 * (most + 1) * 4 + most * width * 4


class _Staging:
    """A step's inputs on their way to the device. Block tables are kept and only added to: they are long."""

    def __init__(self, most: int, width: int, cache: KVCache) -> None:
        pinned = cache.device.type == "cuda"
        whole = torch.zeros(_Layout.size(most, width), dtype=torch.uint8, pin_memory=pinned)
        self.whole, self.longs, self.ints, self.table = _Layout.of(whole, most, width)
        self.table.fill_(cache.scratch)
        self._size, self._scratch = cache.block_size, cache.scratch
        self._held: list[list[int]] = []
        self._known: list[int] = []
        self.sent = torch.cuda.Event() if pinned else None

    def fill(self, rows: Sequence[Decode]) -> None:
        """Rows after the last are one token of nobody's."""
        if self.sent is not None:
            self.sent.synchronize()
        count, longs, ints = len(rows), self.longs.numpy(), self.ints.numpy()
        longs[0, :count] = [row.token for row in rows]
        longs[1:4, :count] = [row.position for row in rows]
        longs[4, :count] = [slot(row, self._size) for row in rows]
        longs[:4, count:] = 0
        longs[4, count:] = self._scratch * self._size
        ints[0, :count] = [row.length for row in rows]
        ints[0, count:] = 1
        numpy.cumsum(ints[0, :-1], dtype=numpy.int32, out=ints[1, 1:])
        self._tabulate(rows)

    def _tabulate(self, rows: Sequence[Decode]) -> None:
        table = self.table.numpy()
        for n, row in enumerate(rows):
            # The list itself: blocks are only ever added to it, and a request put back gets another.
            known = self._known[n] if n < len(self._held) and self._held[n] is row.blocks else 0
            table[n, known : len(row.blocks)] = row.blocks[known:]
        table[len(rows) : len(self._held), 0] = self._scratch
        self._held = [row.blocks for row in rows]
        self._known = [len(row.blocks) for row in rows]


class Inputs:
    """What recordings read, at fixed places on the device, for up to ``most`` rows of up to ``width`` blocks."""

    def __init__(self, most: int, width: int, cache: KVCache, kernel: VarlenKernel) -> None:
        # In turn, for one may still be on its way while the next step is prepared.
        self._staging = [_Staging(most, width, cache) for _ in range(2)]
        whole = self._staging[0].whole.to(cache.device, copy=True)
        self._whole, self._longs, self._ints, self._table = _Layout.of(whole, most, width)
        self._most, self._width = most, width
        self._starts = torch.arange(most + 1, dtype=torch.int32, device=cache.device)
        self._longest = width * cache.block_size
        self._cache, self._kernel = cache, kernel

    def fill(self, rows: Sequence[Decode], size: int, ids: torch.Tensor | None = None) -> None:
        """Have the first ``size`` rows hold ``rows``; the host does not wait for the device.

        ``ids`` (rows,), where given, are their tokens, which the host does not know.
        """
        staging = self._staging[0]
        self._staging.reverse()
        staging.fill(rows)
        # Without the tables of rows that are not in the batch.
        told = len(self._whole) - (self._most - size) * self._width * 4
        self._whole[:told].copy_(staging.whole[:told], non_blocking=True)
        if ids is not None:
            self._longs[0, : len(rows)] = ids
        if staging.sent is not None:
            staging.sent.record(torch.cuda.current_stream(self._cache.device))

    def first(self, size: int) -> tuple[torch.Tensor, torch.Tensor, PagedBatch]:
        """What a forward over the first ``size`` rows takes."""
        rows = VarlenMetadata(
            starts=self._starts[: size + 1], lengths=self._ints[0, :size], key_starts=self._ints[1, : size + 1],
            table=self._table[:size], most_rows=1, longest=self._longest,
        )  # fmt: skip
        paged = PagedBatch(self._cache, self._longs[4, :size], VarlenRows(rows, self._kernel))
        return self._longs[:1, :size], self._longs[1:4, :size].unsqueeze(1), paged
