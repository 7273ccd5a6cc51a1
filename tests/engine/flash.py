"""flash-attention 2 as torch 2.13.0's ``varlen_attn`` calls it, on a CPU: its true contract, its faults included.

Read in the binary of 2.13.0+cu130 (``_flash_attention_forward``, ``mha_varlen_fwd``, ``set_params_splitkv``) and in
pytorch#194167: a call that is not swapped, but split, puts together the first request's rows only. What is not written
is NaN here; on a card it is whatever lay in that memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch


def num_splits_heuristic(tiles: int, processors: int, blocks: int, most: int = 128) -> int:
    """flash_api.cpp's: as few splits of the keys as keep 85 % of the best occupancy.

    Args:
        tiles: batch · heads · blocks of rows; ``blocks`` are those of keys.
    """
    if tiles >= 0.8 * processors:
        return 1
    most = min(most, processors, blocks)

    def eligible(splits: int) -> bool:
        return splits == 1 or -(-blocks // splits) != -(-blocks // (splits - 1))

    def efficiency(splits: int) -> float:
        waves = tiles * splits / processors
        return waves / math.ceil(waves)

    found = {splits: efficiency(splits) for splits in range(1, most + 1) if eligible(splits)}
    return next(splits for splits, value in found.items() if value >= 0.85 * max(found.values()))


@dataclass
class FakeVarlenAttention:
    """``torch.nn.attention.varlen.varlen_attn`` on a card of ``processors`` multiprocessors."""

    processors: int

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor | None,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
        seqused_k: torch.Tensor | None = None,
        block_table: torch.Tensor | None = None,
        num_splits: int | None = None,
        **_others: Any,
    ) -> torch.Tensor:
        if cu_seq_k is None:
            raise RuntimeError(
                "cumulative_sequence_length_q and cumulative_sequence_length_k must be both set or both not set"
            )
        assert seqused_k is not None
        assert scale is not None
        assert block_table is not None
        assert enable_gqa
        assert {t.dtype for t in (cu_seq_q, cu_seq_k, seqused_k, block_table)} == {torch.int32}
        if key.shape[1] % 256:
            raise RuntimeError("Paged KV cache block size must be divisible by 256")
        heads, kv_heads = query.shape[1], key.shape[2]
        batch, group = len(cu_seq_q) - 1, heads // kv_heads
        swapped = max_q == 1 and group > 1 and window_size == (-1, -1)
        tiles = batch * (kv_heads if swapped else heads) * -(-(group if swapped else max_q) // 64)
        splits = num_splits or num_splits_heuristic(tiles, self.processors * 2, -(-max_k // 128))
        out = torch.full_like(query, torch.nan)
        for n in range(batch):
            if n and splits > 1 and not swapped:
                continue
            rows = slice(int(cu_seq_q[n]), int(cu_seq_q[n + 1]))
            length, count = int(seqused_k[n]), rows.stop - rows.start
            assert count <= max_q
            assert length <= max_k
            used = block_table[n, : -(-length // key.shape[1])].long()
            keys, values = (t[used].flatten(0, 1)[:length].repeat_interleave(group, 1) for t in (key, value))
            weights = torch.einsum("qhd,khd->hqk", query[rows], keys) * scale
            if window_size == (-1, 0):
                seen = torch.ones(count, length, dtype=torch.bool).tril(length - count)
                weights = weights.masked_fill(~seen, -torch.inf)
            out[rows] = torch.einsum("hqk,khd->qhd", weights.softmax(-1), values)
        return out
