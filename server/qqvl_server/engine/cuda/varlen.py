"""Attention that reads the paged cache where it lies, by the kernels that CUDA has for it.

Which of them a machine has, and for blocks of which size, is found by trying: a kernel is trusted once it has given
what SDPA gives. Where none is, ``gathered.py`` copies the blocks together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import torch

from qqvl_server.engine.cache.device import send
from qqvl_server.engine.cache.gathered import by_sdpa
from qqvl_server.engine.cache.kv_cache import KVCache, KVShape
from qqvl_server.engine.steps.batch import ScheduledChunk

# Small blocks share more of a prefix; flash-attention 2 takes multiples of 256 only.
BLOCK_SIZES: Final = (16, 256)


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


def lay_out(chunks: Sequence[ScheduledChunk], cache: KVCache, kernel: VarlenKernel) -> VarlenRows:
    """``chunks`` in the order of their packed rows."""
    spans = [(chunk.request.blocks, chunk.start, chunk.count) for chunk in chunks]
    return VarlenRows(varlen_metadata(spans, cache.block_size, cache.device), kernel)


def varlen_metadata(
    spans: Sequence[tuple[Sequence[int], int, int]], block_size: int, device: torch.device | str
) -> VarlenMetadata:
    """``spans`` are each request's blocks, the position of its first row and how many rows it has."""
    ends = [start + count for _, start, count in spans]
    width = -(-max(ends) // block_size)
    held = [list(blocks[: -(-end // block_size)]) for (blocks, _, _), end in zip(spans, ends, strict=True)]

    def tensor(numbers: Any) -> torch.Tensor:
        return send(numbers, torch.device(device), torch.int32)

    return VarlenMetadata(
        starts=tensor([0, *accumulate(count for _, _, count in spans)]),
        lengths=tensor(ends),
        key_starts=tensor([0, *accumulate(ends)]),
        table=tensor([blocks + [0] * (width - len(blocks)) for blocks in held]),
        most_rows=max(count for _, _, count in spans),
        longest=max(ends),
    )


def _torch_kernel(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: VarlenMetadata, scaling: float
) -> torch.Tensor:
    """torch >= 2.13."""
    from torch.nn.attention.varlen import varlen_attn

    found = varlen_attn(
        query, keys, values, rows.starts, None, rows.most_rows, rows.longest, scale=scaling, window_size=(-1, 0),
        enable_gqa=True, seqused_k=rows.lengths, block_table=rows.table,
    )  # fmt: skip
    assert isinstance(found, torch.Tensor)
    return found


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


KERNELS: Final[tuple[VarlenKernel, ...]] = (_torch_kernel, _flash_kernel)


def find(
    device: torch.device, dtype: torch.dtype, shape: KVShape, heads: int, kernels: Sequence[VarlenKernel] = KERNELS
) -> tuple[VarlenKernel, int] | None:
    """A kernel and the block size it takes; None where the blocks must be copied together."""
    if device.type != "cuda":
        return None
    for size in BLOCK_SIZES:
        for kernel in kernels:
            if is_right(kernel, size, device, dtype, shape, heads):
                return kernel, size
    return None


def is_right(
    kernel: VarlenKernel, size: int, device: torch.device, dtype: torch.dtype, shape: KVShape, heads: int
) -> bool:
    """Whether ``kernel`` gives what SDPA gives, for a token after a prefix, a chunk after one, and a fresh prompt."""
    spans = [([3, 1], size + 4, 1), ([4, 2], size - 2, 5), ([5], 0, 3)]
    rows = varlen_metadata(spans, size, device)
    dice = torch.Generator(device).manual_seed(0)
    pool = (6, size, shape.kv_heads, shape.head_dim)
    keys, values = (torch.randn(pool, device=device, generator=dice).to(dtype) for _ in range(2))
    query = torch.randn(9, heads, shape.head_dim, device=device, generator=dice).to(dtype)
    try:
        found = kernel(query, keys, values, rows, shape.head_dim**-0.5).float()
        expected = torch.cat([
            by_sdpa(query[row : row + count], keys[blocks], values[blocks], start)
            for row, (blocks, start, count) in zip((0, 1, 6), spans, strict=True)
        ])  # fmt: skip
        return bool(torch.allclose(found, expected, atol=0.05))
    except (ImportError, AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError):
        # What kernels and their wrappers raise for a device, type or block size that they do not take.
        return False
