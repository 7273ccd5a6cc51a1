"""Attention that reads the paged cache where it lies, by the kernels that CUDA has for it.

Which of them a machine has, and for blocks of which size, is found by trying (``trial.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy
import torch

from qqvl_server.engine.cache.device import moved_together
from qqvl_server.engine.cache.kv_cache import KVCache
from qqvl_server.engine.steps.batch import ScheduledChunk


@dataclass(frozen=True, slots=True)
class VarlenMetadata:
    """One packed step of B requests, as int32 on the device.

    Rows ``starts[i]`` to ``starts[i + 1]`` are request i's last tokens, at most ``most_rows``. ``lengths`` (B,) count
    its tokens in the cache, those rows included, at most ``longest``; ``key_starts`` (B + 1,) are their running sum.
    ``table`` (B, widest) names its blocks, padded with 0.
    """

    starts: torch.Tensor
    lengths: torch.Tensor
    key_starts: torch.Tensor
    table: torch.Tensor
    most_rows: int
    longest: int


# (N, heads, head_dim), keys and values (blocks, block_size, kv_heads, head_dim), rows, scaling → (N, heads, head_dim)
VarlenKernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, VarlenMetadata, float], torch.Tensor]


@dataclass(frozen=True, slots=True)
class VarlenRows:
    """The packed rows of a step, read by ``kernel``."""

    rows: VarlenMetadata
    kernel: VarlenKernel

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cache: KVCache, layer: int, scaling: float
    ) -> torch.Tensor:
        """As ``paged_attention.AttentionMetadata`` says."""
        rows = query[0].transpose(0, 1).contiguous()
        return self.kernel(rows, cache.keys[layer], cache.values[layer], self.rows, scaling)


def lay_out(
    chunks: Sequence[ScheduledChunk], cache: KVCache, kernel: VarlenKernel, device: torch.device | None = None
) -> VarlenRows:
    """``chunks`` in the order of their packed rows; for the layers on ``device``, else on the cache's first."""
    spans = [(chunk.request.blocks, chunk.start, chunk.count) for chunk in chunks]
    return VarlenRows(varlen_metadata(spans, cache.block_size, device or cache.device), kernel)


def varlen_metadata(
    spans: Sequence[tuple[Sequence[int], int, int]], block_size: int, device: torch.device | str
) -> VarlenMetadata:
    """``spans`` are each request's blocks, the position of its first row and how many rows it has."""
    ends = [start + count for _, start, count in spans]
    width = -(-max(ends) // block_size)
    held = [list(blocks[: -(-end // block_size)]) for (blocks, _, _), end in zip(spans, ends, strict=True)]

    counts = [count for _, _, count in spans]
    table = numpy.zeros((len(held), width), numpy.int32)
    for row, blocks in zip(table, held, strict=True):
        row[: len(blocks)] = blocks
    numbers = [0, *accumulate(counts)], ends, [0, *accumulate(ends)]
    arrays = [*(numpy.array(n, numpy.int32) for n in numbers), table]
    starts, lengths, key_starts, on_device = moved_together(arrays, torch.device(device))
    return VarlenMetadata(
        starts=starts,
        lengths=lengths,
        key_starts=key_starts,
        table=on_device,
        most_rows=max(counts),
        longest=max(ends),
    )


@dataclass(frozen=True, slots=True)
class NamedKernel:
    """``attend`` for blocks of one of ``block_sizes``, the best first. ``name`` is what the log calls it."""

    name: str
    attend: VarlenKernel
    block_sizes: tuple[int, ...]


class TorchVarlen:
    """torch's ``varlen_attn`` (torch >= 2.13), which is flash-attention 2, read from the cache's blocks.

    What it takes, as read in the binary of 2.13.0+cu130 (``_flash_attention_forward``, ``mha_varlen_fwd``):

    - both tables of sequence starts or none;
    - blocks of multiples of 256;
    - for one row each and no window at all, queries that share a key head are swapped into rows, and the keys of a
      request are split over processors right; with a window they are split as well, but only the first request's
      rows are put together again (pytorch#194167), so that splitting is forbidden there.
    """

    def __init__(self, attend: Callable[..., Any]) -> None:
        self._attend = attend

    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: VarlenMetadata, scaling: float
    ) -> torch.Tensor:
        """As ``VarlenKernel``."""
        # Of one row each, all keys are seen: causal without a window.
        single = rows.most_rows == 1
        found = self._attend(
            query, keys, values, rows.starts, rows.key_starts, rows.most_rows, rows.longest, scale=scaling,
            window_size=(-1, -1) if single else (-1, 0), enable_gqa=True, seqused_k=rows.lengths,
            block_table=rows.table, num_splits=None if single else 1,
        )  # fmt: skip
        assert isinstance(found, torch.Tensor)
        return found


def _torch_kernel(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: VarlenMetadata, scaling: float
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    return TorchVarlen(varlen_attn)(query, keys, values, rows, scaling)


def _flash_kernel(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: VarlenMetadata, scaling: float
) -> torch.Tensor:
    """flash-attn 2, where installed."""
    from flash_attn import flash_attn_varlen_func

    found: torch.Tensor = flash_attn_varlen_func(
        query, keys, values, rows.starts, rows.key_starts, rows.most_rows, rows.longest, softmax_scale=scaling,
        causal=True, block_table=rows.table,
    )  # fmt: skip
    return found


# flash-attention 2 takes multiples of 256 only; small blocks share more of a prefix.
LIBRARIES: Final = (
    NamedKernel("torch varlen_attn", _torch_kernel, (256,)),
    NamedKernel("flash-attn", _flash_kernel, (16, 256)),
)
